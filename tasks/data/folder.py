"""The user's own images: a folder, one private image per client.

Files are taken in the order of their names; the last ``data.held-out`` of them are held by no
client. Hidden files are passed over; anything else that is not an image is an error, because a
silently missing client is worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from PIL import Image

from tasks.data.pictures import UNREADABLE, first_of, prepare
from tasks.errors import InputError, together
from tasks.signals import Signal, sampled

UNSUPPORTED = (".heic", ".heif", ".avif", ".cr2", ".nef", ".arw", ".dng")  # what telephones write


@lru_cache(maxsize=8)
def image_files(path: str) -> tuple[Path, ...]:
    """The image files of a folder in name order; raises :class:`InputError` for anything that is
    not an image."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(
            "data.path", path, "no such folder", "give a folder that holds one image a client"
        )
    files = sorted(
        entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")
    )
    if not files:
        raise InputError(
            "data.path", path, "the folder holds no files", "put one image a client into it"
        )
    faults = [fault for file in files if (fault := _fault(file))]
    if faults:
        raise together(faults)
    return tuple(files)


def _fault(file: Path) -> InputError | None:
    """The fault that keeps a file from being a picture; ``None``: it is one."""
    if file.suffix.lower() in UNSUPPORTED:
        reason = f"{file.suffix[1:].upper()} pictures are not read"
        return InputError("data.path", str(file), reason, "convert it to JPEG or PNG")
    try:
        with Image.open(file) as image:
            image.verify()
    except (*UNREADABLE, SyntaxError) as error:
        reason = f"not a readable image ({error})"
        return InputError("data.path", str(file), reason, "move the file out of the folder")
    return None


def twins(files: Iterable[Path]) -> list[list[Path]]:
    """Files with the same content: one picture that several clients would hold."""
    same: dict[bytes, list[Path]] = {}
    for file in files:
        same.setdefault(sha256(file.read_bytes()).digest(), []).append(file)
    return [group for group in same.values() if len(group) > 1]


def split(
    path: str, held_out: int, needed: int, clients: int = 0
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Files of a folder apart into private and held-out ones.

    Args:
        path: the folder.
        held_out: number of files, the last ones, that no client holds.
        needed: number of private files; :class:`InputError` if there are fewer.
        clients: number of clients that share them, for the error; 0: one file each.
    """
    files = image_files(path)
    free = max(0, len(files) - held_out)
    private = files[:free]
    test = files[free:]
    if len(private) < needed:
        whose = f"{clients} clients ({needed} images)" if clients else f"{needed} clients"
        remedy = (
            "lower clients.total or data.objects"
            if clients
            else f"set clients.total to {len(private)} or fewer"
        )
        raise InputError(
            "data.path",
            path,
            f"{len(files)} images are too few for {whose} and {held_out} held-out pictures",
            f"{remedy}, lower data.held-out, or add images",
        )
    return private, test


def load(file: Path, size: int, channels: int) -> Signal:
    """One file as a signal; raises :class:`InputError` if it cannot be decoded."""
    try:
        with Image.open(file) as image:
            first_of(image, file)
            return sampled(file.stem, prepare(image, size, channels))
    except (*UNREADABLE, SyntaxError, ValueError) as error:
        raise InputError(
            "data.path", str(file), f"cannot be decoded ({error})", "replace the file"
        ) from error
