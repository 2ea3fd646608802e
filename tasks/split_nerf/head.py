r"""The layers between features and colours, and where they are cut.

As in the released program of S2NeRF (Apache-2.0; read for facts): no biases,

.. math::
    u = \mathrm{relu}(W_1 h(x)), \quad (s, g) = W_2 u, \quad \sigma = e^{s}, \quad
    c = \mathrm{sigmoid}(\mathrm{MLP}(\mathrm{SH}(d), g))

with 15 numbers g and spherical harmonics of the direction d up to degree 4. The cut says how many
of
these layers the server holds: ``features`` none (h crosses), ``hidden`` the first (u crosses: the
published cut), ``geometry`` two (s and g cross: the server then knows the density).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from tasks.params import Layout
from tasks.split_nerf.scene import Samples

Cut = Literal["features", "hidden", "geometry"]
CUTS: dict[str, int] = {"features": 0, "hidden": 1, "geometry": 2}  # layers on the server
GEOMETRY = 16  # the density's logarithm and 15 numbers for the colour
HARMONICS = 16
OPAQUE = 100.0
STEEPEST = 15.0  # of the logarithm of a density, as far as its gradient goes


Uniform = Callable[[int], Tensor]  # count -> so many numbers in [0, 1]


def named(generator: torch.Generator) -> Uniform:
    """Numbers of a public stream. Never for what must stay secret: torch's CPU generator keeps 32
    bits of its seed."""
    return lambda count: torch.rand(count, generator=generator)


@dataclass(frozen=True)
class Head:
    """Widths of the layers behind ``inputs`` features.

    Args:
        inputs: L F.
        width: units of the first layer.
        colour: units of each hidden layer of the colour network.
        depth: its hidden layers.
        cut: how much of it the server holds.
    """

    inputs: int
    width: int = 64
    colour: int = 64
    depth: int = 2
    cut: Cut = "hidden"

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """All layers ``[out, in]``, in order."""
        widths = [HARMONICS + GEOMETRY - 1, *[self.colour] * self.depth, 3]
        colour = {f"colour.{i}": (widths[i + 1], widths[i]) for i in range(len(widths) - 1)}
        return {
            "sigma.0": (self.width, self.inputs),
            "sigma.1": (GEOMETRY, self.width),
            **colour,
        }

    @cached_property
    def server(self) -> Layout:
        """Layers before the cut."""
        return Layout.of(dict(list(self.shapes.items())[: CUTS[self.cut]]))

    @cached_property
    def client(self) -> Layout:
        """Layers behind it."""
        return Layout.of(dict(list(self.shapes.items())[CUTS[self.cut] :]))

    @property
    def crossing(self) -> int:
        """W, numbers per sample that cross."""
        return (self.inputs, self.width, GEOMETRY)[CUTS[self.cut]]

    @property
    def arithmetic(self) -> tuple[int, int]:
        """Multiply-adds per sample of the layers (before the cut, behind it)."""
        each = [math.prod(shape) for shape in self.shapes.values()]
        here = CUTS[self.cut]
        return sum(each[:here]), sum(each[here:])

    def init(self, layout: Layout, uniform: Uniform) -> Tensor:
        """Initial weights ``[P]`` of a part, as in ``torch.nn.Linear``."""
        vector = torch.empty(layout.size)
        for weight in layout.unflatten(vector).values():
            bound = weight.shape[1] ** -0.5
            weight.copy_((2 * uniform(weight.numel()) - 1).mul(bound).view(weight.shape))
        return vector

    def embed(self, params: Tensor, features: Tensor) -> Tensor:
        """The server's layers: ``features [M, L F] -> [M, W]``."""
        layers = self.server.unflatten(params)
        if CUTS[self.cut] >= 1:
            features = torch.relu(features @ layers["sigma.0"].T)
        if CUTS[self.cut] >= 2:
            features = features @ layers["sigma.1"].T
        return features

    def shade(self, params: Tensor, crossing: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The client's layers.

        Args:
            params: ``[P]``.
            crossing: ``[B, S, W]``.
            directions: of unit length, ``[B, 3]``.

        Returns:
            Density ``[B, S]`` and colour ``[B, S, 3]`` in [0, 1].
        """
        layers = self.client.unflatten(params)
        if CUTS[self.cut] < 1:
            crossing = torch.relu(crossing @ layers["sigma.0"].T)
        if CUTS[self.cut] < 2:
            crossing = crossing @ layers["sigma.1"].T
        density = density_of(crossing[..., 0])
        first = layers["colour.0"]
        # The direction is one per ray: its part of the first product is done once
        hidden = crossing[..., 1:] @ first[:, HARMONICS:].T
        hidden = hidden + (harmonics(directions) @ first[:, :HARMONICS].T)[:, None]
        for index in range(1, self.depth + 1):
            hidden = torch.relu(hidden) @ layers[f"colour.{index}"].T
        return density, torch.sigmoid(hidden)


class _Exponential(torch.autograd.Function):
    """exp whose gradient is that of a clamped exponent, as in the released program; any order."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * torch.exp(x.clamp(-STEEPEST, STEEPEST))


def density_of(logarithm: Tensor) -> Tensor:
    """exp of the network's output."""
    found: Tensor = _Exponential.apply(logarithm)
    return found


def harmonics(directions: Tensor) -> Tensor:
    """Real spherical harmonics of degree 0 to 3 (16 numbers) of unit ``directions [..., 3]``."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    found: Sequence[Tensor] = (
        torch.full_like(x, 0.28209479),
        -0.48860251 * y,
        0.48860251 * z,
        -0.48860251 * x,
        1.09254843 * x * y,
        -1.09254843 * y * z,
        0.31539157 * (3 * zz - 1),
        -1.09254843 * x * z,
        0.54627422 * (xx - yy),
        -0.59004359 * y * (3 * xx - yy),
        2.89061144 * x * y * z,
        -0.45704580 * y * (5 * zz - 1),
        0.37317633 * z * (5 * zz - 3),
        -0.45704580 * x * (5 * zz - 1),
        1.44530572 * z * (xx - yy),
        -0.59004359 * x * (xx - 3 * yy),
    )
    return torch.stack(list(found), -1)


def composite(density: Tensor, colour: Tensor, samples: Samples, background: float) -> Tensor:
    """Colours ``[B, 3]`` of rays (:mod:`tasks.render.volume`), each with a spacing of its own."""
    from tasks.render import volume

    return volume.composite(colour, _weights(density, samples), background)


def _weights(density: Tensor, samples: Samples) -> Tensor:
    """Weights ``[B, S]`` of samples. Densities are exponentials and may be infinite: through
    ``OPAQUE`` optical lengths nothing passes in 32 bits, and nothing has a slope."""
    from tasks.render import volume

    return volume.weights((density * samples.spacing[:, None]).clamp(max=OPAQUE), 1.0)


def expected_depth(density: Tensor, samples: Samples) -> Tensor:
    """Expected distance ``[B]`` along each ray; what passes through counts as its far end."""
    weight = _weights(density, samples)
    far = samples.distance[:, -1:] + samples.spacing[:, None] / 2
    return (weight * (samples.distance - far)).sum(-1) + far[:, 0]
