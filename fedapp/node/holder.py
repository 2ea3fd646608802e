"""The second holder of a sealed table: a peer node that knows positions and no pictures.

It gets the seed of its share of each gradient sealed by the client, and answers with its share of
the
features sealed for the client; the server in between relays ciphertext.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedapp.config.designs import DESIGNS, steps_of
from fedapp.node.device import Device
from fedapp.node.scene_place import view_rays
from fedapp.node.sealing import about, as_bytes, peer_of
from fedapp.store.client_state import ClientState, MissingMemoryError
from privacy.node_secret import SEED_BYTES, Advert, Channel, expand, holder_of
from privacy.sealed import Holder, fingerprint_of, looked_at, positions
from privacy.secagg.messages import RefusalError
from strategies.flower.exchanges import Order, origin_of, request_of, unpack_geometry
from strategies.flower.records import record
from strategies.flower.wire import from_array, to_array
from tasks.split_nerf.grids import Grid
from tasks.split_nerf.halves import Division, Places
from tasks.split_nerf.scene import Geometry, scene_seed


# ---------------------------------------------------------------------- the peer's end
class HolderNode:
    """A node that holds shares of other nodes' tables."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.experiment = device.experiment

    def hold(self, order: Order, content: RecordDict) -> RecordDict:
        """This holder's share of the features of exchange ``order.exchange``, sealed for the
        client."""
        batches = self.experiment.split.batches
        first = (order.exchange - 1) * batches

        def places(division: Division, geometry: Geometry, seed: int) -> list[Places]:
            return positions(division, geometry, seed, first, batches)

        return self._answer(order, content, places, "hold", order.exchange - 1)

    def look(self, order: Order, content: RecordDict) -> RecordDict:
        """The same for a view."""

        def places(division: Division, geometry: Geometry, seed: int) -> list[Places]:
            return looked_at(division, geometry, view_rays(self.device, geometry, order.view))

        return self._answer(order, content, places, "hold-look", order.exchange)

    def _answer(
        self,
        order: Order,
        content: RecordDict,
        places_of: Callable[[Division, Geometry, int], list[Places]],
        leg: str,
        version: int,
    ) -> RecordDict:
        design = DESIGNS[order.method]
        if design.kind != "sealed":
            raise RefusalError(f"{order.method} has no second holder")
        if self.device.hosts is not None and order.client in self.device.hosts:
            raise RefusalError(f"client {order.client} is here: this node cannot hold its share")
        advert = Advert.unpacked(record(content, "peer", ConfigRecord))
        peer = peer_of(self.device, order.run, order.state_dir)
        if holder_of(advert.number, peer.roster.members) != peer.number:
            raise RefusalError(f"this node is not the next one after member {advert.number}")
        channel = peer.channel(advert, "split")
        geometry = unpack_geometry(
            record(content, "poses", ArrayRecord), record(content, "facts", ConfigRecord)
        )
        if geometry.digest != order.geometry:
            raise RefusalError("a geometry that the order does not speak of")
        division = design.division(self.experiment.split, steps_of(self.experiment))
        seed = scene_seed(order.seed, order.client)
        holder = self._at(order, version, division, geometry, content, channel)
        places = places_of(division, geometry, seed)
        shares = torch.stack([holder.embed(one.visits) for one in places])
        text = fingerprint_of(places) + shares.numpy().tobytes()
        box = channel.seal(text, *about(order, leg))
        return RecordDict(
            {
                "box": ArrayRecord({"box": to_array(as_bytes(box))}),
                "origin": origin_of(order, request_of(content)),
            }
        )

    def _at(
        self,
        order: Order,
        version: int,
        division: Division,
        geometry: Geometry,
        content: RecordDict,
        channel: Channel,
    ) -> Holder:
        """The share of the table after exchange ``version``: from disk, or one exchange further
        than what is there."""
        folder = self.device.state_dir(order.state_dir, order.run)
        if not folder:
            raise RefusalError("a holder keeps its share in a state folder, this node has none")
        place = f"holding-{order.method}-{order.seed}"
        store = ClientState(Path(folder) / place / f"{channel.other}-{geometry.digest[:32]}")
        assert isinstance(division.encoder, Grid), "sealed tables are grids"
        holder = Holder.second(division.encoder)
        if not version:
            return holder
        try:
            holder.restore(store.read(order.client, version))
            return holder
        except MissingMemoryError:
            if version > 1:
                holder.restore(store.read(order.client, version - 1))
        box = from_array(record(content, "seed", ArrayRecord)["box"]).numpy().tobytes()
        named = replace(order, exchange=version, view=-1)
        text = channel.open(box, *about(named, "seed"))
        if text[SEED_BYTES:] != bytes.fromhex(geometry.digest):
            raise RefusalError("the client trained on another geometry")
        batches = self.experiment.split.batches
        shape = (division.rays * division.samples, division.head.crossing)
        mask = expand(text[:SEED_BYTES], batches * shape[0] * shape[1]).view(batches, *shape)
        first = (version - 1) * batches
        seed = scene_seed(order.seed, order.client)
        for places, part in zip(
            positions(division, geometry, seed, first, batches), mask, strict=True
        ):
            holder.learn(places.visits, part)
        store.save(order.client, version, holder.tensors())
        store.prune(order.client, min(order.durable, version - 1))
        return holder
