"""Triangle meshes as pinhole cameras see them: which triangle covers a sample, where on it, and how
far away. A z-buffer in torch; no gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

AT_ONCE = 2_000_000  # pairs of a triangle and a pixel: about 100 MB
NEAR = 1e-3  # triangles that reach closer to the camera's plane are left out


class Fragments(NamedTuple):
    """One view, pixel by pixel.

    triangle: ``[H, W]``, -1 where nothing is; weights: ``[H, W, 3]`` of its corners, adding up to 1
    (perspective corrected); depth: ``[H, W]`` along the optical axis, infinite where nothing is.
    """

    triangle: Tensor
    weights: Tensor
    depth: Tensor

    @property
    def covered(self) -> Tensor:
        """Mask ``[H, W]``."""
        return self.triangle >= 0

    def interpolate(self, faces: Tensor, values: Tensor) -> Tensor:
        """Values of vertices ``[N, C]`` at the covered pixels ``[K, C]``, row by row."""
        there = self.covered
        corners = values[faces[self.triangle[there]]]
        return (corners * self.weights[there][..., None].to(values.dtype)).sum(1)


def rasterise(
    vertices: Tensor, faces: Tensor, pose: Tensor, intrinsics: Tensor, height: int, width: int
) -> Fragments:
    """The nearest triangle behind every pixel's centre.

    Args:
        vertices: ``[N, 3]`` in the world.
        faces: ``[M, 3]``, corners in either order: both sides are seen.
        pose: camera to world ``[4, 4]`` (x right, y up, z backwards).
        intrinsics: ``[3, 3]`` in pixels, of an image whose rows run downwards; pixel centres lie at
            halves.
        height, width: of the picture, in pixels.
    """
    local = (vertices - pose[:3, 3]) @ pose[:3, :3]
    depth = -local[:, 2]
    safe = depth.clamp(min=NEAR)
    across = intrinsics[0, 0] * local[:, 0] / safe + intrinsics[0, 2]
    down = intrinsics[1, 1] * -local[:, 1] / safe + intrinsics[1, 2]
    corners = torch.stack([across, down], 1)[faces]  # [M, 3, 2]
    deep = depth[faces]  # [M, 3]
    low = (corners.amin(1) - 0.5).ceil().long().clamp(min=0)
    high = (corners.amax(1) - 0.5).floor().long()
    high = torch.minimum(high, torch.tensor([width - 1, height - 1]))
    size = (high - low + 1).clamp(min=0)
    size[(deep <= NEAR).any(1)] = 0
    pairs = size[:, 0] * size[:, 1]

    best = torch.full((height * width,), torch.inf, dtype=torch.float64)
    triangle = torch.full((height * width,), -1)
    weights = torch.zeros(height * width, 3, dtype=torch.float64)
    order = pairs.nonzero().squeeze(1)
    ends = pairs[order].cumsum(0)
    first = 0
    while first < len(order):
        budget = int(ends[first - 1]) if first else 0
        last = int(torch.searchsorted(ends, budget + AT_ONCE, right=True))
        last = max(last, first + 1)
        _draw(order[first:last], corners, deep, low, size, width, (best, triangle, weights))
        first = last
    return Fragments(
        triangle.view(height, width),
        weights.view(height, width, 3).float(),
        best.view(height, width).float(),
    )


def _draw(
    chosen: Tensor,
    corners: Tensor,
    deep: Tensor,
    low: Tensor,
    size: Tensor,
    width: int,
    onto: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Draw some triangles into the z-buffer ``onto`` (depth, triangle, weights, of all pixels)."""
    counts = (size[:, 0] * size[:, 1])[chosen]
    owner = torch.repeat_interleave(chosen, counts)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    inside = torch.arange(len(owner)) - starts
    column = low[owner, 0] + inside % size[owner, 0]
    row = low[owner, 1] + inside // size[owner, 0]
    points = torch.stack([column, row], 1).double() + 0.5
    one, two, three = corners[owner].double().unbind(1)
    area = _cross(two - one, three - one)
    flat = (
        torch.stack([_cross(two - points, three - points), _cross(three - points, one - points)], 1)
        / torch.where(area == 0, torch.inf, area)[:, None]
    )
    flat = torch.cat([flat, 1 - flat.sum(1, keepdim=True)], 1)
    kept = (flat >= 0).all(1) & (area != 0)
    owner, flat = owner[kept], flat[kept]
    pixel = (row * width + column)[kept]
    inverse = flat / deep[owner].double()
    depth = 1 / inverse.sum(1)

    best, triangle, weights = onto
    nearest = best.scatter_reduce(0, pixel, depth, "amin")
    wins = (depth == nearest[pixel]) & (depth < best[pixel])
    pixel, owner = pixel[wins], owner[wins]
    # Two may share an edge, and a depth: the one with the higher number, in any order of writing
    last = triangle.scatter_reduce(0, pixel, owner, "amax", include_self=False)
    alone = owner == last[pixel]
    pixel, owner = pixel[alone], owner[alone]
    best[pixel] = depth[wins][alone]
    triangle[pixel] = owner
    weights[pixel] = (inverse[wins] * depth[wins][:, None])[alone]


def _cross(one: Tensor, other: Tensor) -> Tensor:
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]


def pinhole(focal: float, height: int, width: int) -> Tensor:
    """Intrinsics ``[3, 3]`` of a camera whose axis meets the middle of the picture."""
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals ``[N, 3]``, means over a vertex's triangles by their areas."""
    one, two, three = vertices[faces].unbind(1)
    normal = torch.linalg.cross(two - one, three - one)
    found = torch.zeros_like(vertices)
    for corner in range(3):
        found.index_add_(0, faces[:, corner], normal)
    return torch.nn.functional.normalize(found, dim=1)
