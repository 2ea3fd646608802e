"""Pictures as arrays in [0, 1]."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

log = logging.getLogger("flwr")

# what opening a file as a picture raises: 200 megapixels are taken for an attack
UNREADABLE = (UnidentifiedImageError, OSError, Image.DecompressionBombError)


def prepare(
    image: Image.Image, size: int, channels: int, box: tuple[int, int, int] | None = None
) -> Tensor:
    """Cut a square and scale it; transparent parts turn white, and the camera's turn is undone.

    Args:
        image: in any mode; ``ValueError`` for pixels without a known range.
        size: pixels per side of the result; 0 keeps the whole image at its own size.
        channels: 3 for RGB, 1 for grey.
        box: the square as ``(left, top, side)``; ``None``: the central one.

    Returns:
        ``[H, W, channels]`` in [0, 1].
    """
    image = flattened(ImageOps.exif_transpose(image), 1.0)[0].convert(
        "RGB" if channels == 3 else "L"
    )
    if size:
        side = min(image.size)
        left, top, side = box or ((image.width - side) // 2, (image.height - side) // 2, side)
        image = image.crop((left, top, left + side, top + side)).resize(
            (size, size), Image.Resampling.LANCZOS
        )
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array.reshape(image.height, image.width, channels).copy())


def first_of(image: Image.Image, path: Path) -> None:
    """Log that a file of several pictures (animations, scans of pages) gives its first one."""
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1:
        log.warning("%s holds %d pictures: the first one is used", path, pictures)


def flattened(image: Image.Image, background: float) -> tuple[Image.Image, Image.Image | None]:
    """A picture in RGB of 8 bits, on a ``background`` in [0, 1] where it is transparent, and its
    alpha channel if any.

    An editor that cuts something out leaves its colours in the file: without the background they
    would be trained on.
    """
    if image.mode.startswith("I;16"):
        numbers = np.asarray(image).astype(np.uint32)
        shallow = (numbers * 255 + 32767) // 65535
        return Image.fromarray(shallow.astype(np.uint8)).convert("RGB"), None
    if image.mode in ("I", "F"):
        raise ValueError(
            f"pixels of mode {image.mode} have no known range: save it with 8 or 16 bits a channel"
        )
    if not image.has_transparency_data:
        return image.convert("RGB"), None
    image = image.convert("RGBA")
    ground = round(255 * background)
    opaque = Image.alpha_composite(
        Image.new("RGBA", image.size, (ground, ground, ground, 255)), image
    )
    return opaque.convert("RGB"), image.getchannel("A")


def beside(images: Sequence[Tensor], gap: int = 4) -> Tensor:
    """Pictures or videos ``[..., H, W_i, C]`` in one, with ``gap`` white columns between two of
    them."""
    value = 255 if images[0].dtype == torch.uint8 else 1
    white = torch.full(
        (*images[0].shape[:-2], gap, images[0].shape[-1]), value, dtype=images[0].dtype
    )
    return torch.cat([part for image in images for part in (white, image)][1:], dim=-2)


def is_picture(image: Tensor) -> bool:
    """Whether it can be shown: ``[..., H, W, 1 or 3]``. Other signals (sound, tables) cannot."""
    return pictures_have(image.shape)


def pictures_have(shape: Sequence[int]) -> bool:
    """Whether values in this shape are a picture or several: ``[..., H, W, 1 or 3]``."""
    return len(shape) >= 3 and shape[-1] in (1, 3)


def contact_sheet(images: Tensor, most: int = 4) -> Tensor:
    """Several pictures ``[..., H, W, C]`` as one: at most ``most``, evenly chosen, side by side.

    Anything else, one picture ``[H, W, C]`` or values that form none, stays as it is.
    """
    if images.dim() <= 3:
        return images
    images = images.flatten(0, -4)
    chosen = torch.linspace(0, len(images) - 1, min(most, len(images))).round().long()
    return beside(list(images[chosen]), gap=2)
