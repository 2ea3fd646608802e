r"""Fully connected networks stacked over clients, with first and second derivatives written out.

.. math::
    a_0 = x,\quad z_l = a_{l-1} W_l^\top + b_l,\quad
    a_l = \sigma(z_l) = s(\omega z_l),\quad y = z_L

The loss on y (a squared error, a rendering) is the field's own; here is everything in between: a
forward pass that keeps the inputs of derivatives (:class:`Tape`), backpropagation, and its
directional derivative. Each layer costs a handful of batched matrix products, and no graph is
built, which is what makes the meta-gradient of a cohort fast (``fedapp bench cohort``, ``fedapp
bench fields``).

Letters: C clients, B samples, i/o layer inputs/outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tasks.params import Layout, scaled_bmm


class Activation(Protocol):
    r"""An elementwise non-linearity :math:`\sigma(z) = s(\omega z)` with its first two derivatives.

    :math:`\omega` is kept apart because a matrix product can scale its result for nothing.
    """

    @property
    def omega(self) -> float:
        """Factor of z."""

    def __call__(self, scaled: Tensor) -> Tensor:
        """``s(x)`` at ``x = omega z``, differentiable."""

    def both(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """``(s(x), kept)``, the latter for :meth:`through`; ``scaled`` may be overwritten."""

    def through(self, error: Tensor, kept: Tensor) -> Tensor:
        """``error * s'(x)``."""

    def curve(self, dot: Tensor, error: Tensor, activation: Tensor, dot_scaled: Tensor) -> Tensor:
        """Second-order term of the backward pass, ``dot + error * s''(x) * dot_scaled``.

        Args:
            dot: derivative of the layer's delta so far, ``[C, B, o]``; may be overwritten.
            error: omega dL/da, of the same shape as all here.
            activation: the kept ``s(x)``, which gives ``s''(x)``.
            dot_scaled: derivative of ``x``.
        """


