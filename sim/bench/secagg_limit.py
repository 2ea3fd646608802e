r"""Least cost of a secure sum on this machine: keystream, public-key operations, bytes read.

With k neighbours, threshold t, d numbers (check block included), n' surviving nodes and p pairs of
a vanished node with a surviving neighbour, nobody can do without

.. math::
    \text{client} &= 4 d (k + 1) / r_m + 4 d / r_e + 8 d / r_r
        + (k + t - 1)\,\text{checks} + 2 k\,\text{agreements} + 5\,\text{key pairs}
        + 2\,\text{signatures} \\
    \text{server} &= 4 d (n' + p) / r_m + 4 d n' / r_r + n'\,\text{checks} + p\,\text{agreements}

with :math:`r_m` the rate of mask keystream, :math:`r_e` that of the randomness of rounding and
:math:`r_r` that of reading a vector of that size. Adding masks up, deriving keys, sealing boxes,
sharing and restoring secrets, and the vault's writes are left out: they are what remains to gain.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from privacy.entropy import fresh_key
from privacy.joint import CHECK
from privacy.secagg.primitives import LEAST_WORDS, SEED_BYTES, self_mask_key
from sim.bench.limits import Operations, keystream_rate, operations, prefixed, read_rate
from sim.bench.rows import Limit
from sim.bench.secagg_case import Case

WORD = 4  # bytes of a masked number
REAL = 8  # bytes of a number before it is rounded


class Rates(NamedTuple):
    """Rates of this machine at one time, for vectors of one size."""

    masks: float  # bytes per second of mask keystream, on as many threads as add masks
    rounding: float  # the same for the randomness of rounding, on one thread
    read: float  # bytes per second of reading such a vector
    each: Operations

    def better(self, other: Rates) -> Rates:
        """The quicker of two measurements of each."""
        return Rates(
            max(self.masks, other.masks),
            max(self.rounding, other.rounding),
            max(self.read, other.read),
            Operations(*map(min, self.each, other.each)),
        )


def rates(case: Case) -> Rates:
    """Rates behind a case's limits: to be taken right beside it (a tenth of a second)."""
    length = case.size + CHECK
    cores = len(os.sched_getaffinity(0))
    threads = max(1, min(cores, length // LEAST_WORDS))
    mask_key = self_mask_key(bytes(SEED_BYTES), bytes(32), 0)  # of the length the project uses
    return Rates(
        keystream_rate(mask_key, threads),
        keystream_rate(fresh_key(), 1),
        read_rate(WORD * length),
        operations(),
    )


def client_limit(case: Case, found: Rates) -> Limit:
    """Seconds of one client that stays."""
    length = case.size + CHECK
    masks = WORD * length * (case.degree + 1)
    checks = case.degree + case.threshold - 1
    agreements = 2 * case.degree
    seconds = (
        masks / found.masks
        + WORD * case.size / found.rounding
        + REAL * case.size / found.read
        + checks * found.each.check
        + agreements * found.each.agreement
        + 5 * found.each.pair
        + 2 * found.each.signature
    )
    return Limit(seconds, _words(masks, found, checks, agreements))


def server_limit(case: Case, found: Rates) -> Limit:
    """Seconds of the server."""
    length = case.size + CHECK
    masks = WORD * length * (case.alive + case.open_pairs)
    uploads = WORD * length * case.alive
    seconds = (
        masks / found.masks
        + uploads / found.read
        + case.alive * found.each.check
        + case.open_pairs * found.each.agreement
    )
    words = _words(masks, found, case.alive, case.open_pairs)
    return Limit(seconds, f"{words}, {prefixed(uploads)}B read at {prefixed(found.read)}B/s")


def _words(masks: float, found: Rates, checks: int, agreements: int) -> str:
    return (
        f"{prefixed(masks)}B of masks at {prefixed(found.masks)}B/s, "
        f"{checks} signatures checked, {agreements} keys agreed"
    )
