r"""One joint vector per client, one Gaussian event: everything a private round learns of a client.

.. math::
    x_k &= \big[\, u_k\, \tfrac{\pi_C(\Delta_k)}{C};\ \rho_w u_k;\
        2\rho_b (b_k - \tfrac12);\ \rho_m m_k \,\big], \\
    S^2 &= 1 + \rho_w^2 + \rho_b^2 + p\,\rho_m^2

with :math:`\pi_C` the L2 clip of the whole vector, :math:`u_k = \min(n_k, n_{max})/n_{max} \in [0,
1]` the bounded weight (or the rule's own, such as ISFA's reliability, over the largest it can be),
:math:`b_k = 1[\lVert\Delta_k\rVert \le C]` the clip bit and :math:`m_k \in [-1, 1]^p` bounded
scalars. A block with :math:`\rho = 0` is not sent. :math:`\lVert x_k\rVert \le S` whatever the
client holds; a client whose update is not finite abstains (:math:`x_k = 0`). With noise
:math:`N(0, (zS)^2 I)` on the sum, block i has the effective multiplier :math:`z S/\rho_i`, and
:math:`\sum_i (\rho_i/(zS))^2 = z^{-2}`: one event with multiplier z under zero-out adjacency, the
weights and the clip bit included.

Generalises the count of *Differentially Private Learning with Adaptive Clipping*, G. Andrew, O.
Thakkar, H. B. McMahan, S. Ramaswamy, NeurIPS 2021, https://arxiv.org/abs/1905.03871.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from strategies.types import Bounds, Contribution

# Trailing coordinates that are always zero: masks that do not cancel go unnoticed once in 2^128
CHECK = 4
CLIP_MOVES = 1000.0  # an adaptive clip stays within this factor of where it started


@dataclass(frozen=True)
class JointVector:
    """The layout of x: V numbers of the rule, then weight, clip bit and scalars (``{name:
    Bounds}``)."""

    size: int
    rho_weight: float = 0.0
    rho_bit: float = 0.0
    rho_scalar: float = 0.0
    ranges: Mapping[str, Bounds] = field(default_factory=dict)
    max_examples: int = 0

    @property
    def length(self) -> int:
        """D, coordinates of x without the check block."""
        return self.size + bool(self.rho_weight) + bool(self.rho_bit) + len(self.ranges)

    @property
    def sensitivity(self) -> float:
        """S, the largest L2 norm of x."""
        blocks = self.rho_weight**2 + self.rho_bit**2 + len(self.ranges) * self.rho_scalar**2
        return math.sqrt(1.0 + blocks)

    def pack(self, contribution: Contribution, clip: float) -> NDArray[np.float64]:
        """``[C, D]``: each client clipped on its own; rows of zeros where a client abstains."""
        vector = contribution.vector.detach().cpu().numpy().astype(np.float64)
        rows = np.zeros((len(vector), self.length))
        norm = _norms(vector)
        weight = self._weight(contribution)
        scalars = [self._scalar(contribution, name, clip, weight) for name in self.ranges]
        sound = np.isfinite(norm) & np.isfinite(weight)
        scale = np.where(sound, weight * _share(norm, clip) / clip, 0.0)
        np.multiply(vector, scale[:, None], out=rows[:, : self.size], where=sound[:, None])
        place = self.size
        if self.rho_weight:
            rows[:, place] = self.rho_weight * np.where(sound, weight, 0.0)
            place += 1
        if self.rho_bit:
            rows[:, place] = np.where(sound, 2 * self.rho_bit * ((norm <= clip) - 0.5), 0.0)
            place += 1
        for offset, values in enumerate(scalars):
            rows[:, place + offset] = np.where(sound, self.rho_scalar * values, 0.0)
        # NaN passes every comparison with a bound: whoever has one, from whatever corner, abstains
        rows[~np.isfinite(rows).all(axis=1)] = 0.0
        # Every block is bounded already; this takes off what rounding of the norms may add
        length = np.sqrt(np.einsum("cd,cd->c", rows, rows))
        rows *= np.minimum(1.0, self.sensitivity / np.maximum(length, 1e-300))[:, None]
        return rows

    def clip_factor(self, contribution: Contribution, clip: float) -> NDArray[np.float64]:
        """min(1, C / norm) of each client ``[C]``, 0 for one that abstains."""
        return _share(_norms(contribution.vector.detach().cpu().numpy().astype(np.float64)), clip)

    def _weight(self, contribution: Contribution) -> NDArray[np.float64]:
        given = contribution.weight.detach().cpu().numpy().astype(np.float64)
        if contribution.largest:
            return np.clip(given, 0.0, contribution.largest) / contribution.largest
        if not self.max_examples:
            return np.where(np.isfinite(given), 1.0, np.nan)
        return np.clip(given, 0.0, self.max_examples) / self.max_examples

    def _scalar(
        self, contribution: Contribution, name: str, clip: float, weight: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The scalar mapped from its range to [-1, 1]; 0, the middle, where it is not a number.

        A weighted one is u times its share of [0, high] instead: nothing for those who weigh
        nothing.
        """
        low, high, power, weighted = self.ranges[name]
        values = (
            contribution.scalars[name].value.detach().cpu().numpy().astype(np.float64) / clip**power
        )
        share = np.clip((values - low) / (high - low), 0.0, 1.0)
        return np.nan_to_num(weight * share if weighted else share * 2.0 - 1.0, nan=0.0)

    def unpack(self, total: NDArray[np.float64]) -> Sums:
        """The blocks of a sum, each divided by its rho."""
        place = self.size
        weight = bit = None
        if self.rho_weight:
            weight = float(total[place]) / self.rho_weight
            place += 1
        if self.rho_bit:
            bit = float(total[place]) / (2 * self.rho_bit)
            place += 1
        scalars = {
            name: float(total[place + offset]) / self.rho_scalar
            for offset, name in enumerate(self.ranges)
        }
        return Sums(total[: self.size], weight, bit, scalars)

    def scalar_sum(self, name: str, total: float, clients: float, clip: float) -> float:
        """Sum of a scalar itself (of u times it, if it is weighted), from the sum of its m.

        Args:
            name: of the scalar, one of ``ranges``.
            total: the sum of m.
            clients: number of clients in the sum.
            clip: C of the round.
        """
        low, high, power, weighted = self.ranges[name]
        if weighted:
            return total * high * clip**power
        return ((total + clients) / 2 * (high - low) + clients * low) * clip**power