@dataclass(frozen=True)
class Sine:
    r""":math:`\sigma(z) = \sin(\omega z)`, hence :math:`s'' = -s`."""

    omega: float

    def __call__(self, scaled: Tensor) -> Tensor:
        return torch.sin(scaled)

    def both(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.cos(scaled)
        return scaled.sin_(), slope

    def through(self, error: Tensor, kept: Tensor) -> Tensor:
        return error * kept

    def curve(self, dot: Tensor, error: Tensor, activation: Tensor, dot_scaled: Tensor) -> Tensor:
        return dot.addcmul_(error * activation, dot_scaled, value=-1)


class Relu:
    """max(z, 0): no curvature."""

    omega = 1.0

    def __call__(self, scaled: Tensor) -> Tensor:
        return torch.relu(scaled)

    def both(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        positive = scaled.relu_()
        return positive, positive

    def through(self, error: Tensor, kept: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(error, kept, 0)  # where kept > 0, in one pass

    def curve(self, dot: Tensor, error: Tensor, activation: Tensor, dot_scaled: Tensor) -> Tensor:
        return dot


class Tape(NamedTuple):
    """Intermediate results of a forward pass; the backward pass fills ``deltas`` (dL/dz) and
    ``errors`` (omega dL/da)."""

    activations: list[Tensor]  # a_0 ... a_{L-1}
    slopes: list[Tensor]  # from which s'(omega z_l) follows
    deltas: list[Tensor]
    errors: list[Tensor | None]


class Tangent(NamedTuple):
    """Directional derivatives of a pass."""

    z: list[Tensor]  # of omega z_1 ... omega z_{L-1}, and of y
    activations: list[Tensor]  # of a_1 ... a_{L-1}


class Network:
    """Layers of the given ``widths`` (input to output) and the algebra on them; parameters are
    ``[C, P]``."""

    def __init__(self, widths: Sequence[int], activation: Activation) -> None:
        self.widths = tuple(widths)
        self.activation = activation
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (i, o) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            shapes[f"layers.{index}.weight"] = (o, i)
            shapes[f"layers.{index}.bias"] = (o,)
        self.layout = Layout.of(shapes)

    def init(self, vector: Tensor, generator: torch.Generator) -> Tensor:
        r"""Fill ``vector [P]`` in place as ``torch.nn.Linear`` does: :math:`U(\pm 1/\sqrt i)`,
        weights and biases."""
        params = self.layout.unflatten(vector)
        for index, i in enumerate(self.widths[:-1]):
            params[f"layers.{index}.weight"].uniform_(-(i**-0.5), i**-0.5, generator=generator)
            params[f"layers.{index}.bias"].uniform_(-(i**-0.5), i**-0.5, generator=generator)
        return vector

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
        omega = self.activation.omega
        for weight, bias in hidden:
            activation = self.activation(
                torch.baddbmm(bias, activation, weight.mT, beta=omega, alpha=omega)
            )
        return torch.baddbmm(last_bias, activation, last_weight.mT)

    def forward(self, params: Tensor, inputs: Tensor, scale: float = 1.0) -> tuple[Tensor, Tape]:
        """``scale`` times y ``[C, B, o]``, and the tape; no graph."""
        layers = self.layers(params)
        omega = self.activation.omega
        activations = [inputs]
        slopes = []
        for weight, bias in layers[:-1]:
            scaled = torch.baddbmm(bias, activations[-1], weight.mT, beta=omega, alpha=omega)
            activation, slope = self.activation.both(scaled)
            activations.append(activation)
            slopes.append(slope)
        weight, bias = layers[-1]
        output = torch.baddbmm(bias, activations[-1], weight.mT, beta=scale, alpha=scale)
        return output, Tape(activations, slopes, [output] * len(layers), [None] * len(layers))

    def backward(self, params: Tensor, tape: Tape, delta: Tensor) -> Tensor:
        r"""The gradient ``[C, P]`` from :math:`\delta_L = \partial L/\partial y` ``[C, B, o]``.

        .. math::
            e_l = \omega\, \delta_l W_l,\quad
            \delta_{l-1} = e_l \odot s'(\omega z_{l-1}),\quad
            \partial W_l = \delta_l^\top a_{l-1},\quad \partial b_l = \sum_B \delta_l
        """
        layers = self.layers(params)
        omega = self.activation.omega
        pieces: list[Tensor] = []  # bias and weight of each layer, output side first
        for index in reversed(range(len(layers))):
            tape.deltas[index] = delta
            pieces += [delta.sum(1), torch.bmm(delta.mT, tape.activations[index]).flatten(1)]
            if index:
                error = scaled_bmm(delta, layers[index][0], omega)
                tape.errors[index] = error
                delta = self.activation.through(error, tape.slopes[index - 1])
        return torch.cat(pieces[::-1], dim=1)

    def tangent(self, params: Tensor, vector: Tensor, tape: Tape, scale: float = 1.0) -> Tangent:
        r"""Directional derivatives along ``vector [C, P]``; that of y times ``scale``.

        .. math:: \dot z_l = a_{l-1} U_l^\top + c_l + \dot a_{l-1} W_l^\top, \qquad
            \dot a_l = s'(\omega z_l) \odot \omega \dot z_l

        Args:
            params: the point, ``[C, P]``.
            vector: the direction, ``[C, P]``; its pieces are U and c.
            tape: of the forward pass at the same point.
            scale: factor of the last derivative, as in :meth:`forward`.
        """
        dot = Tangent([], [])
        layers = self.layers(params)
        last = len(self.widths) - 2
        for index, ((weight, _), (direction, offset)) in enumerate(
            zip(layers, self.layers(vector), strict=True)
        ):
            omega = scale if index == last else self.activation.omega
            z = torch.baddbmm(
                offset, tape.activations[index], direction.mT, beta=omega, alpha=omega
            )
            if index:
                dot.activations.append(self.activation.through(dot.z[-1], tape.slopes[index - 1]))
                z.baddbmm_(dot.activations[-1], weight.mT, alpha=omega)
            dot.z.append(z)
        return dot

    def backward_tangent(
        self, params: Tensor, vector: Tensor, tape: Tape, tangent: Tangent, dot: Tensor
    ) -> Tensor:
        r"""The Hessian-vector product ``[C, P]`` by Pearlmutter's R-operator (Neural Computation
        6(1), 1994).

        With :math:`(U_l, c_l)` the direction,

        .. math::
            \dot e_l &= \omega (\dot\delta_l W_l + \delta_l U_l), \qquad
            \dot\delta_{l-1} = \dot e_l \odot s'(\omega z_{l-1})
                + e_l \odot s''(\omega z_{l-1}) \odot \omega \dot z_{l-1} \\
            (Hu)_{W_l} &= \dot\delta_l^\top a_{l-1} + \delta_l^\top \dot a_{l-1}, \qquad
            (Hu)_{b_l} = \sum_B \dot\delta_l

        Args:
            params: the point, ``[C, P]``.
            vector: the direction, ``[C, P]``.
            tape: of the forward and the backward pass at the same point.
            tangent: from :meth:`tangent` along the same direction.
            dot: directional derivative of :math:`\delta_L`, ``[C, B, o]``.
        """
        layers = self.layers(params)
        directions = self.layers(vector)
        omega = self.activation.omega
        pieces: list[Tensor] = []
        for index in reversed(range(len(layers))):
            product = torch.bmm(dot.mT, tape.activations[index])
            if index:
                product.baddbmm_(tape.deltas[index].mT, tangent.activations[index - 1])
            pieces += [dot.sum(1), product.flatten(1)]
            error = tape.errors[index]
            if error is not None:
                dot_error = scaled_bmm(dot, layers[index][0], omega)
                dot_error.baddbmm_(tape.deltas[index], directions[index][0], alpha=omega)
                dot_error = self.activation.through(dot_error, tape.slopes[index - 1])
                dot = self.activation.curve(
                    dot_error, error, tape.activations[index], tangent.z[index - 1]
                )
        return torch.cat(pieces[::-1], dim=1)
