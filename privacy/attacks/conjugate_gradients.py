"""Conjugate gradients, stopped early as regularisation: for normal equations, and for least
squares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TINY = 1e-30


def solve(normal: Callable[[Tensor], Tensor], right: Tensor, steps: int) -> Tensor:
    """``normal(x) = right [C, N, channels]`` from zero, row by row.

    ``normal`` is symmetric and not negative. A row that is finished stays while others go on.
    """
    x = torch.zeros_like(right)
    left = direction = right
    energy = first = _dot(right, right)
    for _ in range(steps):
        image = normal(direction)
        curvature = _dot(direction, image)
        going = (curvature > 0) & (energy > 1e-12 * first)
        if not bool(going.any()):
            break
        rate = torch.where(going, energy / curvature.clamp(min=TINY), torch.zeros_like(energy))
        x = x + rate * direction
        left = left - rate * image
        renewed = torch.where(going, _dot(left, left), energy)
        direction = left + renewed / energy.clamp(min=TINY) * direction
        energy = renewed
    return x


def least_squares(
    transposed: Callable[[Tensor], Tensor],
    forward: Callable[[Tensor], Tensor],
    target: Tensor,
    like: Tensor,
    steps: int,
) -> Tensor:
    """CGLS on ``transposed(x) = target``, from zero: the normal equations without forming them.

    Args:
        transposed: the operator, from the shape of ``like`` to that of ``target``.
        forward: its transpose, back.
        target: the right-hand side.
        like: any tensor of the shape of x.
        steps: at most so many.
    """
    x = torch.zeros_like(like)
    left = target.clone()
    gradient = forward(left)
    direction = gradient.clone()
    energy = gradient.square().sum()
    for _ in range(steps):
        moved = transposed(direction)
        size = moved.square().sum()
        if float(size) <= 0 or float(energy) <= TINY:
            break
        rate = energy / size
        x = x + rate * direction
        left = left - rate * moved
        gradient = forward(left)
        renewed = gradient.square().sum()
        direction = gradient + renewed / energy * direction
        energy = renewed
    return x


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """``[C, N, channels]`` twice -> ``[C, 1, 1]``."""
    return (one * other).sum((1, 2), keepdim=True)
