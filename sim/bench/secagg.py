"""Secure aggregation: a client's and the server's time, and bytes, against the installed flwr's own
SecAgg+ functions.

Ours is the real protocol between n nodes (keys, signatures, vaults on disk, check block), whose sum
is compared with the plain sum, bit for bit, before a row is given. flwr's side calls its functions
in the order of its mod and workflow, for the same n, graph, threshold, dropouts and d. Where that
would take minutes, identical operations (masks of one pair, restoring one secret) are timed a few
times and multiplied; ``measured`` says which share was.
"""

from __future__ import annotations

import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from numpy.typing import NDArray

from privacy.entropy import Entropy
from privacy.flower.wire import pack_table
from privacy.joint import CHECK
from privacy.ring import add_rounded, levels
from privacy.secagg.client import SecAggClient
from privacy.secagg.graph import default_threshold, harary
from privacy.secagg.identity import Policy, Roster
from privacy.secagg.messages import PREKEY_BYTES, Terms
from privacy.secagg.primitives import public_bytes
from privacy.secagg.server import SecAggServer
from privacy.secagg.vault import Vault
from sim.bench import Row, limit, row
from sim.bench import plain as plain_sums
from tasks.errors import FedappError

NODES, SIZES, DROPOUTS = (10, 20, 50, 100), (100_000, 1_000_000, 10_000_000), (0.0, 0.1)
QUICK_NODES, QUICK_SIZES = (10, 20), (100_000, 1_000_000)
CLIENT_TARGET, COMPLETE_TARGET, REGULAR_TARGET = 6.0, 25.0, 12.0
BYTES_LIMIT, MEMORY_LIMIT = 4.1, 1.25
PATIENCE = 4.0  # seconds of one kind of operation of the reference before the rest is multiplied


class Case(NamedTuple):
    """``nodes`` of which ``gone`` vanish after sharing; ``degree`` neighbours, ``threshold`` to
    restore."""

    nodes: int
    gone: int
    degree: int
    threshold: int
    size: int

    @property
    def name(self) -> str:
        graph = "complete" if self.degree == self.nodes - 1 else f"{self.degree}-regular"
        return f"n = {self.nodes}, d = {self.size:.0e}, {self.gone} dropped, {graph}"


class Cost(NamedTuple):
    """Seconds of one client and of the server; bytes of one client up, and down beside the
    model."""

    client: float
    server: float
    up: int
    down: int


class Clock:
    """Adds up the seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, step: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = step(*arguments)
        self.seconds += time.perf_counter() - started
        return result


def cases(quick: bool) -> Iterator[Case]:
    """The grid of the benchmark; k-regular graphs where they have fewer edges than the complete
    one."""
    for nodes in QUICK_NODES if quick else NODES:
        for size in QUICK_SIZES if quick else SIZES:
            for share in DROPOUTS:
                gone = int(nodes * share)
                yield Case(nodes, gone, nodes - 1, default_threshold(nodes), size)
                if nodes >= 50 and gone:
                    degree, threshold = harary(nodes, max(1, nodes // 20), gone)
                    yield Case(nodes, gone, degree, threshold, size)


# ---------------------------------------------------------------- ours
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
    watched, others, clock = case.nodes // 2, Clock(), Clock()
    client = Clock()

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
            up, down = _bytes(boxes, "boxes") + PREKEY_BYTES, PREKEY_BYTES * case.nodes
    clock(server.close_sharing)

    expected, values = (
        np.zeros(case.size, np.uint32),
        np.sin(np.arange(case.size, dtype=np.float64)) / case.size**0.5,
    )
    for node in nodes[: case.nodes - case.gone]:
        inbox = clock(server.inbox, node.member)
        vector = np.zeros(case.size + CHECK, np.uint32)
        own(node.member)(
            add_rounded, vector[: case.size], values, levels(case.nodes, 0.0), Entropy()
        )
        expected += vector[: case.size]
        own(node.member)(node.mask, terms.session, terms.model, inbox, vector)
        clock(server.upload_blocks, node.member, np.array_split(vector, 64))
        if node.member == watched:
            up, down = up + vector.nbytes, down + _bytes(inbox, "boxes")
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
    """Keys are advertised for many rounds at once."""
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
        uploads = [folder + f"/{member.member}.npy" for member in members]
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


# ---------------------------------------------------------------- flwr
class Reference(NamedTuple):
    """flwr's seconds, and which share of them was measured rather than multiplied."""

    client: float
    server: float
    measured: float


