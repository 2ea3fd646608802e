"""Bare surfaces, lit as clay: shape without colour."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.head.mesh import Mesh
from tasks.head.views import Cameras
from tasks.render.raster import rasterise, vertex_normals

LIGHT = (0.4, 0.6, 0.7)
CLAY = (0.80, 0.77, 0.74)


def clay(mesh: Mesh, cameras: Cameras) -> Tensor:
    """Pictures ``[V, H, W, 3]`` of a mesh on white."""
    vertices = torch.from_numpy(mesh.vertices).float()
    faces = torch.from_numpy(mesh.faces)
    normals = vertex_normals(vertices, faces)
    light = torch.nn.functional.normalize(torch.tensor(LIGHT), dim=0)
    found = []
    for pose, intrinsics in zip(cameras.poses, cameras.intrinsics, strict=True):
        seen = rasterise(vertices, faces, pose, intrinsics, cameras.height, cameras.width)
        # the light turns with the camera: shape is to be seen from everywhere
        normal = seen.interpolate(faces, normals) @ pose[:3, :3]
        normal = torch.nn.functional.normalize(normal, dim=1)
        shade = 0.25 + 0.75 * (normal @ light).abs()
        picture = torch.ones(cameras.height, cameras.width, 3)
        picture[seen.covered] = torch.tensor(CLAY) * shade[:, None]
        found.append(picture)
    return torch.stack(found)
