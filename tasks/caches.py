"""Caches of what can be made again: small backbones, fitted heads of made-up people.

``$FEDAPP_CACHE``, else ``$XDG_CACHE_HOME/fedapp``, else ``~/.cache/fedapp``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tasks.atomic import make_folder
from tasks.errors import InputError

VARIABLE = "FEDAPP_CACHE"


def cache(name: str) -> Path:
    """The folder of one kind of thing; it need not be there.

    Raises:
        InputError: no variable says where, and this user has no home.
    """
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser() / name
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "fedapp" / name
    try:
        return Path.home() / ".cache" / "fedapp" / name
    except RuntimeError:
        raise InputError(
            VARIABLE, "", "this user has no home folder to keep things in",
            f"set {VARIABLE} to a folder that can be written",
        ) from None  # fmt: skip


def ready(folder: Path) -> Path:
    """The folder, made and tried: before the work whose outcome it shall hold.

    Raises:
        InputError: it cannot be written.
    """
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            VARIABLE, str(folder), f"cannot be written ({error.strerror})",
            f"set {VARIABLE} to a folder that can",
        ) from error  # fmt: skip
    return folder
