"""Pinhole cameras: their places, the ray of every pixel, and the pictures an object's cameras took.

Conventions (OpenGL, as in the Blender and SRN data sets): the world has y up; a pose is a 4 x 4
camera-to-world matrix whose columns are the camera's right, its up, the way opposite to its gaze,
and its position. Image rows run downwards. Angles are degrees; an azimuth of 0 stands on the +z
axis and grows towards +x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.errors import InputError

UP = (0.0, 1.0, 0.0)
ORIGIN = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Views:
    """V pictures of one object and the cameras that took them. ``near`` and ``far`` bound it along
    every ray."""

    name: str
    images: Tensor  # [V, H, W, 3] in [0, 1], composited on the background
    poses: Tensor  # [V, 4, 4] camera to world
    focal: float  # in pixels
    near: float
    far: float
    background: float  # 1.0 is white, 0.0 is black
    masks: Tensor | None  # [V, H, W] bool: the object covers at least part of the pixel


def rays(poses: Tensor, focal: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The ray through each pixel's centre.

    Pixel (row i, column j) is seen along :math:`((j + 1/2 - W/2) / f, -(i + 1/2 - H/2) / f, -1)` in
    the camera's frame, so the middle of the picture is the optical axis. The published FedMeNF code
    leaves the halves out and shoots through each pixel's upper left corner; pictures and rays made
    by the same rule fit together either way, but the two rules differ by half a pixel and must not
    be mixed.

    Args:
        poses: camera to world, ``[V, 4, 4]``.
        focal: focal length in pixels.
        height: H, in pixels.
        width: W, in pixels.

    Returns:
        Origins and directions of unit length, ``[V, H, W, 3]`` each.
    """
    row = torch.arange(height, dtype=poses.dtype, device=poses.device)[:, None]
    column = torch.arange(width, dtype=poses.dtype, device=poses.device)
    local = _through(row, column, focal, height, width)
    directions = torch.einsum("vab,hwb->vhwa", poses[:, :3, :3], local)
    return poses[:, None, None, :3, 3].expand_as(directions), directions


def _through(row: Tensor, column: Tensor, focal: float, height: int, width: int) -> Tensor:
    """Unit directions ``[..., 3]`` through the centres of pixels, in the camera's frame."""
    x, y = torch.broadcast_tensors(
        (column + 0.5 - width / 2) / focal, -(row + 0.5 - height / 2) / focal
    )
    return torch.nn.functional.normalize(torch.stack([x, y, torch.full_like(x, -1)], -1), dim=-1)


@dataclass(frozen=True)
class PixelRays:
    """:class:`tasks.signals.Places` of all pixels of V views, one view after another, worked out
    when asked.

    A ray is ``[origin, unit direction]``; with ``reach [N, 2]`` two more numbers: bounds of the
    distances at which it may meet something.
    """

    poses: Tensor  # [V, 4, 4]
    focal: float
    height: int
    width: int
    reach: Tensor | None = None

    def __len__(self) -> int:
        return len(self.poses) * self.height * self.width

    def __getitem__(self, index: Tensor) -> Tensor:
        pose = self.poses[index // (self.height * self.width)]
        row, column = index // self.width % self.height, index % self.width
        local = _through(row, column, self.focal, self.height, self.width)
        ray = torch.cat([pose[..., :3, 3], (pose[..., :3, :3] * local[..., None, :]).sum(-1)], -1)
        return ray if self.reach is None else torch.cat([ray, self.reach[index]], -1)


def look_at(eye: Tensor, target: Tensor | None = None, up: Tensor | None = None) -> Tensor:
    """Poses ``[..., 4, 4]`` of cameras at ``eye [..., 3]`` that look at ``target`` (default the
    origin).

    ``up`` (default +y) is what is vertical in the picture; it must not be parallel to the gaze.
    """
    target = eye.new_tensor(ORIGIN) if target is None else target
    up = (eye.new_tensor(UP) if up is None else up).expand_as(eye)
    back = eye - target
    right = torch.linalg.cross(up, back, dim=-1)
    # |up x back| = |up| |back| sin(angle); below 1e-6 rad the picture's rotation would be rounding
    # noise.
    least = 1e-6 * torch.linalg.vector_norm(up, dim=-1) * torch.linalg.vector_norm(back, dim=-1)
    if bool((torch.linalg.vector_norm(right, dim=-1) <= least).any()):
        reason = "a camera stands on its target or looks straight along the vertical"
        raise InputError("eye", eye.tolist(), reason, "move the camera or choose another up")
    back, right = (torch.nn.functional.normalize(axis, dim=-1) for axis in (back, right))
    pose = torch.zeros(*eye.shape[:-1], 4, 4, dtype=eye.dtype, device=eye.device)
    pose[..., :3, :] = torch.stack(
        [right, torch.linalg.cross(back, right, dim=-1), back, eye], dim=-1
    )
    pose[..., 3, 3] = 1
    return pose


def on_sphere(
    count: int,
    radius: float,
    generator: torch.Generator,
    lowest: float = 0.0,
    highest: float = 60.0,
) -> Tensor:
    """Cameras on a sphere about the origin, looking at it, uniform by area between two elevations.

    Args:
        count: number of cameras.
        radius: of the sphere, above 0.
        generator: random stream of their places.
        lowest: degrees above the horizon, strictly between -90 and 90.
        highest: at least ``lowest``, in the same range.

    Returns:
        Poses ``[count, 4, 4]``.
    """
    if not -90 < lowest <= highest < 90:
        reason = "elevations are degrees with -90 < lowest <= highest < 90"
        raise InputError(
            "elevation", (lowest, highest), reason, "a camera overhead has no upright picture"
        )
    draw = torch.rand(2, count, generator=generator)
    low, high = (math.sin(math.radians(angle)) for angle in (lowest, highest))
    return _looking_inwards(2 * math.pi * draw[0], torch.asin(low + (high - low) * draw[1]), radius)


def orbit(count: int, radius: float, elevation: float = 20.0) -> Tensor:
    """``[count, 4, 4]``: a turntable, one full turn in ``count`` equal steps from azimuth 0 at one
    elevation."""
    if not -90 < elevation < 90:
        reason = "an elevation is degrees strictly between -90 and 90"
        raise InputError("elevation", elevation, reason, "a camera overhead has no upright picture")
    azimuth = torch.arange(count, dtype=torch.float32) * (2 * math.pi / max(count, 1))
    return _looking_inwards(azimuth, torch.full_like(azimuth, math.radians(elevation)), radius)


def _looking_inwards(azimuth: Tensor, elevation: Tensor, radius: float) -> Tensor:
    if not radius > 0:
        raise InputError(
            "radius",
            radius,
            "a camera's distance is a positive length",
            "use about 2 for unit objects",
        )
    level = torch.cos(elevation)
    return look_at(
        radius
        * torch.stack([level * azimuth.sin(), elevation.sin(), level * azimuth.cos()], dim=-1)
    )
