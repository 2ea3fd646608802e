r"""Meshes of fields, and how far they are from the truth.

Chamfer distance is the mean of the two mean distances from surface samples of one mesh to the
nearest sample of the other (not squared), in head heights; "x 1e-3" where it is printed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.fields.sdf import BOX

SAMPLES = 60_000
FACE = ((-0.34, 0.34), (-0.48, 0.30), (0.10, 1.0))  # x, y, z of the crop "face"
HEAD = ((-1.0, 1.0), (-0.50, 1.0), (-1.0, 1.0))  # above the cut of the neck


class Mesh(NamedTuple):
    """``vertices [N, 3]`` in head heights and ``faces [M, 3]``."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]


def surface(distances: Tensor, level: float = 0.0) -> Mesh:
    """The largest connected surface of a grid ``[S, S, S]`` (z, y, x), by marching cubes.

    Raises:
        ValueError: the field has no surface at this level.
    """
    from skimage.measure import marching_cubes

    grid = distances.detach().numpy()
    if not grid.min() < level < grid.max():
        raise ValueError("the field has no surface")
    cell = 2 * BOX / (grid.shape[0] - 1)
    vertices, faces, _, _ = marching_cubes(grid, level, spacing=(cell,) * 3)
    mesh = Mesh(vertices[:, ::-1].astype(float) - BOX, faces[:, ::-1].astype(np.int64))
    return largest(mesh)


def largest(mesh: Mesh) -> Mesh:
    """The connected part with the largest area."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    one, two, three = mesh.faces.T
    count = len(mesh.vertices)
    links = coo_matrix((np.ones(2 * len(one)), (np.r_[one, two], np.r_[two, three])), (count,) * 2)
    _, label = connected_components(links, directed=False)
    sizes = np.bincount(label[one], weights=areas(mesh))
    kept = label[one] == sizes.argmax()
    used, faces = np.unique(mesh.faces[kept], return_inverse=True)
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3))


def areas(mesh: Mesh) -> NDArray[np.float64]:
    """Of triangles ``[M]``."""
    one, two, three = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return np.linalg.norm(np.cross(two - one, three - one), axis=1) / 2


def sampled(mesh: Mesh, count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points ``[count, 3]`` uniform by area, and the unit normals of their triangles."""
    stream = np.random.default_rng(seed)
    area = areas(mesh)
    face = stream.choice(len(area), count, p=area / area.sum())
    one, two, three = (mesh.vertices[mesh.faces[face, corner]] for corner in range(3))
    u, v = stream.random((2, count, 1))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    normal = np.cross(two - one, three - one)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-30)
    return one + u * (two - one) + v * (three - one), normal


def inside(points: NDArray[np.float64], crop: tuple[tuple[float, float], ...]) -> NDArray[np.bool_]:
    """Points within a crop."""
    found = np.ones(len(points), bool)
    for axis, (low, high) in enumerate(crop):
        found &= (points[:, axis] >= low) & (points[:, axis] <= high)
    return found


def compare(mesh: Mesh, truth: Mesh, seed: int = 0, samples: int = SAMPLES) -> dict[str, float]:
    """Chamfer distances of face and head (each point counts where it lies in the crop itself), and
    how well normals agree on the face (mean absolute cosine)."""
    from scipy.spatial import cKDTree

    own, own_normal = sampled(mesh, samples, seed)
    true, true_normal = sampled(truth, samples, seed + 1)
    to_true, at_true = cKDTree(true).query(own)
    to_own, at_own = cKDTree(own).query(true)
    found = {}
    for name, crop in (("face", FACE), ("head", HEAD)):
        here, there = inside(own, crop), inside(true, crop)
        if not here.any() or not there.any():
            found[f"chamfer_{name}"] = float("inf")
            continue
        found[f"chamfer_{name}"] = float(to_true[here].mean() + to_own[there].mean()) / 2
    here, there = inside(own, FACE), inside(true, FACE)
    one = np.abs((own_normal * true_normal[at_true]).sum(1))[here]
    other = np.abs((true_normal * own_normal[at_own]).sum(1))[there]
    if here.any() and there.any():
        found["normals"] = float(one.mean() + other.mean()) / 2
    return found


def floor(truth: Mesh, samples: int = SAMPLES) -> dict[str, float]:
    """What two samplings of the truth itself are apart."""
    return compare(truth, truth, 2, samples)


def is_watertight(mesh: Mesh) -> bool:
    """Whether every edge belongs to two triangles."""
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    return bool((counts == 2).all())


def visible(vertices: Tensor, faces: Tensor, size: int = 256) -> Mesh:
    """The triangles of a mesh that a camera around it sees: mouth and sockets inside would count
    against a fit of the outside."""
    from tasks.data.cameras import look_at
    from tasks.render.raster import pinhole, rasterise

    seen = torch.zeros(len(faces), dtype=torch.bool)
    golden = torch.pi * (3 - 5**0.5)
    index = torch.arange(40) + 0.5
    up = 1 - 2 * index / 40
    ring = torch.sqrt(1 - up.square())
    eyes = 3 * torch.stack(
        [ring * torch.sin(golden * index), up, ring * torch.cos(golden * index)], 1
    )
    for eye in eyes:
        if eye[1] < -2.2:  # through the open neck
            continue
        found = rasterise(
            vertices, faces, look_at(eye), pinhole(1.9 * size, size, size), size, size
        )
        seen[found.triangle[found.covered]] = True
    return Mesh(vertices.double().numpy(), faces[seen].numpy())
