"""The Flower app: configuration, run folder, checkpoints, report, command line; it composes
everything else. From Python: :mod:`fedapp.api`, whose names are here.

The sibling packages have generic names (``tasks``, ``sim``, ...). If another directory of such a
name comes first on the path, Python would silently run that code instead, so it is checked here,
once.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedapp.place import PACKAGES, ROOT, __version__

if TYPE_CHECKING:
    from fedapp.api import Learned, Outcome, compare, field, load, run

__all__ = [
    "PACKAGES", "ROOT", "Learned", "Outcome", "__version__", "compare", "field", "load", "run",
]  # fmt: skip

for _name in PACKAGES:
    _spec = find_spec(_name)
    _found = (
        Path(_spec.origin).resolve().parent.parent if _spec is not None and _spec.origin else None
    )
    if _found != ROOT:
        raise ImportError(
            f"package {_name!r} comes from {_found}, but fedapp from {ROOT}: another directory "
            f"called {_name!r} "
            "comes first on the path. Run from a directory without one, or with `fedapp run`, "
            "which does."
        )


def __getattr__(name: str) -> Any:
    """The names of :mod:`fedapp.api`, which costs an import of torch only when one is used."""
    if name in __all__:
        from fedapp import api

        return getattr(api, name)
    raise AttributeError(f"module 'fedapp' has no attribute {name!r}")
