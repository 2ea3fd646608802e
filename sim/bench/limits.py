r"""Limits of this machine: the time of nothing but the work that a row cannot do without.

Three kinds of work bound what the benchmarks measure: matrix products (:func:`products`), bytes
read from memory (:func:`reading`), and keystream with a few public-key operations
(:func:`keystream_rate`, :func:`operations`). A :class:`Work` is timed by the same clock, in the
same loop, on the same threads as the row it belongs to; rates are taken beside the row. All of them
are lower bounds on purpose: operands are hot, nothing is allocated, no Python stands between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from sim.bench.rows import Limit
from sim.bench.timing import median_seconds
from tasks.fields.network import Network

BLOCK_BYTES = 1 << 18  # of keystream at a time: stays in the second-level cache
STREAM_BYTES = 32 * BLOCK_BYTES  # of keystream per thread and measurement
CALLS = 16  # of a public-key operation per measurement


class Work(NamedTuple):
    """Work that the machine alone limits: ``run`` does it once, ``amount`` of ``kind`` in all."""

    run: Callable[[], None]
    amount: float
    kind: str  # "FLOP of products", "B read"

    def limit(self, seconds: float, scale: float = 1.0) -> Limit:
        """``scale`` times the seconds one ``run`` took, with the rate in words."""
        unit = self.kind.split()[0]
        rate = f"{prefixed(self.amount / seconds)}{unit}/s"
        return Limit(scale * seconds, f"{prefixed(self.amount)}{self.kind} at {rate}")


def prefixed(number: float) -> str:
    """A number with three digits and an SI prefix: ``"72.1 M"``.

    >>> prefixed(72_100_000.0), prefixed(3.5e9)
    ('72.1 M', '3.5 G')
    """
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {prefix}"
    return f"{number:.3g} "


# ---------------------------------------------------------------------- products
class Chunk(NamedTuple):
    """Clients trained at once, and the samples of each of their batches, the query's last."""

    clients: int
    samples: Sequence[int]


def chunks(clients: int, width: int, samples: Sequence[int]) -> list[Chunk]:
    """A cohort in chunks of at most ``width`` clients, as the trainer runs it."""
    sizes = [min(width, clients - start) for start in range(0, clients, width)]
    return [Chunk(size, samples) for size in sizes]


def products(network: Network, cohort: Sequence[Chunk]) -> Work:
    r"""The matrix products of one second-order MAML step of a cohort, and nothing else.

    A layer whose inputs need a derivative takes, in each inner step, one product each for
    :math:`z`, :math:`\partial W` and :math:`e`, and two more of each shape for the Hessian-vector
    product; the first layer has no :math:`e` and no :math:`\dot a`. The query batch takes value
    and gradient alone (see :mod:`tasks.fields.network` for the equations).

    Args:
        network: layers ``widths[0] -> ... -> widths[L]``.
        cohort: clients C and samples B of every batched product ``[C, B, i] x [C, i, o]``.

    The products run in float32 with the arithmetic that ``torch.set_float32_matmul_precision``
    allows and on torch's threads at the time of the call.
    """
    made: dict[tuple[int, int], tuple[list[_Product], list[_Product]]] = {}
    plan: list[_Product] = []
    for clients, samples in cohort:
        for step, batch in enumerate(samples):
            if (clients, batch) not in made:
                made[clients, batch] = _step_products(network, clients, batch)
            inner, query = made[clients, batch]
            plan += query if step == len(samples) - 1 else inner

    def run() -> None:
        for left, right, out in plan:
            torch.bmm(left, right, out=out)

    flops = sum(2.0 * left.numel() * right.shape[2] for left, right, _ in plan)
    return Work(run, flops, "FLOP of products")


_Product = tuple[Tensor, Tensor, Tensor]  # left [C, m, k], right [C, k, n], result [C, m, n]


