"""Files that are either the old version or the new one, never half of each, whatever moment the
machine dies."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PRIVATE = 0o600  # mode of files that hold what only their owner may read
SHARED = 0o666  # ... and of all others, less what the umask takes away


def write_bytes(path: Path, data: bytes, mode: int = SHARED, new: bool = False) -> None:
    """Write beside the target, sync, rename over it, sync the directory.

    Args:
        path: of the file; its folder is made if it is not there.
        data: its whole new content.
        mode: :data:`PRIVATE` or :data:`SHARED`; of an older version nothing is kept.
        new: ``FileExistsError`` where there is a file already, whoever made it and when.
    """
    make_folder(path.parent, mode)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    # Left by a process of the same number that was killed here: its mode may be another
    beside.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # no room: what is half written takes none of it
        beside.unlink(missing_ok=True)
        raise
    if new:
        try:
            os.link(beside, path)
        finally:
            beside.unlink()
    else:
        os.replace(beside, path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any, mode: int = SHARED, new: bool = False) -> None:
    """:func:`write_bytes` of readable JSON; refuses NaN, which JSON does not have."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), mode, new)


def make_folder(folder: Path, mode: int = SHARED) -> None:
    """Make ``folder`` and what it lies in; new ones are for their owner alone if ``mode`` is
    :data:`PRIVATE`."""
    for part in [*reversed(folder.parents), folder]:
        if not part.exists():
            part.mkdir(mode=0o700 if mode == PRIVATE else 0o777, exist_ok=True)


def as_umask_says(place: Path) -> None:
    """Give a file, or all of a folder, the mode that what is made here has.

    safetensors and ``mkdtemp`` write for the owner alone, whatever the umask is: right for a node's
    state, wrong for what a person exports to hand on.
    """
    mask = os.umask(0)
    os.umask(mask)
    inside = [place, *(place.rglob("*") if place.is_dir() else ())]
    for part in inside:
        if not part.is_symlink():
            part.chmod((0o777 if part.is_dir() else SHARED) & ~mask)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk: a new or renamed file survives a power cut."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
