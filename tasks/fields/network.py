r"""Fully connected networks stacked over clients, with first and second derivatives written out.

.. math:: a_0 = x,\quad z_l = a_{l-1} W_l^\top + b_l,\quad a_l = \sigma(z_l),\quad y = z_L

What is fitted to y (a squared error, a rendering) is the field's own; here is everything in between: a forward pass
that keeps what derivatives need (:class:`Tape`), backpropagation, and its directional derivative. Each layer costs a
handful of batched matrix products, and no graph is built, which is what makes the meta-gradient of a cohort fast
(``fedapp bench cohort``, ``fedapp bench fields``).

Letters: C clients, B samples, i/o layer inputs/outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tasks.params import Layout


class Activation(Protocol):
    """An elementwise non-linearity with its first two derivatives."""

    def __call__(self, z: Tensor) -> Tensor:
        """``sigma(z)``, differentiable."""

    def both(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``(sigma(z), sigma'(z))``; ``z`` may be overwritten."""

    def curve(self, error: Tensor, activation: Tensor, dot_z: Tensor) -> Tensor | None:
        """``error * sigma''(z) * dot_z`` from the kept ``activation``; ``None`` where it is zero."""


@dataclass(frozen=True)
class Sine:
    r""":math:`\sigma(z) = \sin(\omega_0 z)`, hence :math:`\sigma'' = -\omega_0^2 \sigma`."""

    omega: float

    def __call__(self, z: Tensor) -> Tensor:
        return torch.sin(self.omega * z)

    def both(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z.mul_(self.omega)
        slope = torch.cos(z).mul_(self.omega)
        return z.sin_(), slope

    def curve(self, error: Tensor, activation: Tensor, dot_z: Tensor) -> Tensor | None:
        return (error * activation).mul_(dot_z).mul_(-(self.omega**2))


class Relu:
    """max(z, 0): no curvature."""

    def __call__(self, z: Tensor) -> Tensor:
        return torch.relu(z)

    def both(self, z: Tensor) -> tuple[Tensor, Tensor]:
        slope = (z > 0).to(z)
        return z.relu_(), slope

    def curve(self, error: Tensor, activation: Tensor, dot_z: Tensor) -> Tensor | None:
        return None


class Tape(NamedTuple):
    """What a forward pass leaves behind; the backward pass fills ``deltas`` (dL/dz) and ``errors`` (dL/da)."""

    activations: list[Tensor]  # a_0 ... a_{L-1}
    slopes: list[Tensor]  # sigma'(z_l)
    deltas: list[Tensor]
    errors: list[Tensor | None]


class Tangent(NamedTuple):
    """Directional derivatives of a pass."""

    z: list[Tensor]  # of z_1 ... z_L; the last is that of y
    activations: list[Tensor]  # of a_1 ... a_{L-1}


class Network:
    """Layers of the given ``widths`` (input to output) and the algebra on them; parameters are ``[C, P]``."""

    def __init__(self, widths: Sequence[int], activation: Activation) -> None:
        self.widths, self.activation = tuple(widths), activation
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (i, o) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            shapes[f"layers.{index}.weight"] = (o, i)
            shapes[f"layers.{index}.bias"] = (o,)
        self.layout = Layout.of(shapes)

    def layers(self, params: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``params [C, P]`` as ``(W [C, o, i], b [C, 1, o])`` views, input side first."""
        named = self.layout.unflatten(params)
        return [
            (named[f"layers.{index}.weight"], named[f"layers.{index}.bias"].unsqueeze(1))
            for index in range(len(self.widths) - 1)
        ]

    def __call__(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], inputs [C, B, i] -> y [C, B, o]``, differentiable."""
        *hidden, (last_weight, last_bias) = self.layers(params)
        activation = inputs
        for weight, bias in hidden:
            activation = self.activation(torch.baddbmm(bias, activation, weight.mT))
        return torch.baddbmm(last_bias, activation, last_weight.mT)

    def forward(self, params: Tensor, inputs: Tensor) -> tuple[Tensor, Tape]:
        """y ``[C, B, o]`` and the tape; no graph."""
        layers = self.layers(params)
        activations, slopes = [inputs], []
        for weight, bias in layers[:-1]:
            activation, slope = self.activation.both(torch.baddbmm(bias, activations[-1], weight.mT))
            activations.append(activation)
            slopes.append(slope)
        weight, bias = layers[-1]
        output = torch.baddbmm(bias, activations[-1], weight.mT)
        return output, Tape(activations, slopes, [output] * len(layers), [None] * len(layers))

    def backward(self, params: Tensor, tape: Tape, delta: Tensor) -> Tensor:
        r"""The gradient ``[C, P]`` from :math:`\delta_L = \partial L/\partial y` ``[C, B, o]``.

        .. math:: e_l = \delta_l W_l,\quad \delta_{l-1} = e_l \odot \sigma'(z_{l-1}),\quad
            \partial W_l = \delta_l^\top a_{l-1},\quad \partial b_l = \sum_B \delta_l
        """
        layers = self.layers(params)
        pieces: list[Tensor] = []  # bias and weight of each layer, output side first
        for index in reversed(range(len(layers))):
            tape.deltas[index] = delta
            pieces += [delta.sum(1), torch.bmm(delta.mT, tape.activations[index]).flatten(1)]
            if index:
                error = torch.bmm(delta, layers[index][0])
                tape.errors[index] = error
                delta = error * tape.slopes[index - 1]
        return torch.cat(pieces[::-1], dim=1)

    def tangent(self, params: Tensor, vector: Tensor, tape: Tape) -> Tangent:
        r"""Directional derivatives along ``vector [C, P]``.

        .. math:: \dot z_l = a_{l-1} U_l^\top + c_l + \dot a_{l-1} W_l^\top, \qquad
            \dot a_l = \sigma'(z_l) \odot \dot z_l
        """
        dot = Tangent([], [])
        for index, ((weight, _), (direction, offset)) in enumerate(
            zip(self.layers(params), self.layers(vector), strict=True)
        ):
            z = torch.baddbmm(offset, tape.activations[index], direction.mT)
            if index:
                dot.activations.append(dot.z[-1] * tape.slopes[index - 1])
                z.baddbmm_(dot.activations[-1], weight.mT)
            dot.z.append(z)
        return dot

    def backward_tangent(self, params: Tensor, vector: Tensor, tape: Tape, tangent: Tangent, dot: Tensor) -> Tensor:
        r"""The Hessian-vector product ``[C, P]`` by Pearlmutter's R-operator (Neural Computation 6(1), 1994).

        ``tangent`` from :meth:`tangent`, ``dot`` the directional derivative of :math:`\delta_L`; with
        :math:`(U_l, c_l)` the direction,

        .. math::
            \dot e_l &= \dot\delta_l W_l + \delta_l U_l, \qquad
            \dot\delta_{l-1} = \dot e_l \odot \sigma'(z_{l-1}) + e_l \odot \sigma''(z_{l-1}) \odot \dot z_{l-1} \\
            (Hu)_{W_l} &= \dot\delta_l^\top a_{l-1} + \delta_l^\top \dot a_{l-1}, \qquad
            (Hu)_{b_l} = \sum_B \dot\delta_l
        """
        layers, directions = self.layers(params), self.layers(vector)
        pieces: list[Tensor] = []
        for index in reversed(range(len(layers))):
            product = torch.bmm(dot.mT, tape.activations[index])
            if index:
                product.baddbmm_(tape.deltas[index].mT, tangent.activations[index - 1])
            pieces += [dot.sum(1), product.flatten(1)]
            error = tape.errors[index]
            if error is not None:
                dot_error = torch.bmm(dot, layers[index][0])
                dot_error.baddbmm_(tape.deltas[index], directions[index][0])
                curve = self.activation.curve(error, tape.activations[index], tangent.z[index - 1])
                dot = dot_error.mul_(tape.slopes[index - 1])
                if curve is not None:
                    dot = dot.add_(curve)
        return torch.cat(pieces[::-1], dim=1)
