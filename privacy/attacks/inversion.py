r"""Inverting an update of a field: which picture would have moved the parameters this way?

*Inverting Gradients - How easy is it to break privacy in federated learning?*, J. Geiping, H.
Bauermeister, H. Droege, M. Moeller, NeurIPS 2020, https://arxiv.org/abs/2003.14053. They search for
the data by descent on the cosine between gradients. For a field under squared error the gradient is
*linear* in the private values x at known coordinates,

.. math:: g = \frac{2}{N} J^\top (f(w) - x), \qquad J = \partial f/\partial w,

so the search is a least-squares problem in the residual r = x - f(w), solved here by conjugate
gradients on
:math:`\min_r \lVert J^\top r - \Delta\rVert^2` (CGLS), stopped early as regularisation. An update of many steps is a
sum of such gradients along the way; it is inverted as one at the middle of the way. How long the
way was (step sizes, clips, weights) is not used: the residual is scaled so that the picture f(w) +
c r has the contrast of photographs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CONTRAST = 0.25  # typical standard deviation of a photograph's values in [0, 1]
Forward = Callable[[Tensor], Tensor]  # parameters [P] -> values [N, channels]


def invert_update(forward: Forward, model: Tensor, update: Tensor, iterations: int = 30) -> Tensor:
    """The values ``[N, channels]`` that explain ``update [P]`` of ``model [P]``, up to an affine
    intensity map."""
    middle = (model + update / 2).detach()
    values, pull = torch.func.vjp(forward, middle)  # type: ignore[misc]

    def transposed(residual: Tensor) -> Tensor:
        return pull(residual)[0]

    def forward_direction(direction: Tensor) -> Tensor:
        return torch.func.jvp(forward, (middle,), (direction,))[1]

    residual = _cgls(transposed, forward_direction, update.detach(), values, iterations)
    if not bool(torch.isfinite(residual).all()):
        return residual
    return (values + _scale(values, residual) * residual).detach()


def _scale(values: Tensor, residual: Tensor) -> Tensor:
    """c > 0 with std(values + c residual) = ``CONTRAST``; where none does, residual alone gets that
    contrast."""
    v, r = values - values.mean(), residual - residual.mean()
    a, b, c = r.square().mean().clamp(min=1e-30), (v * r).mean(), v.square().mean() - CONTRAST**2
    square = b * b - a * c
    root = (square.clamp(min=0).sqrt() - b) / a
    return root if bool(square >= 0) and bool(root > 0) else CONTRAST / a.sqrt()


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
        direction, energy = (
            gradient + gradient.square().sum() / energy * direction,
            gradient.square().sum(),
        )
    return x