def flwr_functions(case: Case) -> Reference:
    """The same work by flwr's functions, in the order of its mod (client) and workflow (server)."""
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation import quantization
    from flwr.common.secure_aggregation.crypto import shamir, symmetric_encryption
    from flwr.common.secure_aggregation.secaggplus_utils import (
        pseudo_rand_gen,
        share_keys_plaintext_concat,
    )
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_private_key,
        bytes_to_public_key,
        generate_key_pairs,
        private_key_to_bytes,
        public_key_to_bytes,
    )

    modulus, target, clipping = 2**32, 2**22, 8.0
    holders = case.degree + 1
    shape: list[tuple[int, ...]] = [(case.size,)]
    survivors = min(holders, holders - round(case.gone * holders / case.nodes))
    private = generate_key_pairs()[0]
    private_bytes = private_key_to_bytes(private)
    peer = public_key_to_bytes(generate_key_pairs()[1])
    measured = total = 0.0

    def repeat(step: Callable[[], Any], times: int) -> float:
        """Seconds of ``times`` calls, of which as many are made as patience allows (at least
        two)."""
        nonlocal measured, total
        made, started = 0, time.perf_counter()
        while made < times and (made < 2 or time.perf_counter() - started < PATIENCE):
            step()
            made += 1
        spent = time.perf_counter() - started
        measured += spent
        total += spent * times / max(made, 1)
        return spent * times / max(made, 1)

    # client: two key pairs, shares of both secrets, a sealed box for each neighbour, and their
    # boxes opened
    seed = os.urandom(32)
    client = repeat(generate_key_pairs, 2)
    client += repeat(lambda: shamir.create_shares(seed, case.threshold, holders), 1)
    client += repeat(lambda: shamir.create_shares(private_bytes, case.threshold, holders), 1)
    shared = symmetric_encryption.generate_shared_key(private, bytes_to_public_key(peer))
    text = share_keys_plaintext_concat(1, 2, bytes(48), bytes(340))

    def agree() -> bytes:
        return symmetric_encryption.generate_shared_key(
            bytes_to_private_key(private_bytes), bytes_to_public_key(peer)
        )

    def box() -> None:
        symmetric_encryption.decrypt(shared, symmetric_encryption.encrypt(agree(), text) and sealed)

    sealed = symmetric_encryption.encrypt(shared, text)
    client += repeat(box, case.degree)
    values = [np.sin(np.arange(case.size, dtype=np.float64))]

    def quantise() -> list[NDArray[Any]]:
        scaled = arithmetic.parameters_multiply(values, 0.5)
        return arithmetic.factor_combine(
            target // 2, quantization.quantize(scaled, clipping, target)
        )

    client += repeat(quantise, 1)
    masked = [np.zeros(case.size, np.int64)]

    def pair_mask() -> None:
        mask = pseudo_rand_gen(agree(), modulus, shape)
        arithmetic.parameters_addition(masked, mask)

    def self_mask() -> None:
        arithmetic.parameters_addition(masked, pseudo_rand_gen(seed, modulus, shape))

    client += repeat(self_mask, 1) + repeat(pair_mask, case.degree)
    client += repeat(lambda: arithmetic.parameters_mod(masked, modulus), 1)

    # server: add the uploads, restore every secret, take the masks off
    alive = case.nodes - case.gone
    server = repeat(lambda: arithmetic.parameters_addition(masked, masked), alive)
    seed_shares = shamir.create_shares(seed, case.threshold, holders)[:survivors]
    server += repeat(lambda: shamir.combine_shares(seed_shares), alive)
    server += repeat(self_mask, alive)
    if case.gone:
        key_shares = shamir.create_shares(private_bytes, case.threshold, holders)[:survivors]
        server += repeat(lambda: shamir.combine_shares(key_shares), case.gone)
        pairs = case.gone * round(case.degree * alive / (case.nodes - 1))
        server += repeat(pair_mask, pairs)
    server += repeat(lambda: arithmetic.parameters_mod(masked, modulus), 1)
    server += repeat(lambda: quantization.dequantize(masked, clipping, target), 1)
    return Reference(client, server, measured / total)


def measure(quick: bool) -> Iterator[Row]:
    """Client, server, bytes and memory for every case; then sums in the clear, and what a DP
    release adds."""
    for case in cases(quick):
        mine, theirs = ours(case), flwr_functions(case)
        complete = case.degree == case.nodes - 1
        target = (COMPLETE_TARGET if complete else REGULAR_TARGET) if case.gone else None
        extra = {"measured": round(theirs.measured, 4)}
        if complete or case.gone:
            yield (
                row(f"client, {case.name}", "s", mine.client, theirs.client, CLIENT_TARGET) | extra
            )
        yield row(f"server, {case.name}", "s", mine.server, theirs.server, target) | extra
        yield limit(f"bytes up per coordinate, {case.name}", "B", mine.up / case.size, BYTES_LIMIT)
        yield row(f"bytes down beside the model, {case.name}", "B", float(mine.down), None, None)
    size = max(QUICK_SIZES if quick else SIZES)
    yield limit(
        f"server memory over the vector, d = {size:.0e}, blocks streamed",
        "×",
        server_memory(size),
        MEMORY_LIMIT,
    )
    yield from plain_sums.measure(quick)
