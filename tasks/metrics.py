"""Closeness of a rendering to the truth. Signals live in [0, 1]; renderings are clamped to it
first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tasks.errors import InputError


def psnr(rendered: Tensor, truth: Tensor) -> float:
    r"""Peak signal-to-noise ratio in dB with peak 1.

    .. math:: 10 \log_{10} \frac{1}{\mathrm{mean}((\mathrm{clamp}(\hat x, 0, 1) - x)^2)}

    ``nan`` if the rendering is not finite. Capped at 100 dB, which stands for equality.
    """
    if not bool(torch.isfinite(rendered).all()):
        return float("nan")
    error = (rendered.clamp(0, 1) - truth).double().square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))


def ssim(rendered: Tensor, truth: Tensor) -> float | None:
    """Structural similarity of ``[H, W, channels]`` pictures (scikit-image, 7 x 7 window, data
    range 1).

    The mean over pictures for stacks of them. ``None`` for samples that form no picture and for
    pictures smaller than the window; ``nan`` if the rendering is not finite.
    """
    from skimage.metrics import structural_similarity

    if truth.dim() > 3:
        pairs = zip(rendered.flatten(0, -4), truth.flatten(0, -4), strict=True)
        return mean_of([ssim(one, other) for one, other in pairs])
    if truth.dim() < 3 or min(truth.shape[:2]) < 7:
        return None
    if not bool(torch.isfinite(rendered).all()):
        return float("nan")
    return float(
        structural_similarity(
            rendered.clamp(0, 1).double().cpu().numpy(),
            truth.double().cpu().numpy(),
            data_range=1.0,
            channel_axis=-1,
        )
    )


def range_excess(rendered: Tensor) -> float:
    """Mean distance of a rendering from [0, 1]: 0 inside; 0.5 is half the data range away."""
    return float((rendered - rendered.clamp(0, 1)).abs().mean())


def load_network(key: str, file: str) -> Any:
    """A TorchScript network that scores pictures; raises :class:`InputError` naming the config
    key."""
    try:
        return torch.jit.load(file, map_location="cpu").eval()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            key,
            file,
            f"not a readable TorchScript file ({error})",
            "save the network with torch.jit.script or torch.jit.trace",
        ) from error


@torch.no_grad()
def lpips(network: Any, rendered: Tensor, truth: Tensor) -> float | None:
    """Mean perceptual distance of pictures ``[..., H, W, 1 or 3]`` by the network the user
    supplied.

    The network takes two batches ``[N, 3, H, W]`` in [-1, 1]. ``None`` without one, or for samples
    that form no picture; ``nan`` if the rendering is not finite. (*The Unreasonable Effectiveness
    of Deep Features as a Perceptual Metric*, R. Zhang et al., CVPR 2018,
    https://arxiv.org/abs/1801.03924.)
    """
    if network is None or truth.dim() < 3:
        return None
    if not bool(torch.isfinite(rendered).all()):
        return float("nan")
    pair = [
        image.clamp(0, 1).reshape(-1, *image.shape[-3:]).movedim(-1, 1).expand(-1, 3, -1, -1)
        for image in (rendered, truth)
    ]
    return float(network(pair[0] * 2 - 1, pair[1] * 2 - 1).mean())


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean; ``None`` where there is no value, or any is missing or not a number."""
    known = list(values)
    if not known or any(value is None or not math.isfinite(value) for value in known):
        return None
    return sum(value for value in known if value is not None) / len(known)
