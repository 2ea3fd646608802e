r"""SIREN, stacked over clients.

*Implicit Neural Representations with Periodic Activation Functions*, V. Sitzmann, J. Martel, A.
Bergman, D. Lindell, G. Wetzstein, NeurIPS 2020, https://arxiv.org/abs/2006.09661.

.. math::
    a_0 = x,\quad z_l = a_{l-1} W_l^\top + b_l,\quad
    a_l = \sin(\omega_0 z_l),\quad y = z_L + \tfrac12

The output is centred on one half because signals live in [0, 1]; it is not bounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tasks.derivatives import ByHand
from tasks.fields.network import Network, Sine, Tape
from tasks.params import Layout
from tasks.types import Batch


@dataclass(frozen=True)
class Siren:
    """Architecture: ``depth`` hidden sine layers of ``width`` units; ``omega`` is the paper's w0,
    ``biases`` how they begin (:meth:`init`)."""

    inputs: int
    outputs: int
    width: int = 64
    depth: int = 3
    omega: float = 30.0
    biases: str = "linear"
    bounded = False  # nothing keeps its outputs in the data range

    @cached_property
    def network(self) -> Network:
        """The layers."""
        return Network((self.inputs, *[self.width] * self.depth, self.outputs), Sine(self.omega))

    @property
    def widths(self) -> tuple[int, ...]:
        """Layer sizes from input to output."""
        return self.network.widths

    @property
    def layout(self) -> Layout:
        """``layers.<l>.weight [o, i]`` and ``layers.<l>.bias [o]``, as in ``torch.nn.Linear``."""
        return self.network.layout

    def init(self, generator: torch.Generator) -> Tensor:
        r"""Initial parameters ``[P]`` (section 3.2 and supplement 1.5 of the paper).

        Weights of the first layer :math:`U(\pm 1/i)`, of the others
        :math:`U(\pm\sqrt{6/i}/\omega_0)`; biases :math:`U(\pm 1/\sqrt i)`, which the paper leaves
        open and its code takes from ``torch.nn.Linear``. (``biases="weights"``: in the bounds of
        their layer's weights, as in the release of FedMeNF.)
        """
        vector = torch.empty(self.layout.size)
        params = self.layout.unflatten(vector)
        for index, i in enumerate(self.widths[:-1]):
            bound = 1 / i if index == 0 else math.sqrt(6 / i) / self.omega
            params[f"layers.{index}.weight"].uniform_(-bound, bound, generator=generator)
            within = bound if self.biases == "weights" else 1 / math.sqrt(i)
            params[f"layers.{index}.bias"].uniform_(-within, within, generator=generator)
        return vector

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        """Bytes one client's second-order step keeps: sine, cosine, delta and error of each layer
        and step."""
        activations = 4 * batch_size * self.width * self.depth
        return 4 * (inner_steps + 1) * (activations + 2 * self.layout.size)

    def __call__(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], inputs [C, B, i] in [-1, 1] -> outputs [C, B, o]``, differentiable."""
        return self.network(params, inputs) + 0.5

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean squared error over samples and channels, one value per client ``[C]``."""
        return (self(params, batch.inputs) - batch.targets).square().mean((1, 2))

    def linearised(self, params: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """``params [P], inputs [N, i]`` -> outputs ``[N o]`` and their Jacobian ``[N o, P]``."""
        count = len(inputs)
        rows = params.expand(count, -1)  # every sample as a client of its own
        inputs = inputs.to(params)[:, None]
        parts = []
        for channel in range(self.widths[-1]):
            values, tape = self.network.forward(rows, inputs)
            delta = torch.zeros_like(values)
            delta[..., channel] = 1
            parts.append(self.network.backward(rows, tape, delta))
        return (values[:, 0] + 0.5).flatten(), torch.stack(parts, 1).flatten(0, 1)

    def jacobian_error(self, params: Tensor) -> float:
        r"""How far apart, in Euclidean norm, two computers may be in a row of :meth:`linearised` at
        ``params [P]`` in double precision, whatever the order of their sums and the last digits of
        their sines.

        A running error bound: with :math:`e_l` the error of a layer's activations and slopes,
        :math:`D_l` the largest size and :math:`E_l` the error of :math:`\partial y/\partial z_l`,

        .. math:: e_l = \omega\big(|W_l| e_{l-1} + (n_l + 6) u\, (|W_l| 1 + |b_l|)\big) + 4u, \qquad
            D_{l-1} = \omega |W_l|^\top D_l
        """
        unit = torch.finfo(torch.float64).eps
        layers = [(w[0].double(), b[0, 0].double()) for w, b in self.network.layers(params[None])]
        errors = [torch.full((self.widths[0],), unit, dtype=torch.float64)]
        for weight, bias in layers[:-1]:
            size, terms = weight.abs(), weight.shape[1] + 6
            whole = size.sum(1) + bias.abs()
            error = self.omega * (size @ errors[-1] + terms * unit * whole) + 4 * unit
            errors.append(error.nan_to_num(nan=2.0).clamp(max=2.0))
        worst = 0.0
        for channel in range(self.widths[-1]):
            weight = layers[-1][0][channel].abs()
            square = float(errors[-1].square().sum())
            reach, apart = self.omega * weight, 3 * unit * self.omega * weight
            for index in range(len(layers) - 2, -1, -1):
                apart = apart + reach * (errors[index + 1] + unit)
                entries = apart[:, None] + reach[:, None] * (errors[index] + unit)
                square += float(entries.square().sum() + apart.square().sum())
                if index:
                    size = layers[index][0].abs()
                    terms = size.shape[0] + 3
                    apart = self.omega * (size.T @ apart + terms * unit * (size.T @ reach))
                    reach = self.omega * (size.T @ reach)
            worst = max(worst, math.sqrt(square)) if math.isfinite(square) else math.inf
        return worst


class SirenDerivatives(ByHand):
    r""":class:`tasks.types.Derivatives` of :meth:`Siren.loss`: :math:`\delta_L = \frac{2}{Bo}(y -
    t)`."""

    def __init__(self, field: Siren) -> None:
        self.field = field

    def evaluate(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tape]:
        count = batch.targets.shape[1] * batch.targets.shape[2]
        scale = 2 / count
        # no copies in single precision; simulated attacks come in double
        scaled, tape = self.field.network.forward(params, batch.inputs.to(params), scale)
        delta = scaled.sub_(batch.targets.to(params) - 0.5, alpha=scale)
        flat = delta.flatten(1)
        loss = torch.bmm(flat[:, None], flat[:, :, None])[:, 0, 0] * (count / 4)
        return loss, self.field.network.backward(params, tape, delta), tape

    def product(self, params: Tensor, vector: Tensor, batch: Batch, tape: Tape) -> Tensor:
        scale = 2 / (batch.targets.shape[1] * batch.targets.shape[2])
        tangent = self.field.network.tangent(params, vector, tape, scale)
        return self.field.network.backward_tangent(params, vector, tape, tangent, tangent.z[-1])
