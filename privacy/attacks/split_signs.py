r"""Sign synchronisation: why a table cannot be hidden by keys that stay the same. Ours.

Suppose the client multiplied every row of the table by a secret sign, once for the whole training,
and returned its gradients for rows, signed likewise (Adam commutes with signs, so nothing is lost).
Rows of neighbouring corners receive gradients of much the same samples, so

.. math:: \mathrm{sign} \sum_t r_u^{(t)} \cdot r_v^{(t)} = s_u s_v

for most neighbours u, v, and a spanning tree of the surest pairs gives all signs of a level up to
one of its own, which a fitted head absorbs. Masks must therefore be used once
(:mod:`privacy.sealed`).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from torch import Tensor

from tasks.split_nerf.grids import Grid


def neighbours(grid: Grid) -> tuple[Tensor, Tensor]:
    """Pairs of rows ``[E]`` whose corners are one cell apart along an axis. The grid is dense."""
    if grid.hashed:
        raise ValueError("rows of a hashed level have no neighbours")
    one, other, first = [], [], 0
    for side in grid.cells:
        rows = torch.arange(first, first + (side + 1) ** 3).view(side + 1, side + 1, side + 1)
        for axis in range(3):
            one.append(rows.narrow(axis, 0, side).flatten())
            other.append(rows.narrow(axis, 1, side).flatten())
        first += (side + 1) ** 3
    return torch.cat(one), torch.cat(other)


class SignSynchronisation:
    """Watches gradients of rows under signs that do not change, and finds them.

    Args:
        grid: dense.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.one, self.other = neighbours(grid)
        self.products = torch.zeros(len(self.one), dtype=torch.float64)
        self.seen = torch.zeros(grid.rows, dtype=torch.bool)

    def see(self, rows: Tensor) -> None:
        """One step's gradient of the table, ``[R, F]``, rows signed."""
        found = rows.double()
        found = found / found.square().mean().sqrt().clamp(min=1e-60)  # steps count alike
        self.products += (found[self.one] * found[self.other]).sum(1)
        self.seen |= rows.abs().sum(1) > 0

    def signs(self) -> Tensor:
        """Signs ``[R]``, each connected part of the visited corners up to one of its own."""
        there = self.products != 0
        one, other = self.one[there].numpy(), self.other[there].numpy()
        sure = self.products[there].abs().numpy()
        count = self.grid.rows
        # smallest cost = surest pair; costs are ranks, which are never 0
        cost = np.empty(len(sure))
        cost[np.argsort(-sure)] = np.arange(1, len(sure) + 1)
        tree = minimum_spanning_tree(coo_matrix((cost, (one, other)), (count, count)).tocsr())
        value = dict(
            zip(zip(one.tolist(), other.tolist(), strict=True), self.products[there].tolist(),
                strict=True)
        )  # fmt: skip
        found = np.ones(count)
        parts, label = connected_components(tree, directed=False)
        roots = np.full(parts, -1)
        roots[label[::-1]] = np.arange(count)[::-1]
        for root in roots[np.bincount(label, minlength=parts) > 1]:
            order, before = breadth_first_order(tree, int(root), directed=False)
            for row in order[1:].tolist():
                parent = int(before[row])
                pair = value.get((parent, row), value.get((row, parent), 0.0))
                found[row] = found[parent] * (1.0 if pair > 0 else -1.0)
        return torch.from_numpy(found).float()

    def agreement(self, secret: Tensor) -> list[float]:
        """Share of the visited rows of each level whose sign was found, the level's own sign being
        free (so 0.5 is the floor, not 0). ``secret [R]``."""
        right = self.signs() == secret
        shares = []
        for part, there in zip(
            right.split(self.grid.sizes), self.seen.split(self.grid.sizes), strict=True
        ):
            share = float(part[there].double().mean()) if bool(there.any()) else 0.5
            shares.append(max(share, 1 - share))
        return shares
