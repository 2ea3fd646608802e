r"""Linearised gradient inversion of a neural field: the picture whose gradient points along an
update.

*Inverting Gradients - How easy is it to break privacy in federated learning?*, J. Geiping, H.
Bauermeister, H. Droege, M. Moeller, NeurIPS 2020, https://arxiv.org/abs/2003.14053. They search for
the data by descent on the cosine between gradients. For a field under squared error the gradient is
*linear* in the private values x at known coordinates,

.. math:: g = \frac{2}{N} J^\top (f(w) - x), \qquad J = \partial f/\partial w,

so the search is a least-squares problem in the residual r = x - f(w), solved here by conjugate
gradients on :math:`\min_r \lVert J^\top r - \Delta\rVert^2` (CGLS), stopped early as
regularisation. An update of many steps is a sum of such gradients along the way; it is inverted as
one at the middle of the way. How long the way was (step sizes, clips, weights) is not used: the
residual is scaled so that the picture f(w) + c r has the contrast of photographs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from privacy.attacks.conjugate_gradients import least_squares

CONTRAST = 0.25  # typical standard deviation of a photograph's values in [0, 1]
Forward = Callable[[Tensor], Tensor]  # parameters [P] -> values [N, channels]


def invert_update(forward: Forward, model: Tensor, update: Tensor, iterations: int = 30) -> Tensor:
    """The values ``[N, channels]`` that explain an update, up to an affine intensity map.

    Args:
        forward: the field at the samples' coordinates, ``[P] -> [N, channels]``.
        model: where the client started, ``[P]``.
        update: where it ended, minus that, ``[P]``.
        iterations: of conjugate gradients.
    """
    middle = (model + update / 2).detach()
    values, pull = torch.func.vjp(forward, middle)  # type: ignore[misc]

    def transposed(residual: Tensor) -> Tensor:
        return pull(residual)[0]

    def forward_direction(direction: Tensor) -> Tensor:
        return torch.func.jvp(forward, (middle,), (direction,))[1]

    residual = least_squares(transposed, forward_direction, update.detach(), values, iterations)
    if not bool(torch.isfinite(residual).all()):
        return residual
    return (values + _scale(values, residual) * residual).detach()


def _scale(values: Tensor, residual: Tensor) -> Tensor:
    """c > 0 with std(values + c residual) = ``CONTRAST``; where none does, residual alone gets that
    contrast."""
    v = values - values.mean()
    r = residual - residual.mean()
    # The positive root of a c^2 + 2 b c + rest = 0
    a = r.square().mean().clamp(min=1e-30)
    b = (v * r).mean()
    rest = v.square().mean() - CONTRAST**2
    square = b * b - a * rest
    root = (square.clamp(min=0).sqrt() - b) / a
    return root if bool(square >= 0) and bool(root > 0) else CONTRAST / a.sqrt()
