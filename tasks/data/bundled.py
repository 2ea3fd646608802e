"""Real photographs that ship inside scikit-image, so that nothing is downloaded.

All are public domain or CC0 (their docstrings in ``skimage.data`` say which); the scraped face
subset of the same package is deliberately not used. The private and the held-out pictures are
disjoint sets.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from tasks.data.pictures import prepare
from tasks.randomness import generator
from tasks.signals import Signal, sampled

PRIVATE = (
    "astronaut", "coffee", "rocket", "camera", "immunohistochemistry", "moon",
    "coins", "hubble_deep_field", "brick", "gravel", "cell", "page",
)  # fmt: skip
HELD_OUT = ("cat", "retina", "clock", "grass", "horse", "colorwheel")
CROP_SHARE = 0.6


@lru_cache(maxsize=32)
def _photograph(name: str) -> Image.Image:
    import skimage.data

    array = np.asarray(getattr(skimage.data, name)())
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    return Image.fromarray(array)


def _picture(names: tuple[str, ...], index: int, size: int, channels: int) -> Signal:
    """Picture ``index``: first each photograph's central square, then seeded crops of 60 % of its
    side."""
    name = names[index % len(names)]
    turn = index // len(names)
    image = _photograph(name)
    if turn == 0 or size == 0:
        return sampled(name, prepare(image, size, channels))
    side = max(1, int(CROP_SHARE * min(image.size)))
    draw = generator("bundled crop", name, turn)
    left = int(torch.randint(image.width - side + 1, (1,), generator=draw))
    top = int(torch.randint(image.height - side + 1, (1,), generator=draw))
    return sampled(f"{name} (crop {turn})", prepare(image, size, channels, (left, top, side)))


def private_picture(client: int, size: int, channels: int) -> Signal:
    """The picture of one client, the same on every machine."""
    return _picture(PRIVATE, client, size, channels)


def held_out_picture(index: int, size: int, channels: int) -> Signal:
    """A picture of which no client holds any part."""
    return _picture(HELD_OUT, index, size, channels)
