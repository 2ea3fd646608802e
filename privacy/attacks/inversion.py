r"""Inverting an update of a field: which picture would have moved the parameters this way?

*Inverting Gradients - How easy is it to break privacy in federated learning?*, J. Geiping, H. Bauermeister, H.
Droege, M. Moeller, NeurIPS 2020, https://arxiv.org/abs/2003.14053. They search for the data by descent on the cosine
between gradients. For a field under squared error the gradient is *linear* in the private values x at known
coordinates,

.. math:: g = \frac{2}{N} J^\top (f(w) - x), \qquad J = \partial f/\partial w,

so the search is a least-squares problem in the residual r = x - f(w), solved here by conjugate gradients on
:math:`\min_r \lVert J^\top r - \Delta\rVert^2` (CGLS), stopped early as regularisation. An update of many steps is a
sum of such gradients along the way; it is inverted as one at the middle of the way. The result is known up to scale,
which the affine fit of the metrics takes out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]  # parameters [P] -> values [N, channels]


def invert_update(forward: Forward, model: Tensor, update: Tensor, iterations: int = 30) -> Tensor:
    """The values ``[N, channels]`` that explain ``update [P]`` of ``model [P]``, up to an affine intensity map."""
    middle = (model + update / 2).detach()
    values, pull = torch.func.vjp(forward, middle)  # type: ignore[misc]

    def transposed(residual: Tensor) -> Tensor:
        return pull(residual)[0]

    def forward_direction(direction: Tensor) -> Tensor:
        return torch.func.jvp(forward, (middle,), (direction,))[1]

    residual = _cgls(transposed, forward_direction, update.detach(), values, iterations)
    scale = values.std() / residual.std().clamp(min=1e-20)
    return (values + residual * scale).detach() if bool(torch.isfinite(residual).all()) else residual


def _cgls(
    transposed: Callable[[Tensor], Tensor],
    forward: Callable[[Tensor], Tensor],
    target: Tensor,
    like: Tensor,
    steps: int,
) -> Tensor:
    """Conjugate gradients on the normal equations of ``transposed(x) = target``, from zero."""
    x, left = torch.zeros_like(like), target.clone()
    gradient = forward(left)
    direction, energy = gradient.clone(), gradient.square().sum()
    for _ in range(steps):
        moved = transposed(direction)
        size = moved.square().sum()
        if float(size) <= 0 or float(energy) <= 1e-30:
            break
        rate = energy / size
        x = x + rate * direction
        left = left - rate * moved
        gradient = forward(left)
        direction, energy = gradient + gradient.square().sum() / energy * direction, gradient.square().sum()
    return x
