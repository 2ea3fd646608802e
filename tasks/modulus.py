r"""The gradient magnitude of pictures, the same on the device and in the renderer.

*Identity-Obscured Neural Radiance Fields: Privacy-Preserving 3D Facial Reconstruction*, J. Kong, X.
Song, S. Huai, B. Xu, J. Luo, Y. He, 2023, https://arxiv.org/abs/2312.04106 (Equation 6).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.errors import InputError

KERNELS = {  # across; down is its transpose. A ramp of slope 1 per pixel gives 1
    "sobel": [[-1 / 8, 0, 1 / 8], [-2 / 8, 0, 2 / 8], [-1 / 8, 0, 1 / 8]],
    "central": [[0, 0, 0], [-1 / 2, 0, 1 / 2], [0, 0, 0]],
}
EASE = 1e-8  # under the roots: they have a slope at 0


def gradient_modulus(pictures: Tensor, kernel: str = "sobel") -> Tensor:
    r"""One number per pixel; borders of one pixel are lost (padding would draw edges there).

    .. math:: g = \Big\| \frac{\partial c}{\partial x} \Big\|_2 +
        \Big\| \frac{\partial c}{\partial y} \Big\|_2, \qquad c \in [0, 1]^3

    Args:
        pictures: ``[V, H, W, 3]``.
        kernel: ``sobel`` or ``central`` differences.

    Returns:
        ``[V, H - 2, W - 2]``, 0 or more; 0 up to 2e-4 where nothing changes.
    """
    if kernel not in KERNELS:
        raise InputError("modulus", kernel, "no such kernel", f"use {' or '.join(KERNELS)}")
    across = pictures.new_tensor(KERNELS[kernel])
    weight = torch.stack([across, across.T])[:, None].repeat(3, 1, 1, 1)  # [6, 1, 3, 3]
    slopes = torch.nn.functional.conv2d(pictures.permute(0, 3, 1, 2), weight, groups=3)
    both = slopes.view(len(pictures), 3, 2, *slopes.shape[2:])
    return (both.square().sum(1) + EASE).sqrt().sum(1)
