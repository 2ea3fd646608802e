r"""Numbers on an integer lattice, added modulo 2^32: the ring of masks, sums and noise.

A real vector x with :math:`\lVert x\rVert_2 \le S` becomes integers by unbiased stochastic
rounding,

.. math:: q(x) = \lfloor K x + u\rfloor,\ u \sim U[0, 1), \qquad
    \lVert q(x)\rVert_2 \le K S + \sqrt d,

with K *levels* per unit. Adding n such vectors and their noise never wraps if

.. math:: K = \lfloor (2^{31}-1) / (n + 11\, z S \sqrt{\text{nodes}/h}) \rfloor

(Kairouz, Liu, Steinke, *The Distributed Discrete Gaussian Mechanism for Federated Learning with
Secure Aggregation*, ICML 2021, https://arxiv.org/abs/2102.06387).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from privacy.entropy import BLOCK, Entropy

HALF = 2**31
DITHER = 4.0  # levels: deviation of a Gaussian before rounding
DITHER_ROOM = 48  # levels that it may reach: 9.42 deviations, and rounding


def levels(clients: int, noise: float) -> int:
    """K for a sum over ``clients`` whose total noise has at most the deviation ``noise``, in units
    of x.

    Eleven deviations of head-room, more than 64-bit uniforms can reach (and a tenth to spare for
    rounding).
    """
    count = math.floor((HALF - 1) / (clients + 11.0 * noise))
    if count < 2**10:
        raise ValueError(
            f"{clients} clients with noise {noise:g} leave {count} levels in 32 bits: too few to "
            "round to"
        )
    return count


def rounded_norm(count: int, sensitivity: float, length: int) -> float:
    r"""The largest norm :math:`K S + \sqrt d` of a rounded vector, in quanta, to which
    noise is calibrated."""
    return count * sensitivity + math.sqrt(length)


def add_rounded(
    total: NDArray[np.uint32], row: NDArray[np.float64], count: int, entropy: Entropy
) -> float:
    """Add one client's vector, rounded, to ``total`` in place; returns its norm in quanta.

    Args:
        total: ``[D]`` numbers modulo 2^32.
        row: the client's ``[D]`` real numbers, at most S in norm.
        count: K, levels per unit.
        entropy: source of the rounding.
    """
    square = 0.0
    room = min(BLOCK, len(row))
    scaled = np.empty(room)
    chance = np.empty(room)
    for start in range(0, len(row), BLOCK):
        part = row[start : start + BLOCK]
        value = scaled[: len(part)]
        up = chance[: len(part)]
        np.multiply(part, float(count), out=value)
        np.multiply(entropy.words(len(part)), 2.0**-32, out=up)
        np.add(value, up, out=value)
        np.floor(value, out=value)
        square += float(np.dot(value, value))
        if not math.isfinite(square):  # as an integer NaN would be -2^31
            raise ArithmeticError("a contribution holds numbers that are not finite")
        quanta = value.astype(np.int32)  # |q| <= K + 1 < 2^31
        total[start : start + BLOCK] += quanta.view(np.uint32)
    return math.sqrt(square)


def add_dithered(
    total: NDArray[np.uint32], row: NDArray[np.float64], count: int, entropy: Entropy
) -> None:
    r"""The same with :math:`q(x) = \mathrm{rint}(K x + N(0, 16))`.

    How a stochastically rounded number is spread depends on its fraction, so that many of them tell
    second moments of what the members hold. With a Gaussian of :data:`DITHER` levels before
    rounding, that dependence is of the order :math:`e^{-2 \pi^2 16} \approx 10^{-137}`.
    """
    for start in range(0, len(row), BLOCK):
        part = row[start : start + BLOCK]
        value = part * float(count) + DITHER * entropy.normal(len(part))
        if not np.isfinite(value).all():
            raise ArithmeticError("a contribution holds numbers that are not finite")
        quanta = np.rint(value).astype(np.int64)
        total[start : start + BLOCK] += quanta.astype(np.uint32)


def signed(total: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The sums as they were before they wrapped: in quanta, with room for central noise."""
    return total.view(np.int32).astype(np.int64)
