"""Sizes of what a run's rule contributes, remembered on the node so that a leg that does not train
need not import torch to know them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from strategies.types import Bounds
from tasks.atomic import PRIVATE, write_json

KEPT = 32  # configurations remembered


class Shape(NamedTuple):
    """V numbers, and the scalars summed beside them with their ranges."""

    size: int
    scalars: dict[str, Bounds]


class Shapes:
    """The file of shapes by digest of the configuration; anything unreadable counts as unknown."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def _read(self) -> dict[str, dict[str, object]]:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def get(self, digest: str) -> Shape | None:
        """The shape known for a configuration."""
        try:
            entry: Any = self._read()[digest]
            scalars = {name: Bounds(*bounds) for name, bounds in entry["scalars"].items()}
            return Shape(int(entry["size"]), scalars)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def put(self, digest: str, size: int, scalars: Mapping[str, Bounds]) -> Shape:
        """Remember a shape, and forget the oldest ones beyond :data:`KEPT`."""
        entries = self._read()
        entries[digest] = {"size": size, "scalars": {n: list(b) for n, b in scalars.items()}}
        write_json(self.file, dict(list(entries.items())[-KEPT:]), PRIVATE)
        return Shape(size, dict(scalars))
