"""Files and folders that a command is asked to write: looked at before the work, written whole or
not at all, and never over what is somebody's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import FedappError, InputError


class NotWrittenError(FedappError):
    """A disk is full, or a file system has become read-only; what it would have held is lost."""

    exit_code = 3


def new_file(
    option: str,
    path: Path | str,
    endings: Sequence[str] = (),
    force: bool = False,
    remedy: str = "name another file",
) -> Path:
    """The path of a file that can be written when the work is done.

    Args:
        option: that named it, for the error.
        path: of the file; ``~`` is somebody's home.
        endings: one of which it must have, if there are any.
        force: whether it may take the place of what is there.
        remedy: where something is there already.

    Raises:
        InputError: another ending, no folder that can be written to, or something there already.
    """
    file = Path(path).expanduser()
    if endings and file.suffix.lower() not in endings:
        wanted = " or ".join(endings)
        raise InputError(option, str(path), "another kind of file", f"give it the ending {wanted}")
    if option == "--json" and file.exists() and not (file.is_file() or file.is_dir()):
        if not os.access(file, os.W_OK):  # a device or a pipe, whoever owns its folder
            raise InputError(option, str(path), "cannot be written", "name a file, or -")
        return file
    folder = file.resolve().parent
    if not folder.is_dir() or file.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            option, str(path), "cannot be written", "name a file in a folder of yours that exists"
        )
    if file.is_file() and force and not os.access(file, os.W_OK):
        raise InputError(option, str(path), "cannot be written over", "name another file")
    if file.exists() and not file.is_file():  # a device or a pipe
        raise InputError(option, str(path), "is no file", "name another file")
    if file.is_file() and not force:
        raise InputError(option, str(path), "is there already", remedy)
    return file


def new_folder(option: str, path: Path | str) -> Path:
    """The path of a folder that can be made, or is there and empty; ``InputError`` otherwise."""
    folder = Path(path).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(option, str(path), "is not an empty folder", "name a new one")
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(option, str(path), "cannot be made", "name one in a folder of yours")
    return folder


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write, of the same ending; it takes its place at the end, or is
    taken away.

    Raises:
        NotWrittenError: it could not be written.
    """
    path = path.resolve()  # of a link what it points to is written
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    except Exception as error:
        if not getattr(error, "errno", None):  # FFmpeg's errors have one too
            raise
        raise not_written(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def not_written(path: Path | str, error: Exception) -> NotWrittenError:
    """An operating system's error about a file, as a sentence."""
    reason = getattr(error, "strerror", None) or str(error)
    return NotWrittenError(
        f"{path} could not be written: {reason}\n  → make room, or another place"
    )
