"""Pictures as arrays in [0, 1], and as the coordinate-value pairs a field is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """One image: ``truth [H, W, channels]`` in [0, 1]. A client that holds it has one example."""

    name: str
    truth: Tensor
    examples: int = 1

    @cached_property
    def coordinates(self) -> Tensor:
        """``[H*W, 2]``: (row, column) of each pixel, both from -1 to 1, row by row."""
        rows, columns = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in self.truth.shape[:2])
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)

    @cached_property
    def values(self) -> Tensor:
        """``[H*W, channels]`` in [0, 1], in the order of :attr:`coordinates`."""
        return self.truth.reshape(-1, self.truth.shape[-1])


def prepare(image: Image.Image, size: int, channels: int, box: tuple[int, int, int] | None = None) -> Tensor:
    """Cut a square (``box = (left, top, side)``, default the central one), scale it to ``size`` pixels a side.

    ``size = 0`` keeps the whole image at its own size. Returns ``[H, W, channels]`` in [0, 1].
    """
    image = image.convert("RGB" if channels == 3 else "L")
    if size:
        side = min(image.size)
        left, top, side = box or ((image.width - side) // 2, (image.height - side) // 2, side)
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array.reshape(image.height, image.width, channels).copy())
