"""Distances of a mesh on a grid: what a perfect fit of that resolution would hold.

There is no closed form for a surface with an open neck. How far a point is from the surface is the
distance to the nearest of many samples of what cameras around the head see; it is *outside* if it
lies on the side of that sample from which the surface is seen, and, further away, where some camera
sees the point itself.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tasks.data.cameras import look_at
from tasks.data.people.person import person
from tasks.data.people.photograph import Portrait
from tasks.fields.sdf import BOX, corners
from tasks.head.mesh import Mesh, sampled
from tasks.render.raster import pinhole, rasterise

CAMERAS, PIXELS = 26, 160
AWAY, FOCAL = 3.0, 1.9  # of those cameras: from the middle; in picture sides
POINTS = 60_000
NEAR = 0.04  # up to here the side of the surface decides, beyond whether a camera sees the point


def distances(vertices: Tensor, faces: Tensor, side: int) -> Tensor:
    """Signed distances ``[side, side, side]`` (z, y, x; positive outside) of a mesh.

    Args:
        vertices: ``[N, 3]`` in head heights.
        faces: ``[M, 3]``.
        side: corners per axis.
    """
    from scipy.spatial import cKDTree

    points = corners(side).view(-1, 3)
    outside = (points[:, 1] < -BOX) | (points.norm(dim=1) > 2 * BOX)
    towards = torch.zeros(len(faces), 3)  # where a triangle is seen from
    centres = vertices[faces].mean(1)
    intrinsics = pinhole(FOCAL * PIXELS, PIXELS, PIXELS)
    for eye in _around():
        pose = look_at(eye)
        found = rasterise(vertices, faces, pose, intrinsics, PIXELS, PIXELS)
        shown = found.triangle[found.covered].unique()
        towards[shown] += torch.nn.functional.normalize(eye - centres[shown], dim=1)
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        away = -local[:, 2]
        column = (intrinsics[0, 0] * local[:, 0] / away + intrinsics[0, 2]).floor().long()
        row = (intrinsics[1, 1] * -local[:, 1] / away + intrinsics[1, 2]).floor().long()
        within = (row >= 0) & (row < PIXELS) & (column >= 0) & (column < PIXELS)
        depth = found.depth[row.clamp(0, PIXELS - 1), column.clamp(0, PIXELS - 1)]
        outside |= within & (away < depth)
    one, two, three = vertices[faces].unbind(1)
    normal = torch.linalg.cross(two - one, three - one)
    turned = (normal * towards).sum(1) < 0
    faces = torch.where(turned[:, None], faces.flip(1), faces)[towards.abs().sum(1) > 0]
    shape = Mesh(vertices.double().numpy(), faces.numpy())
    samples, normals = sampled(shape, POINTS, 3)
    apart, nearest = cKDTree(samples).query(points.numpy())
    before = ((points.numpy() - samples[nearest]) * normals[nearest]).sum(1)
    near = torch.from_numpy(apart < NEAR)
    outside = torch.where(near, torch.from_numpy(before > 0), outside)
    along = torch.from_numpy(np.abs(before))
    # close to the surface the distance to a sample is mostly sideways
    signed = torch.where(near, along, torch.from_numpy(apart)).float()
    return torch.where(outside, signed, -signed).view(side, side, side)


@lru_cache(256)
def of_person(number: int, style: str, side: int) -> Tensor:
    """Those of a procedural person with hair."""
    portrait = Portrait.of(person(number, style))
    return distances(portrait.vertices, portrait.faces, side)


def _around() -> Tensor:
    """Cameras ``[CAMERAS, 3]`` all around, none below the shoulders: the neck is open there."""
    index = torch.arange(CAMERAS) + 0.5
    up = 1 - 1.6 * index / CAMERAS
    ring = torch.sqrt((1 - up.square()).clamp(min=0))
    golden = torch.pi * (3 - 5**0.5)
    return AWAY * torch.stack(
        [ring * torch.sin(golden * index), up, ring * torch.cos(golden * index)], 1
    )
