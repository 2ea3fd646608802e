r"""Volume rendering along rays: differentiable twice, without loops, the same result for the same
input.

*NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis*, B. Mildenhall, P.
Srinivasan, M. Tancik, J. Barron, R. Ramamoorthi, R. Ng, ECCV 2020, https://arxiv.org/abs/2003.08934
(section 4).

Letters: ``...`` any leading axes (clients, rays), S samples along a ray.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distances(near: float, far: float, count: int, offset: Tensor) -> Tensor:
    r"""Distances at which a ray is sampled: one point per stratum, all strata shifted alike.

    .. math:: t_j = n + \frac{j + u}{S} (f - n), \qquad j = 0 \dots S-1

    Args:
        near, far: limits along the ray, in scene units.
        count: S.
        offset: u in [0, 1), shape ``[...]``; 0.5 is the deterministic middle of every stratum.

    Returns:
        ``[..., S]``, increasing. (NeRF draws u anew for every stratum; one u per ray covers
        [near, far] just as evenly on average and keeps the spacing constant, which rendering is a
        quadrature over.)

    Example:
        near 2, far 6, S = 4, u = 0.5: 2.5, 3.5, 4.5, 5.5.
    """
    steps = torch.arange(count, dtype=offset.dtype, device=offset.device)
    return near + (steps + offset[..., None]) * ((far - near) / count)


def weights(density: Tensor, spacing: float | Tensor, opaque: bool = False) -> Tensor:
    r"""Contribution of each sample to its ray.

    .. math::
        w_j = T_j (1 - e^{-\sigma_j \delta}), \qquad
        T_j = \exp\Big(-\sum_{i<j} \sigma_i \delta\Big)

    Args:
        density: sigma, at least 0, shape ``[..., S]``.
        spacing: delta, the length each sample stands for.
        opaque: the last sample stands for all that is behind it, however thin (delta is endless
            there, as in NeRF's first code): nothing shows a background.

    Returns:
        ``[..., S]`` in [0, 1]; without ``opaque`` they add up to
        :math:`1 - e^{-\sum\sigma\delta} \le 1`. The transmittance is a cumulative *sum* in the
        exponent: a cumulative product has a derivative that launches thousands of kernels.

    Example:
        delta 1, densities (ln 2, ln 2): T = (1, 1/2), weights (1/2, 1/4); 1/4 of the light comes
        from behind.
    """
    optical = density * spacing
    before = optical.cumsum(-1) - optical
    stopped = -torch.expm1(-optical)
    if opaque:
        stopped = torch.cat([stopped[..., :-1], torch.ones_like(stopped[..., -1:])], -1)
    return torch.exp(-before) * stopped


def composite(colour: Tensor, weight: Tensor, background: float) -> Tensor:
    r"""The colour of each ray.

    .. math:: C = \sum_j w_j c_j + \Big(1 - \sum_j w_j\Big)\, b

    Args:
        colour: ``[..., S, 3]`` in [0, 1].
        weight: ``[..., S]`` from :func:`weights`.
        background: b, 1 for white, 0 for black.

    Returns:
        ``[..., 3]`` in [0, 1].
    """
    return (weight[..., None] * (colour - background)).sum(-2) + background


def depth(weight: Tensor, distance: Tensor, far: float) -> Tensor:
    """Expected distance ``[...]`` along each ray; what passes through counts as ``far``."""
    return (weight * (distance - far)).sum(-1) + far
