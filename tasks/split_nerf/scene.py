"""A scene as its two halves see it: public geometry on both sides, pictures on the client's alone.

What is public, as in the paper: the cameras, the box that is rendered through, and which rays every
step takes, which follow from a seed. (So rays cannot be drawn by importance: where the picture is
busy is the picture's affair.)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.data.cameras import PixelRays, Views
from tasks.errors import InputError
from tasks.randomness import generator, seed_of

TOUR = 12  # cameras of the walk through a scene, numbered behind its own
LEAST = 0.05  # of the box's diagonal: nearer to a camera than this nothing is rendered
ROOMY = 1.05  # the box is so much larger than what the cameras show it to be


def scene_seed(seed: int, client: int) -> int:
    """The public seed of a scene's rays."""
    return seed_of("split scene", seed, client)


class Samples(NamedTuple):
    """Places along B rays: ``points [B S, 3]`` in [0, 1]^3, ``directions [B, 3]``, ``spacing [B]``
    that each sample stands for, ``distance [B, S]``."""

    points: Tensor
    directions: Tensor
    spacing: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Geometry:
    """The public part of a scene.

    Attributes:
        poses: camera to world ``[V, 4, 4]``; the last ``held_out`` cameras are judged on.
        focal: in pixels.
        height, width: of a picture, in pixels.
        lower, upper: corners of the box that is rendered through, in units of the scene.
        background: grey level behind it, in [0, 1].
        held_out: number of views for judging.
    """

    poses: Tensor
    focal: float
    height: int
    width: int
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    background: float
    held_out: int

    @property
    def train(self) -> int:
        """Number of views for training."""
        return len(self.poses) - self.held_out

    @cached_property
    def pixels(self) -> PixelRays:
        """The ray of every pixel, one view after another."""
        return PixelRays(self.poses, self.focal, self.height, self.width)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it: both halves must have the same."""
        facts = (self.focal, self.height, self.width, self.lower, self.upper, self.background)
        parts = hashlib.sha256(repr((facts, self.held_out)).encode())
        parts.update(self.poses.contiguous().numpy().tobytes())
        return parts.hexdigest()

    def batch(self, seed: int, step: int, rays: int) -> Tensor:
        """Pixel numbers ``[rays]`` of training step ``step``, uniform over all training views."""
        total = self.train * self.height * self.width
        stream = generator("split rays", seed, step)
        return torch.randint(total, (rays,), generator=stream)

    def of_view(self, view: int) -> Tensor:
        """Pixel numbers ``[H W]`` of a view."""
        count = self.height * self.width
        return torch.arange(view * count, (view + 1) * count)

    def march(self, pixels: Tensor, samples: int, jitter: tuple[int, int] | None = None) -> Samples:
        r"""Places along the rays of ``pixels [B]``, between where each enters and leaves the box.

        .. math:: t_j = n + \frac{j + u_j}{S} (f - n)

        Args:
            pixels: ``[B]``.
            samples: S.
            jitter: seed and step of u in [0, 1), drawn for every sample; ``None``: 1/2.
        """
        return self.march_rays(self.pixels[pixels], samples, jitter)

    def march_rays(
        self, rays: Tensor, samples: int, jitter: tuple[int, int] | None = None
    ) -> Samples:
        """The same for ``rays [B, 6]`` (origin, unit direction) of any camera."""
        origins, directions = rays[:, :3], rays[:, 3:6]
        lower, upper = origins.new_tensor(self.lower), origins.new_tensor(self.upper)
        inverse = 1 / torch.where(directions.abs() < 1e-9, 1e-9, directions)
        one, other = (lower - origins) * inverse, (upper - origins) * inverse
        least = LEAST * float((upper - lower).norm())
        near = torch.minimum(one, other).amax(1).clamp(min=least)
        far = torch.maximum(torch.maximum(one, other).amin(1), near)
        spacing = (far - near) / samples
        if jitter is None:
            offset = torch.full((len(rays), samples), 0.5)
        else:
            offset = torch.rand(len(rays), samples, generator=generator("split jitter", *jitter))
        distance = near[:, None] + (torch.arange(samples) + offset) * spacing[:, None]
        points = origins[:, None] + distance[..., None] * directions[:, None]
        inside = ((points - lower) / (upper - lower)).clamp(0, 1)
        return Samples(inside.reshape(-1, 3), directions, spacing, distance)


@dataclass(frozen=True)
class Scene:
    """A client's scene: the public geometry, and ``images [V, H, W, 3]`` in [0, 1], which never
    leave."""

    name: str
    geometry: Geometry
    images: Tensor

    @property
    def examples(self) -> int:
        """Pictures to train on."""
        return self.geometry.train

    @property
    def truth(self) -> Tensor:
        """The pictures it is judged on."""
        return self.images[self.geometry.train :]

    @cached_property
    def colours(self) -> Tensor:
        """Colours ``[N, 3]`` of all pixels, in the order of their numbers."""
        return self.images.reshape(-1, 3)


def scene_of(views: Views, held_out: int, box: tuple[Tensor, Tensor] | None = None) -> Scene:
    """A scene from pictures and cameras; ``box``: its corners, else worked out from the cameras."""
    if len(views.images) <= held_out:
        raise InputError(
            "split.test-views",
            held_out,
            f"{views.name} has {len(views.images)} views: none is left to train on",
            "lower it, or add photographs",
        )
    lower, upper = seen_by(views) if box is None else box
    corners = [tuple(float(value) for value in corner) for corner in (lower, upper)]
    geometry = Geometry(
        views.poses,
        views.focal,
        views.images.shape[1],
        views.images.shape[2],
        corners[0],  # type: ignore[arg-type]
        corners[1],  # type: ignore[arg-type]
        views.background,
        held_out,
    )
    return Scene(views.name, geometry, views.images)


def seen_by(views: Views) -> tuple[Tensor, Tensor]:
    """A box around what the cameras see: the ends of the corner rays and of the optical axis at
    ``far``, and at ``near``, with some room."""
    height, width = views.images.shape[1:3]
    rays = PixelRays(views.poses, views.focal, height, width)
    count = height * width
    ends = torch.tensor([0, width - 1, count - width, count - 1, (count + width) // 2])
    chosen = (torch.arange(len(views.poses))[:, None] * count + ends).reshape(-1)
    found = rays[chosen]
    points = torch.cat([found[:, :3] + reach * found[:, 3:] for reach in (views.near, views.far)])
    middle = (points.amin(0) + points.amax(0)) / 2
    half = (points.amax(0) - points.amin(0)) / 2 * ROOMY
    return middle - half, middle + half
