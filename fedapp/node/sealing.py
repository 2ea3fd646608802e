"""A client's end of a sealed table: opening features, masking gradients."""

from __future__ import annotations

from hashlib import sha256

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedapp.node.device import Device
from fedapp.node.scene_place import ScenePlace, view_rays
from privacy.node_secret import SEED_BYTES, Advert, Channel, Peer, expand
from privacy.sealed import fingerprint_of, joined, looked_at, positions
from privacy.secagg.identity import KEY_FILE, Roster, load_identity
from privacy.secagg.messages import RefusalError
from strategies.flower.exchanges import Order
from strategies.flower.records import record
from strategies.flower.wire import from_array

DIGEST_BYTES = 32


def peer_of(device: Device, run: str, offered: str) -> Peer:
    """This node's end of channels to its peers, with whose keys it believes."""
    if not run.isalnum():
        raise RefusalError(f"a run called {run!r}")
    folder = device.key_folder(offered)
    roster = Roster.read(device.roster_file(offered))
    return Peer(load_identity(folder / KEY_FILE), device.partition, run, roster)


def as_bytes(data: bytes) -> Tensor:
    """Bytes as an array, which travels in chunks."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def about(order: Order, what: str) -> tuple[object, ...]:
    """Subject of a sealed box, which is bound to it."""
    return (what, order.method, order.seed, order.client, order.exchange, order.view)


# ---------------------------------------------------------------------- the client's end
def _channel(place: ScenePlace, content: RecordDict) -> Channel:
    """The client's channel to the one member that may hold its other share."""
    order = place.order
    peer = peer_of(place.device, order.run, order.state_dir)
    advert = Advert.unpacked(record(content, "peer", ConfigRecord))
    if advert.number != peer.holder:
        raise RefusalError(f"member {advert.number} is not the next one in the roster")
    return peer.channel(advert, "split")


def open_features(place: ScenePlace, own: Tensor, content: RecordDict, leg: str) -> Tensor:
    """Features ``[K, M, W]`` from the server's share and the peer's sealed one; raises
    :class:`RefusalError` where the two are not of the same positions."""
    order, division, geometry = place.order, place.division, place.scene.geometry
    box = from_array(record(content, "box", ArrayRecord)["box"])
    text = _channel(place, content).open(box.numpy().tobytes(), *about(order, leg))
    told, data = text[:DIGEST_BYTES], text[DIGEST_BYTES:]
    if leg == "hold":
        batches = len(own)
        first = (order.exchange - 1) * batches
        places = positions(division, geometry, place.seed, first, batches)
    else:
        rays = view_rays(place.device, geometry, order.view)
        places = looked_at(division, geometry, rays)
    if told != fingerprint_of(places):
        raise RefusalError("the two holders do not see the same positions")
    if len(data) != 4 * own.numel():
        raise RefusalError("the peer's share has another size")
    other = torch.frombuffer(bytearray(data), dtype=torch.int32).view(own.shape)
    return joined(own, other)


def masked_batches(
    place: ScenePlace, gradients: Tensor, content: RecordDict
) -> tuple[Tensor, bytes]:
    """The server's share of gradients in the ring, and the seed of the peer's with the geometry it
    is good for, sealed for it.

    The seed is a function of what the server sent and of the gradients: two different ones never go
    out under one mask, and equal ones for different features are not seen to be equal.
    """
    order = place.order
    own = sha256(gradients.numpy().tobytes()).hexdigest()
    sent = sha256(record(content, "crossing", ArrayRecord)["share"].data).hexdigest()
    purpose = ("split share", *place.purpose, order.exchange, sent, own)
    seed = place.secret.bytes(*purpose)[:SEED_BYTES]
    shares = gradients - expand(seed, gradients.numel()).view(gradients.shape)
    told = seed + bytes.fromhex(place.scene.geometry.digest)
    return shares, _channel(place, content).seal(told, *about(order, "seed"))
