"""Package versions recorded with every run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedapp.place import __version__


def versions() -> dict[str, Any]:
    """Versions of what the numbers of a run depend on."""

    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "fedapp": __version__,
        "python": platform.python_version(),
        "torch": of("torch"),
        "flwr": of("flwr"),
        "ray": of("ray"),
        "machine": platform.machine(),
    }
