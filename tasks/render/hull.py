r"""The visual hull: all places an object may be at, given its silhouettes; elsewhere a ray need not
be sampled.

*The Visual Hull Concept for Silhouette-Based Image Understanding*, A. Laurentini, IEEE Transactions
on Pattern Analysis and Machine Intelligence 16(2), 1994, https://doi.org/10.1109/34.273735.

A cell of a grid is empty if some camera sees it in front of plain background. A client carves its
own hull out of its own support views, so nothing about it is shared; a new client carves one out of
the few views it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CELLS = 64  # per side
LOOKUPS_AT_ONCE = 1 << 20  # bounds the memory


@dataclass(frozen=True)
class Hull:
    """``occupied [G, G, G]`` bool, indexed x, y, z: a grid over the cube of half side ``half``
    around the origin."""

    occupied: Tensor
    half: float

    def holds(self, points: Tensor) -> Tensor:
        """``points [..., 3] -> [...]`` bool; outside the cube there is nothing."""
        cells = len(self.occupied)
        place = ((points / self.half + 1) * (cells / 2)).floor().long()
        inside = ((place >= 0) & (place < cells)).all(-1)
        x, y, z = place.clamp(0, cells - 1).unbind(-1)
        return inside & self.occupied[x, y, z]

    def reach(self, rays: Tensor, near: float, far: float) -> Tensor:
        """Bounds of the distances at which each ray may meet something: ``rays [N, 6] -> [N, 2]``;
        ``far, near`` if it meets nothing.

        The ray is looked up every half cell. What lies between two hits counts as met, and so does
        what lies between the outer ones and the lookup beyond; a corner that a ray cuts by less
        than half a cell may be missed.
        """
        step = self.half / len(self.occupied)
        t = torch.arange(near, far + step, step, dtype=rays.dtype)
        met = torch.empty(len(rays), 2, dtype=rays.dtype)
        block = max(1, LOOKUPS_AT_ONCE // len(t))
        for start in range(0, len(rays), block):
            part = rays[start : start + block]
            inside = self.holds(part[:, None, :3] + t[:, None] * part[:, None, 3:6])
            first = inside.byte().argmax(1)
            last = len(t) - 1 - inside.byte().flip(1).argmax(1)
            between = torch.stack([t[first] - step, t[last] + step], 1).clamp(near, far)
            met[start : start + block] = torch.where(
                inside.any(1)[:, None], between, rays.new_tensor([far, near])
            )
        return met


def carve(masks: Tensor, poses: Tensor, focal: float, half: float, cells: int = CELLS) -> Hull:
    """The hull of an object seen by V cameras.

    A cell is empty if some camera sees all its eight corners on background; where a cell covers
    several pixels, masks are widened so that nothing between its corners is missed. A cell that no
    camera sees whole is kept.

    Args:
        masks: ``[V, H, W]`` bool; True: the object covers part of the pixel.
        poses: camera to world, ``[V, 4, 4]``.
        focal: focal length in pixels.
        half: half the side of the cube around the origin, in scene units.
        cells: per side of the cube.
    """
    height, width = masks.shape[1:]
    axis = torch.linspace(-half, half, cells + 1)
    corners = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    occupied = torch.ones(cells, cells, cells, dtype=torch.bool)
    for mask, pose in zip(masks, poses, strict=True):
        local = (corners - pose[:3, 3]) @ pose[:3, :3]
        depth = -local[:, 2]
        column = (local[:, 0] / depth * focal + width / 2).floor()
        row = (height / 2 - local[:, 1] / depth * focal).floor()
        seen = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        if not bool(seen.any()):
            continue
        # A cell's side, in pixels, at the place of the grid nearest to this camera.
        pixels = focal * (2 * half / cells) / float(depth[seen].min())
        wide = math.ceil(pixels) - 1
        shown = torch.nn.functional.max_pool2d(mask[None].float(), 2 * wide + 1, 1, wide)[0] > 0
        place = torch.stack([row, column], -1)[seen].long()
        background = torch.zeros(len(corners))
        background[seen] = (~shown[place[:, 0], place[:, 1]]).float()
        grid = background.view(1, cells + 1, cells + 1, cells + 1)
        share = torch.nn.functional.avg_pool3d(grid, 2, 1)[0]  # of a cell's eight corners
        occupied &= share < 1
    return Hull(occupied, half)
