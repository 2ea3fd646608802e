r"""Signed distances as networks: on a positional encoding, or behind a hash grid.

*SAL: Sign Agnostic Learning of Shapes from Raw Data*, M. Atzmon, Y. Lipman, CVPR 2020,
https://arxiv.org/abs/1911.10414 (the initialisation that makes a network a ball) and *Multiview
Neural Surface Reconstruction by Disentangling Geometry and Appearance*, L. Yariv et al., NeurIPS
2020, https://arxiv.org/abs/2003.09852 (encoding and skip). Without their weight normalisation.

Layer l has weights :math:`\mathcal N(0, 2 / d_l)` and no bias, so that a layer of softplus units of
sharpness 100 (nearly ReLU) keeps the length of its input; the last one has weights
:math:`\mathcal N(\sqrt{\pi / d}, 10^{-4})` and the bias :math:`-r`, hence :math:`f(x) \approx
|x| - r`. Columns of the encoding and of the hash features begin at zero. A rough ball: directions
are drawn, and softplus lies above ReLU.

Normals are derivatives with respect to the place, and are differentiated again by a step: several
times the work of the dense grid, meant for a GPU.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

from tasks.fields.hashgrid import HashGrid
from tasks.fields.radiance import Space
from tasks.fields.sdf import BOX, FEATURES, NEAR_SURFACE, START, Reading, corners
from tasks.params import Layout

OCTAVES = 6  # of the positional encoding
SHARP = 100.0  # of softplus
POINTS = 1024  # of the cube, at which a step looks at slopes
CHUNK = 32_768  # points read at once without gradients
COARSEST = 8  # cells per side of a hash grid's first level
FINEST = 128


@dataclass(frozen=True)
class Stack:
    """Hidden layers of softplus between ``inputs`` and a distance with its features, ``skip``: the
    inputs come in again halfway."""

    inputs: int
    depth: int
    width: int
    skip: bool

    @cached_property
    def layout(self) -> Layout:
        """``weight.<l>`` and ``bias.<l>``."""
        shapes: dict[str, tuple[int, ...]] = {}
        sizes = [self.inputs, *[self.width] * self.depth, 1 + FEATURES]
        for layer, (before, after) in enumerate(itertools.pairwise(sizes)):
            wider = self.inputs if layer == self._again else 0
            shapes[f"weight.{layer}"] = (after, before + wider)
            shapes[f"bias.{layer}"] = (after,)
        return Layout.of(shapes)

    @property
    def _again(self) -> int:
        """The layer that sees the inputs again; -1: none."""
        return self.depth // 2 if self.skip and self.depth > 1 else -1

    def start(self, vector: Tensor, stream: torch.Generator) -> None:
        """Fill ``vector [P]`` with a ball; the first three inputs are the place, in units of the
        box."""
        params = self.layout.unflatten(vector)
        for layer in range(self.depth + 1):
            weight, bias = params[f"weight.{layer}"], params[f"bias.{layer}"]
            if layer == self.depth:
                # the distance comes first; features start small around zero
                weight.normal_(0, 0.05, generator=stream)
                weight[0].normal_(math.sqrt(math.pi / weight.shape[1]), 1e-4, generator=stream)
                bias.zero_()
                bias[0] = -START / BOX
                continue
            weight.normal_(0, math.sqrt(2 / weight.shape[0]), generator=stream)
            bias.zero_()
            if layer == 0:
                weight[:, 3:] = 0
            elif layer == self._again:
                weight[:, self.width + 3 :] = 0

    def __call__(self, vector: Tensor, inputs: Tensor) -> Tensor:
        """``inputs [P, I] -> [P, 1 + F]``, distances in units of the box."""
        params = self.layout.unflatten(vector)
        found = inputs
        for layer in range(self.depth + 1):
            if layer == self._again:
                found = torch.cat([found, inputs], 1) / math.sqrt(2)
            found = linear(found, params[f"weight.{layer}"], params[f"bias.{layer}"])
            if layer < self.depth:
                found = softplus(found, beta=SHARP)
        return found


def encoded(places: Tensor) -> Tensor:
    """``[P, 3] -> [P, 3 + 6 OCTAVES]``: the place, sines and cosines of its octaves."""
    waves = [
        wave(math.pi * 2**octave * places)
        for octave in range(OCTAVES)
        for wave in (torch.sin, torch.cos)
    ]
    return torch.cat([places, *waves], 1)


class _Network(ABC):
    """What both have in common: one vector of parameters, whatever the resolution."""

    def refined(self, field: Tensor, side: int) -> Tensor:
        return field

    def ready(self, field: Tensor, side: int) -> NetworkVolume:
        return NetworkVolume(self, field, side)

    @abstractmethod
    def values(self, field: Tensor, points: Tensor, side: int) -> Tensor:
        """``points [P, 3] -> [P, 1 + F]``: distances in head heights, and features."""


@dataclass(frozen=True)
class MlpDistance(_Network):
    """A network on a positional encoding; a resolution of ``side`` corners means nothing to it but
    how finely its surface is cut."""

    depth: int = 8
    width: int = 256

    @cached_property
    def stack(self) -> Stack:
        """Its layers."""
        return Stack(3 + 6 * OCTAVES, self.depth, self.width, skip=True)

    def start(self, side: int, stream: torch.Generator) -> Tensor:
        field = torch.empty(self.stack.layout.size)
        self.stack.start(field, stream)
        return field

    def values(self, field: Tensor, points: Tensor, side: int) -> Tensor:
        return _in_heights(self.stack(field, encoded(points / BOX)))


@dataclass(frozen=True)
class HashDistance(_Network):
    """A hash grid (:mod:`tasks.fields.hashgrid`) before one hidden layer; levels finer than
    ``side`` corners stay silent, which is what coarse to fine means here."""

    levels: int = 8
    table: int = 14

    @cached_property
    def grid(self) -> HashGrid:
        """Its tables, over the cube."""
        return HashGrid(
            Space(0.0, 2 * BOX), levels=self.levels, table=self.table, coarsest=COARSEST,
            finest=FINEST,
        )  # fmt: skip

    @cached_property
    def stack(self) -> Stack:
        """Its layers."""
        return Stack(3 + self.levels * self.grid.features, 1, 64, skip=False)

    @property
    def _tables(self) -> tuple[int, int, int]:
        return (self.levels, 2**self.table, self.grid.features)

    def start(self, side: int, stream: torch.Generator) -> Tensor:
        size = math.prod(self._tables)
        field = torch.empty(size + self.stack.layout.size)
        field[:size].uniform_(-1e-4, 1e-4, generator=stream)
        self.stack.start(field[size:], stream)
        return field

    def values(self, field: Tensor, points: Tensor, side: int) -> Tensor:
        size = math.prod(self._tables)
        tables = field[:size].view(1, *self._tables)
        features = self.grid.features_of(tables, points[None])[0]
        heard = torch.tensor(
            [float(level == 0 or cells < side) for level, cells in enumerate(self.grid.resolutions)]
        ).repeat_interleave(self.grid.features)
        return _in_heights(self.stack(field[size:], torch.cat([points / BOX, features * heard], 1)))


def _in_heights(found: Tensor) -> Tensor:
    return torch.cat([found[:, :1] * BOX, found[:, 1:]], 1)


class NetworkVolume:
    """A network that is ready to be read (:class:`tasks.fields.distance.Readable`).

    Args:
        network: the representation.
        field: its parameters ``[P]``.
        side: corners per axis of its lattice.
    """

    def __init__(self, network: _Network, field: Tensor, side: int) -> None:
        self.network = network
        self.field = field
        self.side = side

    def read(self, points: Tensor) -> Reading:
        """Everything at ``points [P, 3]``, the normal by a derivative."""
        if torch.is_grad_enabled():
            return self._read(points, again=True)
        parts = [self._read(some, again=False) for some in points.split(CHUNK)]
        return Reading(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _read(self, points: Tensor, again: bool) -> Reading:
        with torch.enable_grad():
            places = points.detach().requires_grad_()
            found = self.network.values(self.field, places, self.side)
            (normal,) = torch.autograd.grad(found[:, 0].sum(), places, create_graph=again)
        reading = Reading(found[:, 0], normal, found[:, 1:])
        return reading if again else Reading(*(part.detach() for part in reading))

    @torch.no_grad()
    def sdf(self, points: Tensor) -> Tensor:
        """Distances ``[...]`` at ``points [..., 3]``; no gradients."""
        parts = [
            self.network.values(self.field, some, self.side)[:, 0]
            for some in points.reshape(-1, 3).split(CHUNK)
        ]
        return torch.cat(parts).view(points.shape[:-1])

    def lattice(self) -> Tensor:
        """Distances ``[S, S, S]`` at the cube's corners, without gradients."""
        return self.sdf(corners(self.side))

    def eikonal(self, stream: torch.Generator) -> Tensor:
        """Over places drawn from the cube."""
        normal = self.read(_drawn(stream)).normal
        return (normal.square().sum(1).clamp(min=1e-12).sqrt() - 1).square().mean()

    def curvature(self, stream: torch.Generator) -> Tensor:
        """At those drawn places that are near the surface; 0 where none is."""
        points = _drawn(stream)
        points = points[self.sdf(points).abs() < NEAR_SURFACE]
        if not len(points):
            return torch.zeros(())
        cell = 2 * BOX / (self.side - 1)
        steps = cell * torch.cat([torch.zeros(1, 3), torch.eye(3), -torch.eye(3)])
        around = (points[:, None] + steps).view(-1, 3)
        found = self.network.values(self.field, around, self.side)[:, 0].view(-1, 7)
        return ((found[:, 1:].sum(1) - 6 * found[:, 0]) / cell).abs().mean()


def _drawn(stream: torch.Generator) -> Tensor:
    return (torch.rand(POINTS, 3, generator=stream) * 2 - 1) * BOX
