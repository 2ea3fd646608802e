r"""The squared error of volume-rendered colours, with first and second derivatives written out.

With :math:`\sigma = \mathrm{softplus}(s)`, :math:`c = \mathrm{sigmoid}(r)`, spacing :math:`\delta`,
optical depths :math:`o_j = \delta\sigma_j`, background b and :math:`d_j = c_j - b`, let
:math:`E_j = \exp(-\sum_{i \le j} o_i)` be the share of light left behind sample j
(:math:`E_0 = 1`) and :math:`w_j = E_{j-1} - E_j`. Then

.. math::
    C - b = \sum_j w_j d_j, \qquad
    \frac{\partial C}{\partial o_i} = E_i d_i - \sum_{j > i} w_j d_j

so that derivatives need one cumulative sum each. Operations are merged where they can be (a GPU is
given 18 for the error with its gradient, 21 for a second derivative). ``tasks/render/volume.py`` is
the same rendering for autograd, and the tests' oracle.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tasks.params import constant, scaled_bmm


class Rendered(NamedTuple):
    """Intermediate results of a rendering. Letters: N rays, S samples; ``[N, S]`` unless said."""

    sigmoid: Tensor  # of colours and density [N, S, 4]
    factor: Tensor  # c (1 - c), and sigmoid(s) [N, S, 4]
    pull: Tensor  # the gradient over that factor [N, S, 4]
    left: Tensor  # E
    lost: Tensor  # -w
    distance: Tensor  # d [N, S, 3]
    along: Tensor  # v = delta d . dL/dC
    error: Tensor  # -dL/dC [N, 1, 3]


def squared_error(
    raw: Tensor,
    contrast: Tensor,
    spacing: float,
    background: float,
    scale: float,
    opaque: bool = False,
) -> tuple[Tensor, Tensor, Rendered]:
    r"""Half of ``scale`` times the squared error, its derivative with respect to ``raw``, and the
    tape.

    Args:
        raw: ``[C, B, S, 4]``, colour and density before their maps.
        contrast: t - b, the wanted colours less the background, ``[C, B, 3]``.
        spacing: delta, the length of ray that each sample stands for.
        background: b, a grey level in [0, 1].
        scale: s; ``2 / (3 B)`` gives the mean over rays and channels.
        opaque: no light is left behind the last sample (:func:`tasks.render.volume.weights`):
            E_S = 0, and its density changes nothing.

    Returns:
        :math:`\tfrac{s}{2} \sum_B \lVert C - t\rVert^2` ``[C]`` and its gradient
        ``[C, B, S, 4]``: with :math:`\epsilon = s\,(C - t)` and
        :math:`v_j = \delta\, \epsilon \cdot d_j`

    .. math:: \partial_{r_j} = w_j\, \epsilon \odot c_j (1 - c_j), \qquad
        \partial_{s_i} = \mathrm{sigmoid}(s_i) \Big(E_i v_i - \sum_{j > i} w_j v_j\Big)
    """
    rays = raw.flatten(0, 1)
    sigmoid = torch.sigmoid(rays)
    # Signs are chosen for the cheapest operations: the tape holds -w and -dL/dC, in place where it
    # can, because a batch of rays is limited by the memory it moves and not by arithmetic.
    left = torch.nn.functional.softplus(rays[..., 3]).cumsum(-1).mul_(-spacing).exp_()
    if opaque:
        left[:, -1] = 0.0
    lost = _diff(left, 1.0)
    distance = sigmoid[..., :3] - background
    error = torch.baddbmm(
        contrast.flatten(0, 1)[:, None], lost[:, None], distance, beta=scale, alpha=scale
    )
    along = scaled_bmm(distance, error.mT, -spacing)[..., 0]
    behind = (lost * along).cumsum(-1)
    pull = torch.empty_like(rays)
    colour = pull[..., :3]
    optical = pull[..., 3]
    torch.mul(lost[..., None], error, out=colour)
    torch.sub(behind[:, -1:], behind, out=optical)
    optical.addcmul_(left, along)
    factor = torch.cat(
        [torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1)[..., :3], sigmoid[..., 3:]], -1
    )
    each = error.view(len(raw), 1, -1)
    loss = scaled_bmm(each, each.mT, 0.5 / scale)[:, 0, 0]
    tape = Rendered(sigmoid, factor, pull, left, lost, distance, along, error)
    return loss, (pull * factor).view(raw.shape), tape


def directional(tape: Rendered, dot: Tensor, spacing: float, scale: float) -> Tensor:
    r"""The directional derivative ``[C, B, S, 4]`` of that gradient along ``dot [C, B, S, 4]``.

    .. math::
        \dot E &= -E \odot \mathrm{cumsum}(\dot o), \quad
        \dot o = \delta\,\mathrm{sigmoid}(s)\,\dot s, \\
        \dot\epsilon &= s \sum_j (\dot w_j d_j + w_j \dot d_j), \qquad
        \dot v_j = \delta\,(\dot\epsilon \cdot d_j + \epsilon \cdot \dot d_j)

    and the product rule on both gradients above, with :math:`(c(1-c))^{\cdot} = (1 - 2c)\,\dot c`.

    Args:
        tape: from :func:`squared_error` at the point.
        dot: the direction, in the space of ``raw``.
        spacing: as there.
        scale: as there.
    """
    moved = dot.flatten(0, 1) * tape.factor  # of c, and of sigma
    one, zero, twice = (
        constant(value, dot.dtype, dot.device) for value in (1.0, 0.0, (2.0, 2.0, 2.0, 1.0))
    )
    dot_left = torch.addcmul(zero, moved[..., 3].cumsum(-1), tape.left, value=-spacing)
    dot_lost = _diff(dot_left, 0.0)
    dot_error = scaled_bmm(dot_lost[:, None], tape.distance, scale).baddbmm_(
        tape.lost[:, None], moved[..., :3], alpha=scale
    )
    dot_along = scaled_bmm(moved[..., :3], tape.error.mT, -spacing)
    dot_along = dot_along.baddbmm_(tape.distance, dot_error.mT, alpha=-spacing)[..., 0]
    behind = (dot_lost * tape.along).addcmul_(tape.lost, dot_along).cumsum(-1)
    pull = torch.empty_like(moved)
    colour = pull[..., :3]
    optical = pull[..., 3]
    torch.mul(dot_lost[..., None], tape.error, out=colour)
    colour.addcmul_(tape.lost[..., None], dot_error)
    torch.sub(behind[:, -1:], behind, out=optical)
    optical.addcmul_(dot_left, tape.along).addcmul_(tape.left, dot_along)
    bend = moved.mul_(torch.addcmul(one, tape.sigmoid, twice, value=-1))
    return pull.mul_(tape.factor).addcmul_(tape.pull, bend).view(dot.shape)


def _diff(values: Tensor, first: float) -> Tensor:
    """Each of ``values [N, S]`` less the one before it, ``first`` before them all."""
    return values.diff(prepend=constant(first, values.dtype, values.device).expand(len(values), 1))
