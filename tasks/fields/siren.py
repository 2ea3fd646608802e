r"""SIREN, stacked over clients, with first and second derivatives written out.

*Implicit Neural Representations with Periodic Activation Functions*, V. Sitzmann, J. Martel, A. Bergman,
D. Lindell, G. Wetzstein, NeurIPS 2020, https://arxiv.org/abs/2006.09661.

.. math:: a_0 = x,\quad z_l = a_{l-1} W_l^\top + b_l,\quad a_l = \sin(\omega_0 z_l),\quad y = z_L + \tfrac12

The output is centred on one half because signals live in [0, 1]; it is not bounded. The derivatives of the mean
squared error follow by hand. They keep sine and cosine of the forward pass and touch each layer with a handful of
batched matrix products, which is what makes the meta-gradient of a cohort fast (``fedapp bench cohort``).

Letters: C clients, B samples, i/o layer inputs/outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.params import Layout
from tasks.types import Batch, Linearised


@dataclass(frozen=True)
class Siren:
    """Architecture: ``depth`` hidden sine layers of ``width`` units; ``omega`` is the paper's w0."""

    inputs: int
    outputs: int
    width: int = 64
    depth: int = 3
    omega: float = 30.0

    @property
    def widths(self) -> tuple[int, ...]:
        """Layer sizes from input to output."""
        return (self.inputs, *[self.width] * self.depth, self.outputs)

    @property
    def layout(self) -> Layout:
        """``layers.<l>.weight [o, i]`` and ``layers.<l>.bias [o]``, as in ``torch.nn.Linear``."""
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (i, o) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            shapes[f"layers.{index}.weight"] = (o, i)
            shapes[f"layers.{index}.bias"] = (o,)
        return Layout.of(shapes)

    def init(self, generator: torch.Generator) -> Tensor:
        r"""Initial parameters ``[P]`` (section 3.2 and supplement 1.5 of the paper).

        Weights of the first layer :math:`U(\pm 1/i)`, of the others :math:`U(\pm\sqrt{6/i}/\omega_0)`; biases
        :math:`U(\pm 1/\sqrt i)`, which the paper leaves open and its code takes from ``torch.nn.Linear``.
        """
        vector = torch.empty(self.layout.size)
        params = self.layout.unflatten(vector)
        for index, i in enumerate(self.widths[:-1]):
            bound = 1 / i if index == 0 else math.sqrt(6 / i) / self.omega
            params[f"layers.{index}.weight"].uniform_(-bound, bound, generator=generator)
            params[f"layers.{index}.bias"].uniform_(-1 / math.sqrt(i), 1 / math.sqrt(i), generator=generator)
        return vector

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        """Bytes one client's second-order step keeps: sine, cosine, delta and error of each layer and step."""
        activations = 4 * batch_size * self.width * self.depth
        return 4 * (inner_steps + 1) * (activations + 2 * self.layout.size)

    def layers(self, params: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``params [C, P]`` as ``(W [C, o, i], b [C, 1, o])`` views, input side first."""
        named = self.layout.unflatten(params)
        return [
            (named[f"layers.{index}.weight"], named[f"layers.{index}.bias"].unsqueeze(1))
            for index in range(self.depth + 1)
        ]

    def __call__(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], inputs [C, B, i] in [-1, 1] -> outputs [C, B, o]``, differentiable."""
        *hidden, (last_weight, last_bias) = self.layers(params)
        activation = inputs
        for weight, bias in hidden:
            activation = torch.sin(self.omega * torch.baddbmm(bias, activation, weight.mT))
        return torch.baddbmm(last_bias, activation, last_weight.mT) + 0.5

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean squared error over samples and channels, one value per client ``[C]``."""
        return (self(params, batch.inputs) - batch.targets).square().mean((1, 2))


class _Pass(NamedTuple):
    """What a forward and backward pass leaves behind for the second derivative (layer index first)."""

    activations: list[Tensor]  # a_0 ... a_{L-1}
    slopes: list[Tensor]  # w0 cos(w0 z_l)
    deltas: list[Tensor]  # dL/dz_l
    errors: list[Tensor | None]  # dL/da_{l-1}; none for the input layer
    scale: float  # 2 / (B o)


class SirenDerivatives:
    """:class:`tasks.types.Derivatives` of :meth:`Siren.loss`, without an autograd graph."""

    def __init__(self, field: Siren) -> None:
        self.field = field

    def gradient(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, gradient, _ = self._pass(params, batch)
        return loss, gradient

    def linearise(self, params: Tensor, batch: Batch) -> Linearised:
        loss, gradient, kept = self._pass(params, batch)
        return Linearised(loss, gradient, lambda vector: self._hvp(params, vector, kept))

    @torch.no_grad()
    def _pass(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor, _Pass]:
        r"""Backpropagation: :math:`\delta_L = \frac{2}{Bo}(y-t)`, :math:`e_l = \delta_l W_l`,
        :math:`\delta_{l-1} = e_l \odot \omega_0\cos(\omega_0 z_{l-1})`,
        :math:`\partial W_l = \delta_l^\top a_{l-1}`, :math:`\partial b_l = \sum_B \delta_l`.
        """
        omega, layers = self.field.omega, self.field.layers(params)
        activations, slopes = [batch.inputs], []
        for weight, bias in layers[:-1]:
            z = torch.baddbmm(bias, activations[-1], weight.mT).mul_(omega)
            slopes.append(torch.cos(z).mul_(omega))
            activations.append(z.sin_())
        weight, bias = layers[-1]
        residual = torch.baddbmm(bias, activations[-1], weight.mT).add_(0.5).sub_(batch.targets)
        count = residual.shape[1] * residual.shape[2]
        loss = residual.square().sum((1, 2)) / count

        scale = 2 / count
        delta = residual.mul_(scale)
        pieces: list[Tensor] = []  # bias and weight of each layer, output side first
        deltas: list[Tensor] = [delta] * len(layers)
        errors: list[Tensor | None] = [None] * len(layers)
        for index in reversed(range(len(layers))):
            deltas[index] = delta
            pieces += [delta.sum(1), torch.bmm(delta.mT, activations[index]).flatten(1)]
            if index:
                error = torch.bmm(delta, layers[index][0])
                errors[index] = error
                delta = error * slopes[index - 1]
        gradient = torch.cat(pieces[::-1], dim=1)
        return loss, gradient, _Pass(activations, slopes, deltas, errors, scale)

    @torch.no_grad()
    def _hvp(self, params: Tensor, vector: Tensor, kept: _Pass) -> Tensor:
        r"""Hessian-vector product by Pearlmutter's R-operator (Neural Computation 6(1), 1994).

        With direction :math:`(U_l, c_l)` and :math:`\dot{}` the directional derivative,

        .. math::
            \dot z_l &= a_{l-1} U_l^\top + c_l + \dot a_{l-1} W_l^\top, \qquad
            \dot a_l = \omega_0\cos(\omega_0 z_l) \odot \dot z_l \\
            \dot e_l &= \dot\delta_l W_l + \delta_l U_l, \qquad
            \dot\delta_{l-1} = \dot e_l \odot \omega_0\cos(\omega_0 z_{l-1})
                - e_l \odot \omega_0^2\sin(\omega_0 z_{l-1}) \odot \dot z_{l-1} \\
            (Hu)_{W_l} &= \dot\delta_l^\top a_{l-1} + \delta_l^\top \dot a_{l-1}, \qquad
            (Hu)_{b_l} = \sum_B \dot\delta_l
        """
        omega_squared = self.field.omega**2
        layers, directions = self.field.layers(params), self.field.layers(vector)
        dot_z: list[Tensor] = []
        dot_a: list[Tensor | None] = [None]
        for index, ((weight, _), (direction, offset)) in enumerate(zip(layers, directions, strict=True)):
            z = torch.baddbmm(offset, kept.activations[index], direction.mT)
            previous = dot_a[index]
            if previous is not None:
                z = z.baddbmm_(previous, weight.mT)
            dot_z.append(z)
            if index < len(layers) - 1:
                dot_a.append(z * kept.slopes[index])

        pieces: list[Tensor] = []
        dot_delta = dot_z[-1].mul_(kept.scale)
        for index in reversed(range(len(layers))):
            product = torch.bmm(dot_delta.mT, kept.activations[index])
            previous = dot_a[index]
            if previous is not None:
                product.baddbmm_(kept.deltas[index].mT, previous)
            pieces += [dot_delta.sum(1), product.flatten(1)]
            error = kept.errors[index]
            if error is not None:
                dot_error = torch.bmm(dot_delta, layers[index][0])
                dot_error.baddbmm_(kept.deltas[index], directions[index][0])
                curvature = (error * kept.activations[index]).mul_(dot_z[index - 1])
                dot_delta = dot_error.mul_(kept.slopes[index - 1]).sub_(curvature, alpha=omega_squared)
        return torch.cat(pieces[::-1], dim=1)
