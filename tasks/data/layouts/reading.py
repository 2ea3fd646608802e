"""Files as all layouts read them: listing, decoding, and the error for one that is unusable."""

from __future__ import annotations

import logging
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ValidationError
from torch import Tensor

from tasks.data.pictures import UNREADABLE, first_of, flattened, prepare
from tasks.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ORIENTATION = 0x0112  # an Exif tag
SIDEWAYS = (5, 6, 7, 8)  # its values for cameras held upright
# Numbers in one clip or object (1 GiB): beyond that a native size is a mistake, not a wish.
MOST_VALUES = 2**28
WHITE_MASK = 128  # a mask without a value from here on marks nothing, or counts from 0 to 1
UNSIZED = "set data.size, so that all are cut to one size"

NAMED = 5  # files that a warning names
log = logging.getLogger("flwr")

Model = TypeVar("Model", bound=BaseModel)


def unusable(path: Path, reason: str, remedy: str) -> InputError:
    """The error every layout raises: the file or folder, what is wrong with it and what to do."""
    return InputError("data.path", str(path), reason, remedy)


# ---------------------------------------------------------------------- folders
def natural(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sorting key under which ``frame2`` comes before ``frame10``; the name itself settles ties
    (``a1``, ``a01``)."""
    pieces = re.findall(r"([0-9]+)|([^0-9]+)", path.name)
    return *((0, int(number), "") if number else (1, 0, text) for number, text in pieces), (
        2,
        0,
        path.name,
    )


def folder(root: Path) -> Path:
    """The folder itself, ``~`` resolved; raises :class:`InputError` if it is not there."""
    root = root.expanduser()
    if not root.is_dir():
        raise unusable(root, "no such folder", "give a folder that holds a data set")
    return root


def subfolders(parent: Path) -> list[Path]:
    """In natural order, without hidden ones; none if there is no such parent."""
    entries = parent.iterdir() if parent.is_dir() else ()
    return sorted(
        (entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()),
        key=natural,
    )


def is_named(path: Path, suffixes: tuple[str, ...] = PICTURES) -> bool:
    """By the name alone: this is asked a million times, and a file that is none is found when it is
    decoded."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def pictures_in(parent: Path) -> list[Path]:
    """The picture files of a folder in natural order; other files are passed over."""
    return sorted((entry for entry in parent.iterdir() if is_named(entry)), key=natural)


def passed_over(parent: Path, suffixes: tuple[str, ...] = PICTURES) -> list[Path]:
    """Files of an owner that are of no kind that is read, without hidden ones."""
    return [
        entry
        for entry in sorted(parent.iterdir(), key=natural)
        if entry.is_file() and not entry.name.startswith(".") and not is_named(entry, suffixes)
    ]


def told_of_others(root: Path, others: Sequence[Path], what: str) -> None:
    """Log which files of owners are not used."""
    if others:
        shown = ", ".join(path.relative_to(root.absolute()).as_posix() for path in others[:NAMED])
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        log.warning(
            "%s: %d files are no %s and are not used: %s%s", root, len(others), what, shown, more
        )


# ---------------------------------------------------------------------- json
def read_json(path: Path, model: type[Model]) -> Model:
    """A file as ``model``; the last few are kept, because the items of one holder share a file."""
    try:
        state = path.stat()
    except OSError as error:
        raise unusable(path, f"cannot be read ({error.strerror})", "restore the file") from error
    return cast(Model, _parsed(path, model, state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=4)
def _parsed(path: Path, model: type[BaseModel], changed: int, length: int) -> BaseModel:
    return parse_json(path, model)


def parse_json(path: Path, model: type[Model]) -> Model:
    """As :func:`read_json`, keeping nothing: for a pass over many files."""
    try:
        return model.model_validate_json(path.read_bytes().removeprefix(BOM_UTF8))
    except OSError as error:
        raise unusable(path, f"cannot be read ({error.strerror})", "restore the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        others = f" and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        reason = f"malformed: {place + ': ' if place else ''}{first['msg']}{others}"
        raise unusable(path, reason, "write the file again as the data set has it") from error


# ---------------------------------------------------------------------- pictures
@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture file, open; an error of Pillow, then or when it is decoded, names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except (*UNREADABLE, SyntaxError, ValueError) as error:
        raise unusable(
            path, f"cannot be decoded ({error})", "replace the file or take it out"
        ) from error


def header(path: Path, upright: bool = True) -> tuple[int, int]:
    """(width, height) in pixels without decoding; ``upright``: as its camera was held, else as it
    is stored."""
    with opened(path) as image:
        turned = upright and image.getexif().get(ORIENTATION, 1) in SIDEWAYS
        return (image.height, image.width) if turned else image.size


def picture(path: Path, size: int, channels: int) -> Tensor:
    """``[H, W, channels]`` in [0, 1], see :func:`tasks.data.pictures.prepare`."""
    with opened(path) as image:
        first_of(image, path)
        return prepare(image, size, channels)


def refuse_other_size(
    first: Path, first_shape: tuple[int, int], other: Path, shape: tuple[int, int], where: str
) -> None:
    """Raise :class:`InputError` unless two files are of one size; it names both.

    Args:
        first: a file.
        first_shape: its (width, height) in pixels.
        other: the file to hold against it.
        shape: its (width, height) in pixels.
        where: the relation of the two, such as ``of the same clip``.
    """
    if shape != first_shape:
        width, height = first_shape
        reason = f"{shape[0]} x {shape[1]} pixels, but {first} {where} has {width} x {height}"
        raise unusable(other, reason, UNSIZED)


def stack(frames: Iterable[tuple[Path, Tensor]], where: str) -> Tensor:
    """``[T, H, W, C]`` of named frames ``[H, W, C]``; refuses mixed sizes, and a clip that no
    memory would hold."""
    paths: list[Path] = []
    pictures: list[Tensor] = []
    for path, frame in frames:
        if pictures:
            (h, w, _) = pictures[0].shape
            (height, width, _) = frame.shape
            refuse_other_size(paths[0], (w, h), path, (width, height), where)
        paths.append(path)
        pictures.append(frame)
        if len(pictures) * frame.numel() > MOST_VALUES:
            height, width = frame.shape[:2]
            raise unusable(
                path,
                f"more than {len(pictures) - 1} frames of {width} x {height} pixels are too many",
                "lower data.size (0 keeps the native size) or cut the clip",
            )
    return torch.stack(pictures)


# ---------------------------------------------------------------------- views
class View(NamedTuple):
    """``image [H, W, 3]`` in [0, 1] on its background, ``mask [H, W]`` where the file has an alpha
    channel.

    ``native`` is the file's (width, height); ``side`` the pixels of it, each way, that ``size``
    ones were made of.
    """

    image: Tensor
    mask: Tensor | None
    native: tuple[int, int]
    side: int


def _scaled(image: Image.Image, size: int) -> Image.Image:
    """The central square at ``size`` pixels per side: the mean over each new pixel's area, Lanczos
    when enlarging."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    # A ray of a field stands for a pixel's area, so that the area is averaged; Lanczos would
    # overshoot at outlines.
    return square.resize(
        (size, size), Image.Resampling.BOX if size < side else Image.Resampling.LANCZOS
    )


def _masked(path: Path, image: Image.Image, mask_file: Path) -> Image.Image:
    """The photograph with its mask as alpha channel."""
    if image.has_transparency_data:
        raise unusable(
            path,
            f"has an alpha channel and a mask, {mask_file}",
            "keep one of them: which is meant?",
        )
    with opened(mask_file) as found:
        if found.mode not in ("1", "L", "RGB", "I;16") or found.has_transparency_data:
            raise unusable(
                mask_file,
                f"a mask of mode {found.mode}",
                "save it as a grey picture, white where the object is, without transparency",
            )
        mask = flattened(found, 1.0)[0].convert("L")
    largest = int(np.asarray(mask).max())
    if largest < WHITE_MASK:
        raise unusable(
            mask_file,
            f"a mask whose largest value is {largest}: the object would vanish",
            "write 255 where the object is",
        )
    if mask.size != image.size:
        raise unusable(
            mask_file,
            f"a mask of {mask.size[0]} x {mask.size[1]} pixels for a photograph of "
            f"{image.size[0]} x {image.size[1]}",
            "make masks of the pictures' size",
        )
    whole, _ = flattened(image, 1.0)
    whole.putalpha(mask)
    return whole


def view(path: Path, size: int, background: float, mask_file: Path | None = None) -> View:
    """One photograph on a background in [0, 1]: composited before it is scaled, so that no hidden
    colour bleeds in. ``mask_file``: a grey picture of its size, white where the object is."""
    with opened(path) as image:
        native = image.size
        if mask_file is not None:
            image = _masked(path, image, mask_file)
        image, alpha = flattened(image, background)
    if size:
        image = _scaled(image, size)
        alpha = None if alpha is None else _scaled(alpha, size)
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)) / 255
    mask = None if alpha is None else torch.from_numpy(np.array(alpha)) > 0
    return View(pixels, mask, native, min(native) if size else 0)
