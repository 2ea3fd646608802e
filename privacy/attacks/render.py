r"""Rendering of an uploaded neural field: the simplest attack on a federation of them.

PSNR_p of *Privacy-Preserving Federated Meta-Learning for Neural Fields* (J. Yun, M. Hong, G. Kim,
ICCV 2025, https://arxiv.org/abs/2508.06301) is the PSNR between the rendering of a client's shared
meta-learner and that client's private signal. It is not invariant to offset and scale, so a field
that is merely shifted looks protected. Two numbers a sceptic asks for stand beside it: the PSNR
after the best affine intensity map, and the correlation. None of them bounds what a stronger attack
(inverting the update) can recover.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.metrics import psnr, range_excess

METRICS = ("psnr_p", "psnr_p_affine", "correlation_p", "psnr_floor", "range_excess")


def best_affine(rendered: Tensor, truth: Tensor) -> Tensor:
    r"""The rendering after the least-squares intensity map, channel by channel: shapes ``[...,
    channels]``.

    .. math:: \min_{a, b} \lVert a \hat x + b - x \rVert^2
    """
    x = _by_channel(rendered)
    t = _by_channel(truth)
    x_mean = x.mean(0)
    t_mean = t.mean(0)
    variance = (x - x_mean).square().mean(0)
    scale = ((x - x_mean) * (t - t_mean)).mean(0) / variance.clamp(min=1e-20)
    return ((x - x_mean) * scale + t_mean).reshape(truth.shape)


def correlation(rendered: Tensor, truth: Tensor) -> float:
    """Pearson correlation over all samples and channels, each channel centred on its own mean; 0 if
    constant."""
    x = _by_channel(rendered)
    t = _by_channel(truth)
    x = x - x.mean(0)
    t = t - t.mean(0)
    scale = float((x.square().sum() * t.square().sum()).sqrt())
    return float((x * t).sum()) / scale if scale > 1e-12 else 0.0


def render_attack(rendered: Sequence[Tensor], truths: Sequence[Tensor]) -> dict[str, list[float]]:
    """Per client: PSNR_p, PSNR_p after the best affine fit, correlation, and the floors they are
    read against.

    ``psnr_floor`` is the constant-colour baseline: a rendering below it tells less than a grey
    card. ``range_excess`` is how far the rendering lies outside the data range on average.
    """
    rows = []
    for image, truth in zip(rendered, truths, strict=True):
        if not bool(torch.isfinite(image).all()):
            rows.append((float("nan"),) * 3 + (psnr(_constant(truth), truth), float("inf")))
            continue
        rows.append(
            (
                psnr(image, truth),
                psnr(best_affine(image, truth), truth),
                correlation(image, truth),
                psnr(_constant(truth), truth),
                range_excess(image),
            )
        )
    return {name: [row[index] for row in rows] for index, name in enumerate(METRICS)}


def _by_channel(image: Tensor) -> Tensor:
    """``[..., channels]`` -> ``[samples, channels]`` in float64."""
    return image.double().reshape(-1, image.shape[-1])


def _constant(truth: Tensor) -> Tensor:
    return truth.reshape(-1, truth.shape[-1]).mean(0).expand(truth.shape)
