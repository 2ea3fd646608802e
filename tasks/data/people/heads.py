"""The morphable head: one mesh, and named targets that move its vertices.

Lengths are in head heights (chin to crown of the base is about 1), the face looks along +z, y is
up, the origin lies in the middle of the head.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.data.people.pack import MOVE, REGIONS, UNIT
from tasks.errors import nearest

FILE = Path(__file__).with_name("heads.json")
HEIGHT = 2.4  # dm: chin to crown of the base mesh
MIDDLE = (0.0, 7.25, 0.30)  # dm
OPPOSITES = (
    ("incr", "decr"), ("up", "down"), ("out", "in"), ("forward", "backward"),
    ("convex", "concave"), ("uncompress", "compress"),
)  # fmt: skip


@dataclass(frozen=True)
class Trait:
    """One number of a person's shape: targets it adds where it is positive, and where it is
    negative (none: the number is never negative)."""

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]


class Head:
    """The pack, unpacked.

    Attributes:
        base: vertices ``[N, 3]``.
        faces: ``[M, 3]``.
        part: ``[N]``, 0 skin, 1 eyes, 2 teeth, 3 tongue.
        regions: ``[N, 5]`` in [0, 1]: lips, face, ears, eyelids, inside of the mouth.
    """

    def __init__(self, file: Path = FILE) -> None:
        text = json.loads(file.read_text(encoding="utf-8"))
        with np.load(io.BytesIO(base64.b64decode(text["npz"]))) as pack:
            self.base = (
                torch.from_numpy(pack["base"] * UNIT).float() - torch.tensor(MIDDLE)
            ) / HEIGHT
            self.faces = torch.from_numpy(pack["faces"].astype(np.int64))
            self.part = torch.from_numpy(pack["part"])
            self.regions = torch.from_numpy(pack["regions"].T / np.float32(255))
            names = [str(name) for name in pack["names"]]
            ends = np.cumsum(pack["counts"])
            rows = torch.from_numpy(np.cumsum(pack["rows"].astype(np.int64)))
            moves = torch.from_numpy(pack["moves"].T.astype(np.float32) * np.float32(MOVE / HEIGHT))
        self.targets: dict[str, tuple[Tensor, Tensor]] = {}
        for name, first, last in zip(names, [0, *ends[:-1]], ends, strict=True):
            self.targets[name] = rows[first:last], moves[first:last]

    def region(self, name: str) -> Tensor:
        """One region's mask ``[N]``."""
        return self.regions[:, REGIONS.index(name)]

    def shape(self, weights: Mapping[str, float]) -> Tensor:
        """Vertices ``[N, 3]`` moved by targets times their weights; raises ``ValueError`` for a
        target that is not there."""
        found = self.base.clone()
        for name, weight in weights.items():
            if name not in self.targets:
                raise ValueError(f"no target {name!r}; {nearest(name, self.targets)}")
            rows, moves = self.targets[name]
            found[rows] += weight * moves
        return found

    @cached_property
    def traits(self) -> list[Trait]:
        """Numbers of an identity: targets of one place with their opposites, left and right
        tied."""
        return _traits(
            [name for name in self.targets if not name.startswith(("macro/", "unit/", "asym/"))]
        )

    @cached_property
    def asymmetries(self) -> list[Trait]:
        """Numbers by which a face differs from its mirror image."""
        names = sorted(name for name in self.targets if name.startswith("asym/"))
        stems = sorted({name[:-2] for name in names})
        return [
            Trait(stem, tuple(n for n in (f"{stem}-l",) if n in names),
                  tuple(n for n in (f"{stem}-r",) if n in names))
            for stem in stems
        ]  # fmt: skip

    @property
    def units(self) -> list[str]:
        """Face units (ARKit's names), each from 0 to 1."""
        return [name.removeprefix("unit/") for name in self.targets if name.startswith("unit/")]


def _traits(names: list[str]) -> list[Trait]:
    grouped: dict[str, dict[int, list[str]]] = {}
    for name in sorted(names):
        place, _, own = name.partition("/")
        bare = own[2:] if own.startswith(("l-", "r-")) else own
        stem, sign = bare, 1
        for plus, minus in OPPOSITES:
            for ending, value in ((plus, 1), (minus, -1)):
                if bare.endswith(f"-{ending}"):
                    stem, sign = f"{bare[: -len(ending) - 1]}-{plus}", value
        grouped.setdefault(f"{place}/{stem}", {1: [], -1: []})[sign].append(name)
    return [Trait(stem, tuple(g[1]), tuple(g[-1])) for stem, g in sorted(grouped.items())]


@lru_cache(1)
def head() -> Head:
    """The pack that comes with fedapp."""
    return Head()
