"""The server's half of one scene of one arm, and its side of the conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedapp.config.designs import DESIGNS, steps_of
from fedapp.running.street import Street
from privacy.node_secret import holder_of
from privacy.sealed import Holder, looked_at, positions
from privacy.secagg.messages import RefusalError
from strategies.flower.exchanges import (
    Order,
    pack_geometry,
    pack_scaled,
    pack_share,
    refuse_stale,
    request_of,
    unpack_scaled,
    unpack_share,
)
from strategies.flower.legs import Part, Talk
from strategies.flower.records import MALFORMED, bytes_of, content_of, record
from strategies.flower.roster import Node
from strategies.flower.wire import from_array, to_array
from strategies.flower.wire16 import narrow, narrowed, widened
from tasks.data.cameras import PixelRays
from tasks.errors import ReplyError
from tasks.split_nerf.grids import Grid
from tasks.split_nerf.halves import Places, ServerHalf
from tasks.split_nerf.scene import TOUR, Geometry, scene_seed

PAST = (ReplyError, RefusalError, *MALFORMED)


class ServedScene:
    """One scene as the server trains it.

    ``failure`` says why the scene did not come further this turn; ``made`` counts its exchanges,
    ``bytes_up`` and ``bytes_down`` what crossed for them, the peer's messages included.
    """

    def __init__(
        self, street: Street, method: str, seed: int, client: int, geometry: Geometry
    ) -> None:
        self.street = street
        self.method = method
        self.arm_seed = seed
        self.client = client
        self.geometry = geometry
        experiment = street.run.pieces.experiment
        self.settings = experiment.split
        self.design = DESIGNS[method]
        self.division = self.design.division(experiment.split, steps_of(experiment))
        self.seed = scene_seed(seed, client)
        self.half = ServerHalf(self.division, (seed, client))
        self.holder: Holder | None = None
        if self.design.kind == "sealed":
            assert isinstance(self.division.encoder, Grid), "sealed tables are grids"
            self.holder = Holder.first(self.division.encoder, self.half.table.params)
        self.exchange = 0
        self.box: ArrayRecord | None = None  # the seed of the peer's last share, sealed for it
        self.failure = ""
        self.scores: dict[str, float] = {}
        self.pictures: list[Tensor] = []
        self.tour: list[Tensor] = []
        self.begin_turn(0)

    def begin_turn(self, durable: int) -> None:
        self.durable = min(durable, self.exchange)
        self.failure = ""
        self.made = 0
        self.bytes_up = 0
        self.bytes_down = 0

    # ------------------------------------------------------------------ conversations
    def talk(self, goal: int) -> Talk:
        """Exchanges with the scene's node until ``goal`` of them were made."""
        try:
            while self.exchange < goal:
                if self.design.kind == "alone":
                    yield from self._train_alone()
                else:
                    yield from self._exchange()
                self.exchange += 1
                self.made += 1
        except PAST as error:
            self.failure = str(error)

    def _exchange(self) -> Talk:
        order = self._order(self.exchange + 1, -1)
        content: dict[str, Any] = {"order": order.packed()}
        batches = self._places(order.exchange)
        if self.holder is not None:
            content |= yield from self._ask_peer(order, "hold")
            shares = torch.stack([self.holder.embed(places.visits) for places in batches])
            content["crossing"] = pack_share(shares)
        else:
            sent = narrowed(self.half.embed(places) for places in batches)
            content["crossing"] = pack_scaled(sent)
        answer = yield from self._ask(self._home, "exchange", content, order)
        self._learn(batches, answer, order)

    def _learn(self, batches: list[Places], answer: RecordDict, order: Order) -> None:
        """Replay the mini-batches in order; nothing of this half changes if the answer is no
        good."""
        shape = (
            self.settings.batches,
            self.division.rays * self.division.samples,
            self.division.head.crossing,
        )
        if self.holder is not None:
            shares = unpack_share(answer, "gradient", shape, torch.int64)
            box = record(answer, "seed", ArrayRecord)
            if set(box) != {"box"}:
                raise ReplyError("no sealed seed for the peer")
            for places, share in zip(batches, shares, strict=True):
                self.holder.learn(places.visits, share)
            self.box = box
            return
        gradients = widened(unpack_scaled(answer, "gradient", shape))
        first = (order.exchange - 1) * self.settings.batches
        for k, (places, gradient) in enumerate(zip(batches, gradients, strict=True)):
            self.half.learn(places, gradient, first + k)

    def _train_alone(self) -> Talk:
        order = self._order(self.exchange + 1, -1)
        yield from self._ask(self._home, "alone", {"order": order.packed()}, order)

    def look(self, film: bool) -> Talk:
        """Renderings of the held-out views (and of the tour): scores, and in a simulation
        pictures."""
        self.scores, self.pictures, self.tour = {}, [], []
        count = len(self.geometry.poses)
        views = [*range(self.geometry.train, count), *(range(count, count + TOUR) if film else ())]
        found: dict[str, list[float]] = {}
        try:
            for view in views:
                answer = yield from self._look_at(view)
                for name, value in record(answer, "scores", ConfigRecord).items():
                    if name in ("psnr", "ssim") and isinstance(value, float):
                        found.setdefault(name, []).append(value)
                if "pictures" in answer:
                    self._keep(record(answer, "pictures", ArrayRecord), view < count)
        except PAST as error:
            self.failure = str(error)
            return
        judged = self.geometry.held_out
        self.scores = {n: sum(v) / judged for n, v in found.items() if len(v) == judged}

    def _look_at(self, view: int) -> Part[RecordDict]:
        order = self._order(self.exchange, view)
        content: dict[str, Any] = {"order": order.packed()}
        if self.design.crosses:
            poses, number = self.geometry.poses, view
            if view >= len(poses):
                poses = self.street.run.pieces.task.tour(self.geometry, TOUR)
                number = view - len(self.geometry.poses)
            geometry = self.geometry
            rays = PixelRays(poses, geometry.focal, geometry.height, geometry.width)[
                geometry.of_view(number)
            ]
            content |= yield from self._crossing_of(rays, order)
        answer = yield from self._ask(self._home, "look", content, order)
        return answer

    def _crossing_of(self, rays: Tensor, order: Order) -> Part[dict[str, Any]]:
        if self.holder is not None:
            content = yield from self._ask_peer(order, "hold-look")
            (places,) = looked_at(self.division, self.geometry, rays)
            content["crossing"] = pack_share(self.holder.embed(places.visits)[None])
            return content
        samples = self.geometry.march_rays(rays, self.division.samples)
        places = Places(samples, self.division.encoder.visit(samples.points))
        return {"crossing": pack_scaled(narrow(self.half.embed(places)[None]))}

    def _keep(self, arrays: ArrayRecord, judged: bool) -> None:
        """Pictures of a simulated node: truth, rendering and depth side by side; or one of the
        tour."""
        shown = from_array(arrays["picture"]).clone().clamp(0, 1).nan_to_num()
        if not judged:
            self.tour.append(shown)
            return
        depth = from_array(arrays["depth"]).clone()
        low, high = depth.quantile(0.05), depth.quantile(0.95)  # rays beside the box see nothing
        nearness = (1 - (depth - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
        grey = nearness[..., None].expand_as(shown)
        truth = from_array(arrays["truth"]).clone()
        self.pictures.append(torch.cat([truth, shown, grey.nan_to_num()], 1))

    # ------------------------------------------------------------------ messages
    @property
    def _home(self) -> Node:
        return self.street.homes[self.client]

    def _order(self, exchange: int, view: int) -> Order:
        street = self.street
        return Order(
            session=street.session,
            run=street.run_id,
            method=self.method,
            seed=self.arm_seed,
            client=self.client,
            exchange=exchange,
            durable=self.durable,
            view=view,
            geometry=self.geometry.digest,
            config=self.street.run.pieces.experiment.digest,
            state_dir=street.state_dir,
        )

    def _places(self, exchange: int) -> list[Places]:
        batches = self.settings.batches
        first = (exchange - 1) * batches
        if self.holder is not None:
            return positions(self.division, self.geometry, self.seed, first, batches)
        return [
            self.division.places(self.geometry, self.seed, step)
            for step in range(first, first + batches)
        ]

    def _ask(self, node: Node, leg: str, content: dict[str, Any], order: Order) -> Part[RecordDict]:
        """Send a leg and return the content of the answer, if it is one to it."""
        street = self.street
        trains = leg in ("exchange", "alone", "hold")
        message = street.message(node, leg, content, trains)
        request = request_of(message.content)
        self.bytes_down += bytes_of(message.content)
        reply = yield message
        found = content_of(reply, self.street.run.pieces.experiment.runtime.timeout)
        refuse_stale(found, order, request)
        self.bytes_up += bytes_of(found)
        return found

    def _ask_peer(self, order: Order, leg: str) -> Part[dict[str, Any]]:
        """The peer's key and its sealed share of the features, for the client."""
        street = self.street
        own = street.adverts.get(self._home.partition)
        number = holder_of(self._home.partition, street.adverts)
        peer, advert = street.by_partition(number), street.adverts.get(number)
        if own is None or peer is None or advert is None or peer is self._home:
            raise ReplyError("the second holder is not there")
        poses, facts = pack_geometry(self.geometry)
        content: dict[str, Any] = {
            "order": order.packed(),
            "peer": ConfigRecord(own.packed()),
            "poses": poses,
            "facts": facts,
        }
        if self.box is not None:
            content["seed"] = self.box
        try:
            answer = yield from self._ask(peer, leg, content, order)
        except ReplyError as error:
            raise ReplyError(f"the second holder: {error}") from error
        return {
            "peer": ConfigRecord(advert.packed()),
            "box": record(answer, "box", ArrayRecord),
        }

    # ------------------------------------------------------------------ state
    def tensors(self) -> dict[str, Tensor]:
        """Copies of all that this half needs to go on."""
        found = {"exchange": torch.tensor(self.exchange)}
        if self.holder is None:
            return found | (self.half.tensors() if self.design.crosses else {})
        found |= self.holder.tensors()
        if self.box is not None:
            found["box"] = from_array(self.box["box"]).clone()
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`tensors`."""
        self.exchange = int(tensors["exchange"])
        if self.holder is not None:
            self.holder.restore(tensors)
            if "box" in tensors:
                self.box = ArrayRecord({"box": to_array(tensors["box"])})
        elif self.design.crosses:
            self.half.restore(tensors)
