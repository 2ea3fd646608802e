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
    """Architecture: ``depth`` hidden sine layers of ``width`` units; ``omega`` is the paper's
    w0."""

    inputs: int
    outputs: int
    width: int = 64
    depth: int = 3
    omega: float = 30.0
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
        open and its code takes from ``torch.nn.Linear``.
        """
        vector = torch.empty(self.layout.size)
        params = self.layout.unflatten(vector)
        for index, i in enumerate(self.widths[:-1]):
            bound = 1 / i if index == 0 else math.sqrt(6 / i) / self.omega
            params[f"layers.{index}.weight"].uniform_(-bound, bound, generator=generator)
            params[f"layers.{index}.bias"].uniform_(
                -1 / math.sqrt(i), 1 / math.sqrt(i), generator=generator
            )
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
