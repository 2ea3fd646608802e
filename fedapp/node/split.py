"""A node's half of split learning: heads, pictures and renderings stay here.

State is one file per scene and exchange (:class:`fedapp.store.client_state.ClientState`), and a
list
of what was answered. The same request again is computed again from the state before it and gets the
same bits; another request for an exchange that was answered is refused, or a server could have two
gradients under one noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedapp.config.designs import DESIGNS
from fedapp.node.device import Device
from fedapp.node.holder import HolderNode
from fedapp.node.looks import told_once
from fedapp.node.scene_place import ScenePlace, view_rays
from fedapp.node.sealing import as_bytes, masked_batches, open_features, peer_of
from privacy.secagg.messages import RefusalError
from strategies.flower.exchanges import (
    RECORDS,
    Order,
    origin_of,
    pack_geometry,
    pack_scaled,
    pack_share,
    unpack_scaled,
    unpack_share,
)
from strategies.flower.records import record
from strategies.flower.wire import to_array
from strategies.flower.wire16 import narrowed, widen, widened
from tasks.split_nerf.task import scores

SCORES = {"psnr": 1, "ssim": 2}  # digits that are told
CHUNK = 4096  # rays rendered at a time where nothing crosses


class SplitNode:
    """Answers to the legs of exchanges (a :class:`strategies.flower.workflow.NodeHalf`)."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.experiment = device.experiment
        torch.set_num_threads(self.experiment.runtime.threads)

    def leg(self, name: str, content: RecordDict) -> RecordDict:
        """``scenes``, ``exchange``, ``look``, ``alone``; ``hold`` and ``hold-look`` of a peer."""
        if name == "scenes":
            return self._scenes(content)
        if strange := sorted(set(content) - RECORDS.get(name, frozenset())):
            raise RefusalError(f"leg {name!r} has no record {strange[0]!r}")
        order = Order.unpacked(content)
        self._refuse_order(order)
        if (order.view == -1) != (name in ("exchange", "alone", "hold")) or (
            order.exchange < 1 and order.view == -1
        ):
            raise RefusalError(f"leg {name!r} of view {order.view}, exchange {order.exchange}")
        legs: dict[str, Callable[[Order, RecordDict], RecordDict]] = {
            "exchange": self._exchange,
            "look": self._look,
            "alone": self._alone,
            "hold": lambda o, c: HolderNode(self.device).hold(o, c),
            "hold-look": lambda o, c: HolderNode(self.device).look(o, c),
        }
        if name not in legs:
            raise RefusalError(f"no leg {name!r}")
        if name not in ("hold", "hold-look"):
            self._refuse_client(order.client)
        return legs[name](order, content)

    # ------------------------------------------------------------------ what is asked
    def _refuse_order(self, order: Order) -> None:
        """Raise :class:`RefusalError` for an order that is not one of this node's configuration."""
        experiment = self.experiment
        if order.config != experiment.digest:
            raise RefusalError("the server's configuration is not this node's")
        if order.method not in experiment.method_list or order.seed not in experiment.seed_list:
            raise RefusalError(f"{order.method!r} at seed {order.seed} is not what is trained")
        self._refuse_designs([order.method])
        if not 0 <= order.client < experiment.clients.total:
            raise RefusalError(f"client {order.client} of {experiment.clients.total}")
        if not 0 <= order.exchange <= experiment.rounds * experiment.split.exchanges:
            raise RefusalError(f"exchange {order.exchange} is not one of this run")
        if not 0 <= order.durable <= order.exchange:
            raise RefusalError("the server cannot have what was not made")
        if order.state_dir and not self.device.simulated:
            raise RefusalError("a folder on this node is not the server's to say")

    def _refuse_designs(self, methods: Sequence[str]) -> None:
        """Raise for a design in which something of the pictures leaves that this node's owner has
        not agreed to: what left cannot be called back."""
        if self.device.simulated:
            return
        allowed = self.device.policy.designs
        for method in methods:
            if DESIGNS[method].crosses and method not in allowed:
                raise RefusalError(
                    f"design {method} is not among those this node takes part in: "
                    + (", ".join(allowed) or "none")
                )

    def _refuse_client(self, client: int) -> None:
        if self.device.hosts is not None and client not in self.device.hosts:
            raise RefusalError(f"the scene of client {client} is not here")

    def _scenes(self, content: RecordDict) -> RecordDict:
        """The public geometry of the scenes asked for, and this node's key for the run."""
        asked = record(content, "scenes", ConfigRecord)
        clients: Any = asked["clients"]
        run, offered = str(asked["run"]), str(asked["state-dir"])
        if asked["config"] != self.experiment.digest:
            raise RefusalError("the server's configuration is not this node's")
        self._refuse_designs(self.experiment.method_list)
        if not isinstance(clients, list) or not all(type(client) is int for client in clients):
            raise RefusalError("scenes are asked for by number")
        if offered and not self.device.simulated:
            raise RefusalError("a folder on this node is not the server's to say")
        reply = RecordDict()
        for client in clients:
            if not 0 <= client < self.experiment.clients.total:
                raise RefusalError(f"client {client} of {self.experiment.clients.total}")
            self._refuse_client(client)
            scene = self.device.pieces.task.client_data(client)
            reply[f"poses.{client}"], reply[f"facts.{client}"] = pack_geometry(scene.geometry)
        if any(DESIGNS[method].kind == "sealed" for method in self.experiment.method_list):
            advert = peer_of(self.device, run, offered).advert
            reply["peer"] = ConfigRecord(advert.packed())
        return reply

    # ------------------------------------------------------------------ exchanges
    def _exchange(self, order: Order, content: RecordDict) -> RecordDict:
        """K steps of a client's head on what the server's half sent."""
        place = ScenePlace(self.device, order)
        if place.design.kind == "alone":
            raise RefusalError(f"nothing crosses in {order.method}")
        request = place.begin(content)
        crossing = self._received(place, content)
        client, scaler = place.client, place.scaler
        if order.exchange > 1:
            state = place.store.read(order.client, order.exchange - 1)
            client.restore(state)
            if scaler:
                scaler.restore(state)
        reply = RecordDict()
        if place.design.kind == "sealed":
            gradients = torch.stack(list(place.train(crossing)))
            shares, box = masked_batches(place, gradients, content)
            reply["gradient"] = pack_share(shares)
            reply["seed"] = ArrayRecord({"box": to_array(as_bytes(box))})
        else:
            reply["gradient"] = pack_scaled(narrowed(place.train(crossing)))
        place.finish(client.tensors() | (scaler.tensors() if scaler else {}))
        reply["origin"] = origin_of(order, request)
        return reply

    def _received(self, place: ScenePlace, content: RecordDict) -> Iterable[Tensor]:
        """Features that crossed, ``[M, W]`` for each of K mini-batches."""
        shape = place.shape(self.experiment.split.batches)
        if place.design.kind == "sealed":
            own = unpack_share(content, "crossing", shape, torch.int32)
            return open_features(place, own, content, "hold")
        return widened(unpack_scaled(content, "crossing", shape))

    # ------------------------------------------------------------------ baselines
    def _alone(self, order: Order, content: RecordDict) -> RecordDict:
        """As many steps of a field that is not split as an exchange has."""
        place = ScenePlace(self.device, order)
        if place.design.kind != "alone":
            raise RefusalError(f"{order.method} is trained by exchanges")
        request = place.begin(content)
        whole = place.whole(order.exchange - 1)
        batches = self.experiment.split.batches
        first = (order.exchange - 1) * batches
        for step in range(first, first + batches):
            whole.step(place.scene.geometry, place.scene.colours, place.seed, step)
        place.finish(whole.server.tensors() | whole.client.tensors())
        return RecordDict({"origin": origin_of(order, request)})

    # ------------------------------------------------------------------ looking
    def _look(self, order: Order, content: RecordDict) -> RecordDict:
        """Render a view; what is told of it is what the configuration releases."""
        place = ScenePlace(self.device, order)
        geometry = place.scene.geometry
        rays = view_rays(self.device, geometry, order.view)
        request = place.begin_look(content)
        scored = order.view < len(geometry.poses) and self.experiment.split.metrics
        if scored and not self.device.simulated:
            told_once(self.device, order, request)
        shown, depth = self._rendered(place, rays, content)
        shape = (geometry.height, geometry.width)
        picture = shown.view(*shape, 3)
        reply = RecordDict()
        told: dict[str, float] = {}
        if scored:
            truth = place.scene.images[order.view]
            found = scores(picture[None], truth[None])
            told = {n: round(v, SCORES[n]) for n, v in found.items() if v is not None}
        reply["scores"] = ConfigRecord(told)  # type: ignore[arg-type]
        if self.device.simulated and self.experiment.report.pictures:
            shown_depth = depth.view(*shape)
            arrays = {"picture": to_array(picture), "depth": to_array(shown_depth)}
            if order.view < len(geometry.poses):
                arrays["truth"] = to_array(place.scene.images[order.view])
            reply["pictures"] = ArrayRecord(arrays)
        reply["origin"] = origin_of(order, request)
        return reply

    def _rendered(
        self, place: ScenePlace, rays: Tensor, content: RecordDict
    ) -> tuple[Tensor, Tensor]:
        order, geometry = place.order, place.scene.geometry
        if place.design.kind == "alone":
            whole = place.whole(order.exchange)
            parts = [whole.render(geometry, part) for part in rays.split(CHUNK)]
            return torch.cat([one for one, _ in parts]), torch.cat([other for _, other in parts])
        client = place.client
        if order.exchange:
            client.restore(place.store.read(order.client, order.exchange))
        samples = geometry.march_rays(rays, place.division.samples)
        shape = place.shape(1, len(rays))
        if place.design.kind == "sealed":
            own = unpack_share(content, "crossing", shape, torch.int32)
            crossing = open_features(place, own, content, "hold-look")[0]
        else:
            crossing = widen(unpack_scaled(content, "crossing", shape))[0]
        return client.render(samples, crossing, geometry.background)
