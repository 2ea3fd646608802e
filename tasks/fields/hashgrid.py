r"""A radiance field on a multi-resolution hash grid, in plain torch and stacked over clients.

*Instant Neural Graphics Primitives with a Multiresolution Hash Encoding*, T. Mueller, A. Evans, C.
Schied, A. Keller, SIGGRAPH 2022, https://arxiv.org/abs/2201.05989.

.. math::
    N_l = \Big\lfloor N_{\min} \Big(\tfrac{N_{\max}}{N_{\min}}\Big)^{l/(L-1)} \Big\rfloor, \qquad
    h(i) = \Big(\bigoplus_d i_d \pi_d\Big) \bmod T, \qquad \pi = (1, 2654435761, 805459861)

A point's feature at level l is the trilinear mean of the table rows of its cell's eight corners;
levels whose corners all fit into the table are stored without hashing. The features of all levels
go through a small ReLU network. Unlike the published CUDA library, all of it can be differentiated
twice with respect to the parameters, which MAML needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tasks.fields.network import Network, Relu
from tasks.fields.radiance import Space
from tasks.params import Layout
from tasks.render.marching import RAY, Dense, Sparse
from tasks.types import Batch

PRIMES = (1, 2654435761, 805459861)
SPREAD = 1e-4  # tables start uniform in +- this (section 3 of the paper)


@dataclass(frozen=True)
class HashGrid:
    """Architecture: ``levels`` tables of ``2**table`` rows of ``features``, then hidden layers."""

    space: Space
    width: int = 64
    depth: int = 1
    levels: int = 8
    table: int = 12
    features: int = 2
    coarsest: int = 4
    finest: int = 64

    inputs = RAY
    outputs = 3
    bounded = True

    @cached_property
    def network(self) -> Network:
        """The layers behind the features."""
        return Network((self.levels * self.features, *[self.width] * self.depth, 4), Relu())

    @cached_property
    def layout(self) -> Layout:
        """``tables [L, T, F]``, then the network's layers."""
        shapes = {name: shape for name, shape, _ in self.network.layout.entries}
        return Layout.of({"tables": (self.levels, 2**self.table, self.features), **shapes})

    @property
    def resolutions(self) -> list[int]:
        """Cells per side at each level."""
        growth = (self.finest / self.coarsest) ** (1 / max(self.levels - 1, 1))
        return [int(self.coarsest * growth**level + 1e-6) for level in range(self.levels)]

    def init(self, generator: torch.Generator) -> Tensor:
        """Initial parameters ``[P]``: tables near zero, layers as in ``torch.nn.Linear``."""
        vector = torch.empty(self.layout.size)
        params = self.layout.unflatten(vector)
        params["tables"].uniform_(-SPREAD, SPREAD, generator=generator)
        self.network.init(vector[self.layout.size - self.network.layout.size :], generator)
        return vector

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        """Bytes one client's second-order step keeps (corners, features, layers, and the graph of
        their gradient)."""
        samples = math.ceil(batch_size * self.space.samples * self.space.share)
        a_sample = 8 * self.levels * (self.features + 2) + 4 * self.width * self.depth
        return 8 * (inner_steps + 1) * (samples * a_sample + 2 * self.layout.size)

    def corners(self, points: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """``points [C, N, 3] -> (rows [C, N, 8] of the level's table, weights [C, N, 8] that add up
        to 1)``.

        Points outside the cube around the object (half the depth of space each way) are moved to
        its surface.
        """
        cells = self.resolutions[level]
        half = (self.space.far - self.space.near) / 2
        scaled = ((points / half + 1) / 2).clamp(0, 1) * cells
        low = scaled.floor().clamp(max=cells - 1)
        part = (scaled - low)[..., None, :]
        offset = torch.tensor(
            [[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], device=points.device
        )
        weight = torch.where(offset.bool(), part, 1 - part).prod(-1)
        corner = low.long()[..., None, :] + offset
        if (cells + 1) ** 3 <= 2**self.table:
            rows = (corner[..., 0] * (cells + 1) + corner[..., 1]) * (cells + 1) + corner[..., 2]
        else:
            x, y, z = (corner[..., axis] * prime for axis, prime in enumerate(PRIMES))
            rows = (x ^ y ^ z) % 2**self.table
        return rows, weight

    def features_of(self, tables: Tensor, points: Tensor) -> Tensor:
        """``tables [C, L, T, F], points [C, N, 3] -> [C, N, L F]``."""
        client = torch.arange(len(tables), device=tables.device)[:, None, None]
        parts = []
        for level in range(self.levels):
            rows, weight = self.corners(points, level)
            parts.append((tables[client, level, rows] * weight[..., None]).sum(-2))
        return torch.cat(parts, -1)

    def prepare(self, batch: Batch | Dense | Sparse) -> Dense | Sparse:
        """The points of a batch of rays; once is enough."""
        return self.space.march(batch) if isinstance(batch, Batch) else batch

    def __call__(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], rays [C, B, 6 to 9] -> colours [C, B, 3]`` in [0, 1], differentiable
        twice."""
        marched = self.space.march(Batch(inputs, inputs[..., :3]))
        return self.space.rendered(self._raw(params, marched.points), marched, inputs.shape[1])

    def _raw(self, params: Tensor, points: Tensor) -> Tensor:
        """Colour and density before their maps, ``points [C, M, 3] -> [C, M, 4]``."""
        features = self.features_of(self.layout.unflatten(params)["tables"], points)
        return self.network(params[:, self.layout.size - self.network.layout.size :], features)

    def loss(self, params: Tensor, batch: Batch | Dense | Sparse) -> Tensor:
        """Mean squared error over rays and channels, one value per client ``[C]``."""
        marched = self.prepare(batch)
        return self.space.loss(self._raw(params, marched.points), marched)
