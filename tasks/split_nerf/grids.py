r"""Encoders of positions: feature grids, dense or hashed, of several resolutions.

*Instant Neural Graphics Primitives with a Multiresolution Hash Encoding*, T. Mueller, A. Evans, C.
Schied, A. Keller, SIGGRAPH 2022, https://arxiv.org/abs/2201.05989; a dense level stores every
corner. A point's feature at level l is

.. math:: h_l(x) = \sum_{c=1}^{8} w_c(x)\, \theta_l[i_c(x)],

the trilinear mean of its cell's corners: *linear* in the table, which secret sharing needs
(:mod:`privacy.sealed`). Both operations on a table are one gather and one scatter per level and
corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.fields.hashgrid import PRIMES

SPREAD = 1e-4  # tables start uniform in +- this
CORNERS = torch.tensor([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])


class Visits(NamedTuple):
    """Corners around M points: ``rows [L, M, 8]`` of the table, ``weights [L, M, 8]`` that add up
    to 1 per level."""

    rows: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Grid:
    """A table of ``rows`` rows and ``features`` columns behind ``cells`` (per side, of each level).

    Args:
        cells: of each level, coarse to fine.
        features: F, numbers per row.
        hashed: rows of a level at most; a level with more corners shares them by hashing. 0: every
            level is dense.
    """

    cells: tuple[int, ...]
    features: int
    hashed: int = 0

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each level."""
        full = [(side + 1) ** 3 for side in self.cells]
        return [min(count, self.hashed) if self.hashed else count for count in full]

    @property
    def rows(self) -> int:
        """Rows of the whole table."""
        return sum(self.sizes)

    @property
    def width(self) -> int:
        """Numbers of a point's feature: L F."""
        return len(self.cells) * self.features

    def init(self, generator: torch.Generator) -> Tensor:
        """A table ``[R, F]`` uniform near zero."""
        return torch.empty(self.rows, self.features).uniform_(-SPREAD, SPREAD, generator=generator)

    def visit(self, points: Tensor) -> Visits:
        """The corners around ``points [M, 3]`` in [0, 1]^3."""
        rows, weights = [], []
        first = 0
        for side, size in zip(self.cells, self.sizes, strict=True):
            scaled = points * side
            low = scaled.floor().clamp(max=side - 1)
            part = scaled - low
            weights.append(_products(1 - part, part))
            corner = low.long()
            if size == (side + 1) ** 3:
                base = (corner[:, 0] * (side + 1) + corner[:, 1]) * (side + 1) + corner[:, 2]
                step = torch.tensor([(side + 1) ** 2, side + 1, 1])
                found = base[:, None] + CORNERS @ step
            else:
                at = corner[:, None] + CORNERS
                mixed = [at[..., axis] * prime for axis, prime in enumerate(PRIMES)]
                found = (mixed[0] ^ mixed[1] ^ mixed[2]) % size
            rows.append(found + first)
            first += size
        return Visits(torch.stack(rows), torch.stack(weights))

    def read(self, table: Tensor, visits: Visits) -> Tensor:
        """Features ``[M, L F]`` from ``table [R, F]``, of floats or of ring elements."""
        parts = [
            (table[rows] * weights[..., None]).sum(1)
            for rows, weights in zip(visits.rows, visits.weights, strict=True)
        ]
        return torch.cat(parts, 1)

    def pull_back(self, gradient: Tensor, visits: Visits) -> Tensor:
        """The transpose of :meth:`read`: ``gradient [M, L F] -> [R, F]``."""
        found = gradient.new_zeros(self.rows, self.features)
        parts = gradient.split(self.features, 1)
        for part, rows, weights in zip(parts, visits.rows, visits.weights, strict=True):
            spread = weights[..., None] * part[:, None]
            found.index_add_(0, rows.reshape(-1), spread.reshape(-1, self.features))
        return found

    def visited(self, visits: Visits) -> Tensor:
        """Sum of the weights ``[R]`` with which a batch visits each row."""
        found = visits.weights.new_zeros(self.rows)
        return found.index_add_(0, visits.rows.reshape(-1), visits.weights.reshape(-1))


def _products(low: Tensor, high: Tensor) -> Tensor:
    """Trilinear weights ``[M, 8]`` from each axis's two ``[M, 3]``, in the order of ``CORNERS``."""
    x, y, z = (torch.stack([low[:, axis], high[:, axis]], 1) for axis in range(3))
    return (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]).reshape(-1, 8)
