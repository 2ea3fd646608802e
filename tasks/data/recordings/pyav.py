"""PyAV, imported when the first film is opened: an optional package (``fedapp[video]``)."""

from __future__ import annotations

from types import ModuleType

from tasks.errors import InputError


def pyav() -> ModuleType:
    """The module ``av``; raises :class:`InputError` with the remedy where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise InputError(
            "package",
            "av",
            "video files are read and written with PyAV",
            "pip install 'fedapp[video]'",
        ) from error
    return av
