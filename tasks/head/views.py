"""Pictures of one head as they reach the fit: neutral views in colour, sensitive ones obscured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras of one picture size.

    Attributes:
        poses: camera to world ``[V, 4, 4]`` (x right, y up, z backwards).
        intrinsics: ``[V, 3, 3]`` in pixels; pixel centres lie at halves.
        height, width: in pixels.
    """

    poses: Tensor
    intrinsics: Tensor
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.poses)

    def some(self, index: Tensor) -> Cameras:
        """The cameras of an index."""
        return Cameras(self.poses[index], self.intrinsics[index], self.height, self.width)

    def rays(self, view: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions ``[..., 3]`` through the centres of pixels."""
        matrix = self.intrinsics[view]
        across = (column + 0.5 - matrix[..., 0, 2]) / matrix[..., 0, 0]
        down = (row + 0.5 - matrix[..., 1, 2]) / matrix[..., 1, 1]
        local = torch.stack([across, -down, torch.full_like(across, -1)], -1)
        pose = self.poses[view]
        turned = (pose[..., :3, :3] * local[..., None, :]).sum(-1)
        return pose[..., :3, 3].expand_as(turned), torch.nn.functional.normalize(turned, dim=-1)


@dataclass(frozen=True)
class Coloured:
    """Pictures ``images [V, H, W, 3]`` in [0, 1] and their cameras."""

    images: Tensor
    cameras: Cameras


@dataclass(frozen=True)
class Obscured:
    """What an operator leaves of pictures: ``values [V, H - 2, W - 2]``, ``valid`` of the same
    shape (false: erased), and the cameras of the *whole* pictures. ``kernel`` of the modulus, which
    the renderer repeats."""

    values: Tensor
    valid: Tensor
    cameras: Cameras
    kernel: str = "sobel"


@dataclass(frozen=True)
class Evidence:
    """Everything a fit of one head sees.

    Attributes:
        neutral: views in colour; ``None``: there are none.
        obscured: sensitive views through the operator; ``None``: not used.
        background: grey level behind the head.
    """

    neutral: Coloured | None
    obscured: Obscured | None
    background: float