def _step_products(
    network: Network, clients: int, samples: int
) -> tuple[list[_Product], list[_Product]]:
    """Products of an inner step with its Hessian-vector product, and of a query step.

    Weights are views into ``[C, P]`` and gradients are transposed, as the trainer has them: the
    library's rate depends on that.
    """
    draw = torch.Generator().manual_seed(0)
    weights = network.layers(torch.rand(clients, network.layout.size, generator=draw))
    nodes = [torch.rand(clients, samples, width, generator=draw) for width in network.widths]
    inner: list[_Product] = []
    query: list[_Product] = []
    for index, (weight, _) in enumerate(weights):
        inputs = nodes[index]
        outputs = nodes[index + 1]
        forward = (inputs, weight.mT, torch.empty_like(outputs))
        gradient = (outputs.mT, inputs, torch.empty(weight.shape))
        if index == 0:
            query += [forward, gradient]
            inner += [forward, gradient] * 2
        else:
            back = (outputs, weight, torch.empty_like(inputs))
            query += [forward, gradient, back]
            inner += [forward, gradient, back] * 3
    return inner, query


# ---------------------------------------------------------------------- memory
def reading(buffers: Sequence[Tensor]) -> Work:
    """Every number of ``buffers`` read once, by the quickest reduction torch has (a plain sum).

    What lies in a cache is read from there, so buffers must be as large as the row's own, and must
    repeat where the row's do.
    """

    def run() -> None:
        for buffer in buffers:
            buffer.sum()

    size = sum(buffer.numel() * buffer.element_size() for buffer in buffers)
    return Work(run, float(size), "B read")


def read_rate(size: int) -> float:
    """Bytes per second that one thread reads from a float32 buffer of ``size`` bytes which was read
    just before."""
    work = reading([torch.ones(max(size // 4, 1))])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work.amount / median_seconds(work.run)
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------------- cryptography
def keystream_rate(key: bytes, threads: int) -> float:
    """Bytes per second of AES-CTR keystream under ``key`` on ``threads`` threads, from cache to
    cache.

    The bare cipher of ``cryptography`` over blocks of zeros: nothing is added to anything.
    """
    zeros = bytes(BLOCK_BYTES)

    def stream(_: int) -> None:
        encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        buffer = bytearray(BLOCK_BYTES)
        for _ in range(STREAM_BYTES // BLOCK_BYTES):
            encryptor.update_into(zeros, buffer)

    if threads == 1:
        return STREAM_BYTES / median_seconds(lambda: stream(0))
    with ThreadPoolExecutor(threads) as pool:
        seconds = median_seconds(lambda: list(pool.map(stream, range(threads))))
    return threads * STREAM_BYTES / seconds


class Operations(NamedTuple):
    """Seconds of one public-key operation each, as ``cryptography`` does them."""

    check: float  # an Ed25519 signature verified, its public key read from bytes
    agreement: float  # an X25519 shared secret, the peer's public key read from bytes
    pair: float  # an X25519 key made from its private bytes, with its public half
    signature: float  # Ed25519


def operations() -> Operations:
    """The four operations, each timed a few times in a row."""
    identity = Ed25519PrivateKey.generate()
    public = identity.public_key().public_bytes_raw()
    signed = identity.sign(bytes(64))
    own = X25519PrivateKey.generate()
    peer = X25519PrivateKey.generate().public_key().public_bytes_raw()
    private = os.urandom(32)

    def check() -> None:
        Ed25519PublicKey.from_public_bytes(public).verify(signed, bytes(64))

    def agreement() -> None:
        own.exchange(X25519PublicKey.from_public_bytes(peer))

    def pair() -> None:
        X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def signature() -> None:
        identity.sign(bytes(64))

    return Operations(*(_seconds(step) for step in (check, agreement, pair, signature)))


def _seconds(step: Callable[[], None]) -> float:
    def many() -> None:
        for _ in range(CALLS):
            step()

    return median_seconds(many) / CALLS
