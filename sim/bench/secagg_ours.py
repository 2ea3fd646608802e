"""The real protocol between n nodes in one process: seconds, bytes, memory.

Keys, signatures, vaults on disk and check block are those of a run; the sum is compared with the
plain sum, bit for bit, before a figure is given.
"""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from numpy.typing import NDArray

from privacy.entropy import Entropy
from privacy.flower.wire import pack_table
from privacy.joint import CHECK
from privacy.ring import add_rounded, levels
from privacy.secagg.client import SecAggClient
from privacy.secagg.graph import default_threshold
from privacy.secagg.identity import Policy, Roster
from privacy.secagg.messages import PREKEY_BYTES, Terms
from privacy.secagg.primitives import public_bytes
from privacy.secagg.server import SecAggServer
from privacy.secagg.vault import Vault
from sim.bench.secagg_case import Case, Clock, Cost
from tasks.errors import FedappError


def ours(case: Case) -> Cost:
    """The real protocol, once; raises if its sum is not the plain sum of the survivors."""
    with tempfile.TemporaryDirectory() as folder:
        return _ours(case, Path(folder))


def _ours(case: Case, folder: Path) -> Cost:
    keys = [Ed25519PrivateKey.generate() for _ in range(case.nodes)]
    roster = Roster({index: public_bytes(key) for index, key in enumerate(keys)}, bytes(32))
    policy = Policy(min_nodes=2, colluding=max(1, case.nodes // 20), complete_up_to=20)
    nodes = [
        SecAggClient(index, key, roster, policy, Vault(folder / str(index), key))
        for index, key in enumerate(keys)
    ]
    watched = case.nodes // 2
    client = Clock()
    clock = Clock()  # the server
    others = Clock()

    def own(member: int) -> Clock:
        return client if member == watched else others

    stock = [node.advertise(1)[0] for node in nodes]
    client.seconds += _seconds_of_a_prekey(nodes[watched])
    terms = Terms(
        1, 1, tuple(stock), case.threshold, case.degree, 2, case.size + CHECK, "{}", "{}", bytes(32)
    )
    server = SecAggServer(terms, roster.members)
    for node in nodes:
        boxes = own(node.member)(node.share, terms)
        clock(server.shared, node.member, boxes)
        if node.member == watched:
            up = _bytes(boxes, "boxes") + PREKEY_BYTES
            down = PREKEY_BYTES * case.nodes
    clock(server.close_sharing)

    expected = np.zeros(case.size, np.uint32)
    values = np.sin(np.arange(case.size, dtype=np.float64)) / case.size**0.5
    for node in nodes[: case.alive]:
        inbox = clock(server.inbox, node.member)
        vector = np.zeros(case.size + CHECK, np.uint32)
        own(node.member)(
            add_rounded, vector[: case.size], values, levels(case.nodes, 0.0), Entropy()
        )
        expected += vector[: case.size]
        own(node.member)(node.mask, terms.session, terms.model, inbox, vector)
        clock(server.upload_blocks, node.member, np.array_split(vector, 64))
        if node.member == watched:
            up += vector.nbytes
            down += _bytes(inbox, "boxes")
    survivors = clock(server.close_uploads)
    for member in survivors:
        signature = own(member)(nodes[member].confirm, terms.session, survivors)
        clock(server.confirmed, member, signature)
    for member in clock(server.close_confirmation):
        shown = clock(server.signatures, member)
        shares = own(member)(nodes[member].unmask, terms.session, shown)
        clock(server.reveal, member, shares)
        if member == watched:
            up += len(signature) + _bytes(shares, "shares")
            down += _bytes(shown, "signatures") + 8 * len(survivors)
    total = clock(server.finish)
    if not (total == expected).all():
        raise FedappError(f"the secure sum of {case.name} is not the plain sum: no figures")
    return Cost(client.seconds, clock.seconds, up, down)


def _seconds_of_a_prekey(node: SecAggClient, count: int = 64) -> float:
    """Seconds per prekey: they are advertised for many rounds at once."""
    clock = Clock()
    clock(node.advertise, count)
    return clock.seconds / count


def server_memory(size: int, nodes: int = 6) -> float:
    """Peak memory of the server from its creation to the sum, over the vector's own bytes, blocks
    streamed in."""
    with tempfile.TemporaryDirectory() as folder:
        keys = [Ed25519PrivateKey.generate() for _ in range(nodes)]
        roster = Roster({index: public_bytes(key) for index, key in enumerate(keys)}, bytes(32))
        members = [
            SecAggClient(
                index, key, roster, Policy(min_nodes=2), Vault(Path(folder) / str(index), key)
            )
            for index, key in enumerate(keys)
        ]
        stock = tuple(member.advertise(1)[0] for member in members)
        terms = Terms(
            1, 1, stock, default_threshold(nodes), nodes - 1, 2, size + CHECK, "{}", "{}", bytes(32)
        )
        boxes = [member.share(terms) for member in members]
        uploads = [f"{folder}/{member.member}.npy" for member in members]
        inboxes = {
            m.member: {o.member: boxes[o.member][m.member] for o in members if o is not m}
            for m in members
        }
        for member, file in zip(members, uploads, strict=True):
            vector = np.ones(size + CHECK, np.uint32)
            vector[size:] = 0
            member.mask(terms.session, terms.model, inboxes[member.member], vector)
            vector.tofile(file)
        del vector
        tracemalloc.start()
        server = SecAggServer(terms, roster.members)
        for member in members:
            server.shared(member.member, boxes[member.member])
        server.close_sharing()
        for member, file in zip(members, uploads, strict=True):
            server.upload_blocks(member.member, _blocks_of(file))
        survivors = server.close_uploads()
        for member in members:
            server.confirmed(member.member, member.confirm(terms.session, survivors))
        server.close_confirmation()
        for member in members:
            server.reveal(
                member.member, member.unmask(terms.session, server.signatures(member.member))
            )
        total = server.finish()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if not (total == nodes).all():
            raise FedappError("the secure sum is not the plain sum: no figures")
        return peak / (4 * size)


def _blocks_of(file: str) -> Iterator[NDArray[np.uint32]]:
    """An upload as it comes from a connection: 256 KiB at a time."""
    with open(file, "rb") as handle:
        while block := handle.read(1 << 18):
            yield np.frombuffer(block, np.uint32)


def _bytes(table: dict[int, bytes], name: str) -> int:
    return RecordDict({"r": pack_table(b"", table, name)})["r"].count_bytes()