def _norms(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.einsum("cv,cv->c", vector, vector))


def _share(norm: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    """Factor by which a clip scales vectors of these norms: min(1, C / norm), 0 where there is no
    number."""
    return np.where(np.isfinite(norm), clip / np.maximum(norm, clip), 0.0)


@dataclass(frozen=True)
class Sums:
    """Blocks of a summed joint vector.

    ``vector`` = sum of u pi(Delta)/C ``[V]``; ``weight`` = sum of u; ``bit`` = sum of (b - 1/2).
    """

    vector: NDArray[np.float64]
    weight: float | None
    bit: float | None
    scalars: dict[str, float]


def adapt_clip(clip: float, unclipped: float, quantile: float, rate: float, start: float) -> float:
    r"""The next C: :math:`C \exp(-\eta_C (\bar b - \gamma))` (Andrew et al., eq. 1).

    C stays within a factor 1000 of where it started: one round's noise cannot throw it away.

    Args:
        clip: C of the round that was released.
        unclipped: noisy share of clients whose norm is at most C: if too many are, C shrinks.
        quantile: gamma, the share that should be, in (0, 1).
        rate: eta_C, the step in log C.
        start: C of the first round.
    """
    share = min(max(unclipped, 0.0), 1.0)
    moved = clip * math.exp(-rate * (share - quantile))
    return min(max(moved, start / CLIP_MOVES), start * CLIP_MOVES)
