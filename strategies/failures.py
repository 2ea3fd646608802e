"""Failures as one line of text: the whole story for a simulation, next to nothing from a device."""

from __future__ import annotations

import traceback
from pathlib import Path

from tasks.errors import InputError


def describe(error: BaseException) -> str:
    """Type, message and place (file:line in function): the last one that is not in a library."""
    return f"{type(error).__name__}: {error}{_place(error, whole=True)}"


def disclose(error: BaseException) -> str:
    """Kind of a failure and its place in the code: all that a real device tells. Messages name
    files and folders."""
    named = f"InputError about {error.key}" if isinstance(error, InputError) else None
    kind = named or type(error).__name__
    return f"{kind}{_place(error, whole=False)}; the node's own log says more"


def _place(error: BaseException, whole: bool) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or list(frames)
    if not own:
        return ""
    file = own[-1].filename if whole else "/".join(Path(own[-1].filename).parts[-2:])
    return f" ({file}:{own[-1].lineno} in {own[-1].name})"
