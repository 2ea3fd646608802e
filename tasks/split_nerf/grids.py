r"""Encoders of positions: feature grids, dense or hashed, of several resolutions.

*Instant Neural Graphics Primitives with a Multiresolution Hash Encoding*, T. Mueller, A. Evans, C.
Schied, A. Keller, SIGGRAPH 2022, https://arxiv.org/abs/2201.05989; a dense level stores every
corner. A point's feature at level l is

.. math:: h_l(x) = \sum_{c=1}^{8} w_c(x)\, \theta_l[i_c(x)],

the trilinear mean of its cell's corners: *linear* in the table, which secret sharing needs
(:mod:`privacy.sealed`). Reading a table is a product with a sparse matrix of 8 weights per row, and
its transpose pulls gradients back; in rings as in floats (SciPy's products wrap around as int64
does).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from tasks.fields.hashgrid import PRIMES

SPREAD = 1e-4  # tables start uniform in +- this
CORNERS = torch.tensor([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], dtype=torch.int32)


class Visits(NamedTuple):
    """Corners around M points: ``rows [L, M, 8]`` (int32) of the table, ``weights [L, M, 8]`` that
    add up to 1 per level."""

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
            scaled = (points * side).T.contiguous()
            low = scaled.floor().clamp(max=side - 1)
            weights.append(_products(scaled - low))
            corner = low.int()
            if size == (side + 1) ** 3:
                base = (corner[0] * (side + 1) + corner[1]) * (side + 1) + corner[2]
                strides = torch.tensor([(side + 1) ** 2, side + 1, 1], dtype=torch.int32)
                found = base[:, None] + (CORNERS * strides).sum(1, dtype=torch.int32)
            else:
                at = corner.T.long()[:, None] + CORNERS
                mixed = [at[..., axis] * prime for axis, prime in enumerate(PRIMES)]
                found = ((mixed[0] ^ mixed[1] ^ mixed[2]) % size).int()
            rows.append(found + first)
            first += size
        return Visits(torch.stack(rows), torch.stack(weights))

    def read(self, table: Tensor, visits: Visits) -> Tensor:
        """Features ``[M, L F]`` from ``table [R, F]``, of floats or of ring elements (no autograd:
        :meth:`pull_back` is the gradient)."""
        found = torch.from_numpy(self._matrix(visits, table.dtype) @ table.numpy())
        levels, points = visits.rows.shape[:2]
        return found.view(levels, points, -1).transpose(0, 1).reshape(points, -1)

    def pull_back(self, gradient: Tensor, visits: Visits) -> Tensor:
        """The transpose of :meth:`read`: ``gradient [M, L F] -> [R, F]``."""
        parts = gradient.view(len(gradient), len(self.cells), self.features).transpose(0, 1)
        onto = parts.reshape(-1, self.features).numpy()
        return torch.from_numpy(self._matrix(visits, gradient.dtype).T @ onto)

    def _matrix(self, visits: Visits, dtype: torch.dtype) -> csr_matrix:
        """Weights as a sparse matrix ``[L M, R]``."""
        weights = visits.weights.to(dtype).reshape(-1).numpy()
        ends = np.arange(0, weights.size + 1, 8, dtype=np.int32)
        shape = (len(ends) - 1, self.rows)
        return csr_matrix((weights, visits.rows.reshape(-1).numpy(), ends), shape=shape)

    def visited(self, visits: Visits) -> Tensor:
        """Sum of the weights ``[R]`` with which a batch visits each row."""
        found = visits.weights.new_zeros(self.rows)
        return found.index_add_(0, visits.rows.reshape(-1), visits.weights.reshape(-1))


def _products(part: Tensor) -> Tensor:
    """Trilinear weights ``[M, 8]`` in the order of ``CORNERS`` of points that lie ``part [3, M]``
    between two corners of each axis."""
    x, y, z = part
    rest_x, rest_y, rest_z = 1 - part
    found = part.new_empty(part.shape[1], 8)
    for pair, plane in enumerate((rest_x * rest_y, rest_x * y, x * rest_y, x * y)):
        torch.mul(plane, rest_z, out=found[:, 2 * pair])
        torch.mul(plane, z, out=found[:, 2 * pair + 1])
    return found
