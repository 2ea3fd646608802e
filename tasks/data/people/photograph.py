"""Photographs of a head from known cameras, lit by several lights, on a plain background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.data.people.heads import head
from tasks.data.people.look import albedo, dressed
from tasks.data.people.person import Person
from tasks.render.raster import pinhole, rasterise, vertex_normals

GRAIN = 3  # samples per pixel and axis
LIGHTS = (  # towards the light, and how strong it is
    ((0.45, 0.75, 0.60), 0.55),
    ((-0.70, 0.25, 0.45), 0.25),
    ((0.10, 0.55, -0.85), 0.38),
)
AMBIENT = 0.34
GLOSS, SHARP = 0.07, 18.0


@dataclass(frozen=True)
class Light:
    """Lights of a room: ``directions [L, 3]`` of unit length, towards them, and ``strengths
    [L]``."""

    directions: Tensor
    strengths: Tensor
    ambient: float = AMBIENT

    @classmethod
    def studio(cls) -> Light:
        """Three lights around the head: all sides can be seen."""
        directions = torch.tensor([direction for direction, _ in LIGHTS])
        strengths = torch.tensor([strength for _, strength in LIGHTS])
        return cls(torch.nn.functional.normalize(directions, dim=1), strengths)


@dataclass(frozen=True)
class Portrait:
    """A person as a mesh that can be looked at.

    Attributes:
        vertices: ``[N, 3]`` with hair.
        faces: ``[M, 3]``.
        person: whose.
    """

    vertices: Tensor
    faces: Tensor
    person: Person

    @classmethod
    def of(cls, person: Person, expression: Mapping[str, float] | None = None) -> Portrait:
        """A person with an expression (face units)."""
        return cls(dressed(person, person.shape(expression)), head().faces, person)


class Photographs(NamedTuple):
    """V pictures ``images [V, H, W, 3]`` in [0, 1], shares of a pixel that are covered ``cover [V,
    H, W]``, and distances along the axis ``depth [V, H, W]`` (infinite where nothing is)."""

    images: Tensor
    cover: Tensor
    depth: Tensor


def photographs(
    portrait: Portrait,
    poses: Tensor,
    focal: float,
    size: int,
    background: float = 1.0,
    light: Light | None = None,
) -> Photographs:
    """Pictures of a portrait.

    Args:
        portrait: of whom.
        poses: camera to world, ``[V, 4, 4]``.
        focal: in pixels of the finished picture.
        size: H and W.
        background: grey level.
        light: of the room; default three lights.
    """
    light = light or Light.studio()
    parts = [_one(portrait, pose, focal, size, background, light) for pose in poses]
    return Photographs(*(torch.stack(column) for column in zip(*parts, strict=True)))


def _one(
    portrait: Portrait, pose: Tensor, focal: float, size: int, background: float, light: Light
) -> tuple[Tensor, Tensor, Tensor]:
    own, faces = head(), portrait.faces
    fine = size * GRAIN
    seen = rasterise(portrait.vertices, faces, pose, pinhole(focal * GRAIN, fine, fine), fine, fine)
    there = seen.covered
    normals = vertex_normals(portrait.vertices, faces)
    values = torch.cat([own.base, own.regions, normals, portrait.vertices], 1)
    found = seen.interpolate(faces, values)
    places, regions, normal, point = found.split([3, own.regions.shape[1], 3, 3], 1)
    part = own.part[faces[seen.triangle[there]][:, 0]]
    gaze = torch.nn.functional.normalize(pose[:3, 3] - point, dim=1)
    normal = torch.nn.functional.normalize(normal, dim=1)
    normal = torch.where((normal * gaze).sum(1, keepdim=True) < 0, -normal, normal)
    colour = albedo(portrait.person, places, regions, part)
    falling = (normal @ light.directions.T).clamp(min=0)
    shade = light.ambient + falling @ light.strengths
    half = torch.nn.functional.normalize(light.directions + gaze[:, None], dim=2)
    shine = ((half * normal[:, None]).sum(2).clamp(min=0) ** SHARP) @ light.strengths
    picture = torch.full((fine, fine, 3), background)
    picture[there] = (colour * shade[:, None] + GLOSS * shine[:, None]).clamp(0, 1)
    shape = (size, GRAIN, size, GRAIN)
    return (
        picture.view(*shape, 3).mean((1, 3)),
        there.float().view(shape).mean((1, 3)),
        seen.depth.view(shape).amin((1, 3)),
    )
