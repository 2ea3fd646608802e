"""The task of heads: whose pictures there are, which of them are neutral, and the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from tasks.data.cameras import look_at
from tasks.data.people.person import person
from tasks.data.people.photograph import Portrait, photographs
from tasks.errors import InputError
from tasks.head.mesh import Mesh, visible
from tasks.head.photographs import WHITE, Photographs
from tasks.head.views import Cameras, Coloured, Evidence
from tasks.randomness import generator
from tasks.render.raster import pinhole
from tasks.settings import TaskSettings
from tasks.types import Task

CACHED = 64
DISTANCE = 2.4  # of cameras from the middle of the head, in head heights
FOCAL = 1.8  # in picture sides
NEUTRAL = (125.0, 235.0)  # azimuths, degrees: 0 is in front
SENSITIVE = (-75.0, 75.0)
ELEVATION = (-8.0, 22.0)
TILT = 4.0  # degrees by which azimuths are off their even places
BACKGROUND = 1.0
SHOWN, VIEWS = 128, (0, 1, 4)  # of pictures in a report: pixels per side; of eight around a head


@dataclass(frozen=True)
class HeadData:
    """One person's pictures, and their shape where it is known.

    Attributes:
        name: of the client's data.
        neutral: rear views; ``None``: there are none.
        sensitive: frontal views in colour, which stay on the device.
        cover: shares of pixels that the person covers, of the sensitive views ``[V, H, W]``;
            ``None``: no masks.
        background: grey level behind the head.
        portrait: the person as a mesh, where it is known.
    """

    name: str
    neutral: Coloured | None
    sensitive: Coloured
    cover: Tensor | None
    background: float
    portrait: Portrait | None

    @cached_property
    def truth(self) -> Mesh | None:
        """The surface seen from outside; ``None`` where nobody knows it."""
        if self.portrait is None:
            return None
        return visible(self.portrait.vertices, self.portrait.faces)

    @property
    def in_colour(self) -> Evidence:
        """All views in colour, neutral ones first."""
        parts = [self.sensitive] if self.neutral is None else [self.neutral, self.sensitive]
        own = self.sensitive.cameras
        cameras = Cameras(
            torch.cat([part.cameras.poses for part in parts]),
            torch.cat([part.cameras.intrinsics for part in parts]),
            own.height,
            own.width,
        )
        seen = Coloured(torch.cat([part.images for part in parts]), cameras)
        return Evidence(seen, None, self.background)

    @property
    def examples(self) -> int:
        """Pictures."""
        return len(self.sensitive.images) + (len(self.neutral.images) if self.neutral else 0)


class HeadTask(Task):
    """A person per client, photographed from known cameras: procedural people, or own photographs
    (:mod:`tasks.head.photographs`)."""

    workflow = "upload"
    family = "geometry"

    def __init__(self, settings: TaskSettings) -> None:
        self.data = settings.data
        self.head = settings.head
        self.client_data = lru_cache(CACHED)(self._client_data)  # type: ignore[method-assign]
        if not self.data.size:
            raise InputError("data.size", 0, "people have no native size", "set it to 64 or so")
        self.photographs = Photographs(settings) if self.data.path else None

    def check(self, clients: int) -> None:
        """Own photographs are read once; people made of numbers need no look."""
        if self.photographs is not None:
            for client in self.data.hosts(clients):
                self.client_data(client)

    def _client_data(self, client: int) -> HeadData:
        if self.photographs is not None:
            name, taken = self.photographs.person(self.data.place(client))
            return HeadData(name, taken.neutral, taken.sensitive, taken.cover, WHITE, None)
        portrait = Portrait.of(person(client, self.head.style))
        size = self.data.size
        stream = generator("head cameras", client)
        neutral = None
        if self.head.neutral_views:
            cameras = around(self.head.neutral_views, NEUTRAL, size, stream)
            shots = photographs(portrait, cameras.poses, FOCAL * size, size, BACKGROUND)
            neutral = Coloured(shots.images, cameras)
        cameras = around(self.head.sensitive_views, SENSITIVE, size, stream)
        shots = photographs(portrait, cameras.poses, FOCAL * size, size, BACKGROUND)
        return HeadData(
            f"person {client}",
            neutral,
            Coloured(shots.images, cameras),
            shots.cover,
            BACKGROUND,
            portrait,
        )

    def picture(self, data: HeadData, values: Tensor) -> Tensor | None:
        return values[0] if values.dim() == 4 else values


def around(
    count: int, azimuths: tuple[float, float], size: int, stream: torch.Generator
) -> Cameras:
    """Cameras at even azimuths (degrees), off by up to ``TILT``, at elevations drawn alike."""
    low, high = azimuths
    even = low + (high - low) * (torch.arange(count) + 0.5) / count
    azimuth = even + TILT * (2 * torch.rand(count, generator=stream) - 1)
    lowest, highest = ELEVATION
    elevation = lowest + (highest - lowest) * torch.rand(count, generator=stream)
    return looking(azimuth, elevation, size)


def looking(azimuth: Tensor, elevation: Tensor, size: int) -> Cameras:
    """Cameras ``[V]`` at angles in degrees that look at the middle of the head."""
    across, up = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    level = torch.cos(up)
    eyes = DISTANCE * torch.stack([level * across.sin(), up.sin(), level * across.cos()], -1)
    intrinsics = pinhole(FOCAL * size, size, size).expand(len(eyes), 3, 3)
    return Cameras(look_at(eyes), intrinsics, size, size)


def turntable(count: int, size: int) -> Cameras:
    """Cameras of one turn around a head."""
    azimuth = torch.arange(count) * (360 / count)
    return looking(azimuth, torch.full((count,), math.degrees(0.1)), size)
