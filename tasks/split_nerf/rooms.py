"""Procedural rooms: a floor, two walls, balls and boxes, ray-traced exactly.

A room fills the cube [-1, 1]^3 (y is up) and is open towards +x, +y and +z, from where cameras look
in; outside of it everything is white. Objects, colours and light follow from the room's number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.data.cameras import Views, look_at, rays
from tasks.data.shapes.draws import Draws
from tasks.randomness import generator

Texture = Literal["plain", "fine"]
LIGHT = (0.55, 0.75, 0.36)  # towards the light; normalised before use
AMBIENT = 0.5
FIELD_OF_VIEW = 50.0  # degrees
CLOSEST, FARTHEST = 2.3, 2.6  # of cameras, from the middle of the room
NEAR, FAR = 0.2, 4.4
GRAIN = 2  # rays per pixel and axis: softens edges
INFINITY = 1e9


@dataclass(frozen=True)
class Ball:
    centre: Tensor  # [3]
    radius: float
    colour: Tensor  # [3] in [0, 1]


@dataclass(frozen=True)
class Crate:
    centre: Tensor  # [3]
    half: Tensor  # [3]
    colour: Tensor  # [3] in [0, 1]


@dataclass(frozen=True)
class Room:
    """Furniture and paint of one room."""

    name: str
    texture: Texture
    balls: tuple[Ball, ...]
    crates: tuple[Crate, ...]
    paint: Tensor  # [4, 3]: two of the floor, one for each wall


def room(number: int, texture: Texture) -> Room:
    """Room ``number``: two balls and two crates on its floor, apart from each other."""
    draws = Draws("room", number)
    places = [(-0.5, -0.45), (0.42, -0.5), (-0.45, 0.45), (0.45, 0.4)]

    def tint(value: tuple[float, float]) -> Tensor:
        return torch.tensor(draws.tint((0.0, 1.0), (0.45, 0.85), value))

    balls, crates = [], []
    for index, (x, z) in enumerate(places):
        x, z = x + draws.between(-0.12, 0.12), z + draws.between(-0.12, 0.12)
        if index % 2 == number % 2:
            radius = draws.between(0.24, 0.36)
            centre = torch.tensor([x, radius - 1.0 + draws.between(0.0, 0.3), z])
            balls.append(Ball(centre, radius, tint((0.6, 0.95))))
        else:
            half = torch.tensor([draws.between(0.16, 0.3) for _ in range(3)])
            centre = torch.tensor([x, float(half[1]) - 1.0, z])
            crates.append(Crate(centre, half, tint((0.6, 0.95))))
    paint = torch.stack([tint((0.3, 0.5)), tint((0.8, 0.95)), tint((0.6, 0.9)), tint((0.6, 0.9))])
    return Room(f"room-{number:04d}", texture, tuple(balls), tuple(crates), paint)


def photographs(number: int, texture: Texture, size: int, train: int, test: int) -> Views:
    """``train`` and then ``test`` pictures of a room from random places before it.

    Args:
        number: of the room.
        texture: ``plain`` or ``fine``.
        size: pixels per side.
        train: pictures for training.
        test: pictures to judge by, the last ones.
    """
    stream = generator("room cameras", number)
    draw = torch.rand(3, train + test, generator=stream)
    azimuth, elevation = (
        torch.deg2rad(low + (high - low) * draw[axis])
        for axis, (low, high) in enumerate(((2.0, 88.0), (12.0, 50.0)))
    )
    poses = _before_it(azimuth, elevation, CLOSEST + (FARTHEST - CLOSEST) * draw[2])
    return pictures(room(number, texture), poses, size)


def around(count: int) -> Tensor:
    """Poses ``[count, 4, 4]`` of a camera that swings before a room, there and back."""
    turn = torch.arange(count) * (2 * math.pi / max(count, 1))
    azimuth = torch.deg2rad(45 - 38 * torch.cos(turn))
    elevation = torch.deg2rad(28 + 10 * torch.sin(2 * turn))
    return _before_it(azimuth, elevation, torch.full_like(turn, 2.45))


def _before_it(azimuth: Tensor, elevation: Tensor, distance: Tensor) -> Tensor:
    level = elevation.cos()
    eye = torch.stack([level * azimuth.sin(), elevation.sin(), level * azimuth.cos()], -1)
    return look_at(distance[:, None] * eye, torch.tensor([-0.15, -0.25, -0.15]))


def pictures(shown: Room, poses: Tensor, size: int) -> Views:
    """The room as cameras at ``poses [V, 4, 4]`` see it."""
    focal = size / (2 * math.tan(math.radians(FIELD_OF_VIEW / 2)))
    origins, directions = rays(poses, focal * GRAIN, size * GRAIN, size * GRAIN)
    colour = _trace(shown, origins.reshape(-1, 3), directions.reshape(-1, 3))
    parts = (len(poses), size, GRAIN, size, GRAIN, 3)
    images = colour.reshape(parts).mean(dim=(2, 4))
    return Views(shown.name, images, poses, focal, NEAR, FAR, 1.0, None)


def _trace(shown: Room, origins: Tensor, directions: Tensor) -> Tensor:
    """Colours ``[N, 3]`` of the first surfaces along rays; white where there is none."""
    nearest = torch.full_like(origins[:, 0], INFINITY)
    normal = torch.zeros_like(origins)
    paint = torch.ones_like(origins)

    def see(distance: Tensor, hit: Tensor, facing: Tensor, colour: Tensor) -> None:
        nonlocal nearest, normal, paint
        closer = hit & (distance > 1e-4) & (distance < nearest)
        nearest = torch.where(closer, distance, nearest)
        normal = torch.where(closer[:, None], facing, normal)
        paint = torch.where(closer[:, None], colour, paint)

    for axis in range(3):
        along = directions[:, axis]
        distance = (-1.0 - origins[:, axis]) / torch.where(along.abs() < 1e-9, 1e-9, along)
        point = origins + distance[:, None] * directions
        others = [other for other in range(3) if other != axis]
        inside = (point[:, others].abs() <= 1).all(1)
        facing = torch.zeros_like(origins)
        facing[:, axis] = 1.0
        see(distance, inside & (along < 0), facing, _papered(shown, axis, point))
    for ball in shown.balls:
        offset = origins - ball.centre
        half = (offset * directions).sum(1)
        square = half.square() - offset.square().sum(1) + ball.radius**2
        distance = -half - square.clamp(min=0).sqrt()
        point = origins + distance[:, None] * directions
        facing = (point - ball.centre) / ball.radius
        see(distance, square > 0, facing, ball.colour.expand_as(point))
    for crate in shown.crates:
        inverse = 1 / torch.where(directions.abs() < 1e-9, 1e-9, directions)
        low = (crate.centre - crate.half - origins) * inverse
        high = (crate.centre + crate.half - origins) * inverse
        enter, axis_of = torch.minimum(low, high).max(1)
        leave = torch.maximum(low, high).amin(1)
        facing = torch.zeros_like(origins)
        facing.scatter_(1, axis_of[:, None], -directions.gather(1, axis_of[:, None]).sign())
        see(enter, enter < leave, facing, crate.colour.expand_as(origins))
    light = torch.nn.functional.normalize(torch.tensor(LIGHT), dim=0)
    share = AMBIENT + (1 - AMBIENT) * (normal @ light).clamp(min=0)
    lit = (paint * share[:, None]).clamp(0, 1)
    return torch.where((nearest < INFINITY)[:, None], lit, torch.ones_like(lit))


def _papered(shown: Room, axis: int, point: Tensor) -> Tensor:
    """Paint of a wall or the floor at ``point [N, 3]``: squares on the floor, and in a fine room
    stripes and lozenges on the walls."""
    fine = shown.texture == "fine"
    if axis == 1:
        cells = 8 if fine else 4
        across = ((point[:, [0, 2]] + 1) * cells / 2).floor()
        odd = across.sum(1) % 2
        return torch.where(odd[:, None] > 0, shown.paint[0], shown.paint[1])
    plain = shown.paint[2 if axis == 0 else 3].expand_as(point)
    if not fine:
        return plain
    across = point[:, 2 if axis == 0 else 0]
    if axis == 0:
        pattern = torch.sin(10 * math.pi * across)
    else:
        pattern = torch.sin(5 * math.pi * across) * torch.sin(5 * math.pi * point[:, 1])
    return plain * (0.78 + 0.22 * (pattern > 0).to(plain)[:, None])
