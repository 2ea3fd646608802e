r"""Total variation on a grid of samples, and its re-weighted quadratic (lagged diffusivity).

.. math:: \mathrm{TV}(x) = \sum_i \sqrt{\lVert (D x)_i \rVert^2 + \epsilon^2}, \qquad
    \nabla \mathrm{TV}(x) = D^\top W D x, \quad
    W = \mathrm{diag}\big(1 / \sqrt{\lVert (D x)_i \rVert^2 + \epsilon^2}\big)

(C. R. Vogel, M. E. Oman, *Iterative Methods for Total Variation Denoising*, SIAM J. Sci. Comput.
17(1), 1996). D are the differences between neighbours along the axes of the grid, all channels
under one root.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Contrast (data range 1) from which a difference counts as an edge rather than as a slope: epsilon
EDGE = 0.1


def roughness(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """``[C, N]``: the term of each sample of ``x [C, N, channels]``."""
    squares = sum((part.square().sum(-1) for part in _differences(x, grid)), torch.tensor(EDGE**2))
    return squares.sqrt().reshape(len(x), -1)


def diffuse(x: Tensor, weights: Tensor, grid: tuple[int, ...]) -> Tensor:
    """D^T W D x of ``x [C, N, channels]`` for ``weights [C, N]``."""
    total = torch.zeros_like(x).reshape(len(x), *grid, x.shape[-1])
    for axis, part in enumerate(_differences(x, grid), start=1):
        inner = grid[axis - 1] - 1
        flow = part * weights.reshape(len(x), *grid, 1)
        total = total - flow
        total.narrow(axis, 1, inner).add_(flow.narrow(axis, 0, inner))
    return total.reshape(x.shape)


def _differences(x: Tensor, grid: tuple[int, ...]) -> list[Tensor]:
    """Forward differences of ``x [C, N, channels]`` along each axis, ``[C, *grid, channels]`` each;
    0 at the end."""
    field = x.reshape(len(x), *grid, x.shape[-1])
    return [
        torch.cat([field.diff(dim=axis), torch.zeros_like(field.narrow(axis, 0, 1))], dim=axis)
        for axis in range(1, len(grid) + 1)
    ]
