r"""The squared error of volume-rendered colours, with first and second derivatives written out.

With :math:`\sigma = \mathrm{softplus}(s)`, :math:`c = \mathrm{sigmoid}(r)`, spacing :math:`\delta`, background b and
:math:`d_j = c_j - b` (:math:`d_{S+1} = 0`), let :math:`E_j = \exp(-\delta \sum_{i \le j} \sigma_i)` be what is left
of the light behind sample j (:math:`E_0 = 1`). Summation by parts of :math:`\sum_j w_j d_j`, with
:math:`w_j = E_{j-1} - E_j`, gives

.. math:: C - b = d_1 + \sum_{j=1}^{S} E_j g_j, \qquad g_j = d_{j+1} - d_j

which is linear in E, so that its derivatives need one cumulative sum each way. ``tasks/render/volume.py`` is the same
rendering for autograd, and the tests' oracle.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rendered(NamedTuple):
    """What a rendering leaves behind. Letters: ``...`` leading axes, S samples; scalars ``[..., S]``, colours
    ``[..., S, 3]``."""

    colour: Tensor  # c
    slope: Tensor  # c (1 - c)
    share: Tensor  # sigmoid(s) times the spacing: d(optical depth)/ds
    left: Tensor  # E
    weight: Tensor  # w
    distance: Tensor  # d
    step: Tensor  # g
    pull: Tensor  # p = dL/dE
    behind: Tensor  # sum over j >= i of E_j p_j = -dL/d(optical depth)
    error: Tensor  # dL/dC [..., 3]


def squared_error(
    raw: Tensor, targets: Tensor, spacing: float, background: float, scale: float | Tensor
) -> tuple[Tensor, Tensor, Rendered]:
    r"""Half of ``scale`` times the squared error of each ray, its derivative with respect to ``raw``, and the tape.

    Args:
        raw: ``[..., S, 4]``, colour and density before their maps.
        targets: ``[..., 3]``.
        scale: s; a tensor must broadcast to ``[..., 3]``.

    Returns:
        :math:`\tfrac{s}{2}\lVert C - t\rVert^2` ``[...]`` and its gradient ``[..., S, 4]``:

    .. math:: p_j = \delta_C \cdot g_j, \quad \partial_{s_i} = -\delta\,\mathrm{sigmoid}(s_i) \sum_{j \ge i} E_j p_j,
        \quad \partial_{r_j} = w_j\, \delta_C \odot c_j (1 - c_j), \qquad \delta_C = s\,(C - t)
    """
    density, colour = raw[..., 3], torch.sigmoid(raw[..., :3])
    share = torch.sigmoid(density).mul_(spacing)
    left = torch.nn.functional.softplus(density).cumsum(-1).mul_(-spacing).exp_()
    weight = torch.cat([1 - left[..., :1], -left.diff(dim=-1)], -1)
    distance = colour - background
    step = torch.cat([distance.diff(dim=-2), -distance[..., -1:, :]], -2)
    error = (weight[..., None, :] @ distance).squeeze(-2).sub_(targets - background).mul_(scale)
    pull = (step @ error[..., None]).squeeze(-1)
    behind = _behind(left * pull)
    slope = torch.addcmul(colour, colour, colour, value=-1)
    delta = torch.cat([weight[..., None] * error[..., None, :] * slope, -(share * behind)[..., None]], -1)
    loss = (error.square() / (2 * scale)).sum(-1)
    return loss, delta, Rendered(colour, slope, share, left, weight, distance, step, pull, behind, error)


def directional(tape: Rendered, dot: Tensor, spacing: float, scale: float | Tensor) -> Tensor:
    r"""The directional derivative ``[..., S, 4]`` of that gradient along ``dot [..., S, 4]``.

    .. math::
        \dot E &= -E \odot \mathrm{cumsum}(\dot o), \quad \dot o = \delta\,\mathrm{sigmoid}(s)\,\dot s, \qquad
        \dot C = \sum_j w_j \dot c_j + \dot w_j d_j, \quad \dot\delta_C = s\,\dot C \\
        \dot p_j &= \dot\delta_C \cdot g_j + \delta_C \cdot \dot g_j, \qquad
        \dot\partial_{s} = -\delta\Big[\sigma''(s)\,\dot s \sum_{j \ge i} E_j p_j
            + \mathrm{sigmoid}(s) \sum_{j \ge i} (\dot E_j p_j + E_j \dot p_j)\Big] \\
        \dot\partial_{r} &= (\dot w\, \delta_C + w\, \dot\delta_C) \odot c(1-c)
            + w\, \delta_C \odot (1 - 2c) \odot \dot c
    """
    dot_density, dot_colour = dot[..., 3], dot[..., :3] * tape.slope
    dot_left = (tape.share * dot_density).cumsum(-1).mul_(tape.left).neg_()
    dot_weight = torch.cat([-dot_left[..., :1], -dot_left.diff(dim=-1)], -1)
    dot_error = (
        (tape.weight[..., None, :] @ dot_colour + dot_weight[..., None, :] @ tape.distance).squeeze(-2).mul_(scale)
    )
    dot_step = torch.cat([dot_colour.diff(dim=-2), -dot_colour[..., -1:, :]], -2)
    dot_pull = (tape.step @ dot_error[..., None] + dot_step @ tape.error[..., None]).squeeze(-1)
    dot_behind = _behind(torch.addcmul(dot_left * tape.pull, tape.left, dot_pull))
    bend = torch.addcmul(tape.share, tape.share, tape.share, value=-1 / spacing).mul_(dot_density)
    density = torch.addcmul(bend.mul_(tape.behind), tape.share, dot_behind).neg_()
    error = tape.error[..., None, :]
    mixed = torch.addcmul(dot_weight[..., None] * error, tape.weight[..., None], dot_error[..., None, :])
    curved = (tape.weight[..., None] * error).mul_(dot_colour).mul_(1 - 2 * tape.colour)
    return torch.cat([curved.addcmul_(mixed, tape.slope), density[..., None]], -1)


def _behind(values: Tensor) -> Tensor:
    """Sums over j >= i along the last axis: the total, less what comes before."""
    return values + values.sum(-1, keepdim=True) - values.cumsum(-1)
