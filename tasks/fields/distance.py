"""Representations that a signed distance can have, by name: ``grid``, ``hash``, ``mlp``.

A representation keeps no parameters of its own: they are one tensor, which a fit steps, stores and
restores. ``head.field`` chooses; sizes stand behind ``=``:

=====================  ==========================================================================
``grid``               distances at the corners of a cube (:class:`tasks.fields.sdf.Volume`); the
                       fast one on CPUs, and the only one a template of lattices can start
``hash=L x T``         L levels of tables of 2^T rows before a small network; ``hash`` is 8x14
``mlp=D x W``          D hidden layers of W units on a positional encoding; ``mlp`` is 8x256
=====================  ==========================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.fields.sdf import FEATURES, Reading, Volume, ball, resized


class Readable(Protocol):
    """A field that is ready to be read, for one step."""

    def read(self, points: Tensor) -> Reading:
        """Distances, normals and features at ``points [P, 3]``."""

    def sdf(self, points: Tensor) -> Tensor:
        """Distances ``[...]`` at ``points [..., 3]``; no gradients."""

    def lattice(self) -> Tensor:
        """Distances ``[S, S, S]`` (z, y, x) at the corners of the cube."""

    def eikonal(self, stream: torch.Generator) -> Tensor:
        """Mean of ``(|grad f| - 1)^2`` over the cube."""

    def curvature(self, stream: torch.Generator) -> Tensor:
        """Mean absolute Laplacian near the surface, times a cell's width."""


class Representation(Protocol):
    """How distances and features are stored."""

    def start(self, side: int, stream: torch.Generator) -> Tensor:
        """Parameters of a ball."""

    def refined(self, field: Tensor, side: int) -> Tensor:
        """Parameters of the same field, ready for details of ``side`` corners per axis."""

    def ready(self, field: Tensor, side: int) -> Readable:
        """The field as a step reads it."""


@dataclass(frozen=True)
class DenseGrid:
    """Parameters ``[1 + F, S, S, S]``."""

    def start(self, side: int, stream: torch.Generator) -> Tensor:
        return ball(side, FEATURES)

    def refined(self, field: Tensor, side: int) -> Tensor:
        return resized(field, side)

    def ready(self, field: Tensor, side: int) -> Volume:
        return Volume(field)


def representation(text: str) -> Representation:
    """The representation that ``head.field`` names.

    Raises:
        InputError: no such name, or sizes it cannot have.
    """
    from tasks.fields.sdf_networks import HashDistance, MlpDistance

    found = re.fullmatch(r"(grid|hash|mlp)(?:=(\d{1,4})x(\d{1,4}))?", text)
    if found is None or (found[1] == "grid" and found[2]):
        raise InputError(
            "head.field", text, "no such representation of a distance",
            "write grid, hash, mlp, hash=LEVELSxLOG2ROWS or mlp=LAYERSxUNITS",
        )  # fmt: skip
    if found[1] == "grid":
        return DenseGrid()
    sizes = (int(found[2]), int(found[3])) if found[2] else None
    if found[1] == "hash":
        levels, table = sizes or (8, 14)
        if not (1 <= levels <= 16 and 4 <= table <= 24):
            raise InputError("head.field", text, "levels are 1 to 16 and log2 rows 4 to 24",
                             "correct it")  # fmt: skip
        return HashDistance(levels, table)
    depth, width = sizes or (8, 256)
    if not (1 <= depth <= 16 and 8 <= width <= 1024):
        raise InputError("head.field", text, "layers are 1 to 16 and units 8 to 1024", "correct it")
    return MlpDistance(depth, width)
