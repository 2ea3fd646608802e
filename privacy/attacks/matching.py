r"""Gradient inversion by simulation: the private values that, put through a client's own training,
give the upload a server holds.

*Data Leakage in Federated Averaging*, D. I. Dimitrov, M. Balunovic, N. Konstantinov, M. Vechev,
TMLR 2022, https://arxiv.org/abs/2206.12395, after *Inverting Gradients*, J. Geiping, H.
Bauermeister, H. Droege, M. Moeller, NeurIPS 2020, https://arxiv.org/abs/2003.14053. The server
knows what it sent (theta), what it got (w) and how clients train (learner, rates, clips, E); the
values x at known coordinates are unknown. It looks for

.. math:: \min_x\; \frac{\lVert \mathrm{sim}(\theta, x) - w \rVert^2}{\lVert w - \theta \rVert^2}
    + \mu\, \mathrm{TV}(x)

where sim is the client's training written as a function of x. Those papers descend by Adam or
L-BFGS. For a field under squared error gradients are linear in x and sim is nearly so, hence the
search here is Gauss-Newton: sim is linearised in x by automatic differentiation through the
learner's own ``step``, the least-squares problem is solved by conjugate gradients, and TV enters as
a re-weighted quadratic. All targets of a call are solved side by side. Nothing here reads the
truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from privacy.attacks.client_training import Detached, OnGraph, Training, stacked
from privacy.attacks.conjugate_gradients import TINY, solve
from privacy.attacks.total_variation import diffuse, roughness
from tasks.params import norms

START = 0.5  # mid grey: the middle of the range of data
SHORTENINGS = 4  # of a step that does not go down, each by a factor 4


@dataclass(frozen=True)
class Search:
    """Effort of a search. Nothing here depends on a picture; ``DEFAULT``, ``QUICK`` and ``KNOWN``
    are measured choices.

    Args:
        smooth: mu, the weight of total variation, 0 or more.
        rounds: of linearising.
        steps: of conjugate gradients in each round, at most.
        stages: outer steps of the simulation, each as long as E / stages real ones (0: E itself).
        points: of these, evenly spread, that are differentiated (0: all).
    """

    smooth: float = 0.02
    rounds: int = 4
    steps: int = 8
    stages: int = 2
    points: int = 1


DEFAULT = Search()
QUICK = Search(rounds=3, steps=4, stages=1)
KNOWN = Search(smooth=1e-3, rounds=5, steps=20)  # batches known: less to smooth, more to resolve


class Matched(NamedTuple):
    """``values [C, N, channels]``, not clamped, and ``misfit [C]`` = |sim - w|^2 / |w - theta|^2
    (0: explains all)."""

    values: Tensor
    misfit: Tensor


def match_update(
    training: Training,
    model: Tensor,
    updates: Tensor,
    channels: int,
    grid: Sequence[int] = (),
    search: Search = DEFAULT,
    start: Tensor | None = None,
) -> Matched:
    r"""The values that explain updates.

    .. math:: \min_x\; \frac{\lVert \mathrm{sim}(\theta, x) - w \rVert^2}
        {\lVert w - \theta \rVert^2}
        + \frac{\mu}{N} \sum_i \sqrt{\lVert (D x)_i \rVert^2 + \epsilon^2}

    An update may be one client's or a mean: then what comes back is near the mean of the pictures.
    ``R`` updates of the same client, of rounds of their own, are explained by one picture: the
    first term is then their mean.

    Args:
        training: how the clients train; its coordinates (and batches, if known) of C targets, or
            of C R, picture by picture.
        model: theta, ``[P]``, ``[C, P]`` or ``[C, R, P]``.
        updates: w - theta, ``[C, P]`` or ``[C, R, P]``.
        channels: of the values.
        grid: the shape in which the N samples lie, row by row; without one there is no smoothing.
        search: how hard to look.
        start: ``[C, N, channels]``; mid grey if not given.
    """
    solver = _Solver(training, model, updates.detach(), tuple(grid), search)
    x = start
    if x is None:
        shape = (len(updates), training.coordinates.shape[1], channels)
        x = training.coordinates.new_full(shape, START)
    here = solver.look(x)
    for _ in range(search.rounds):
        direction = solver.direction(x, here)
        length = torch.ones_like(here.cost)
        better = torch.zeros_like(here.cost, dtype=torch.bool)
        # Full steps nearly always go down; a cap or a clip that switches may need shorter ones
        for _ in range(SHORTENINGS):
            trial = x + length[:, None, None] * direction
            there = solver.look(trial)
            better = there.cost <= here.cost
            if bool(better.all()):
                break
            length = torch.where(better, length, length / 4)
        x = torch.where(better[:, None, None], trial, x)
        here = there if bool(better.all()) else solver.look(x)
        if not bool(better.any()):
            break
    return Matched(x, here.misfit)


def match_best(
    candidates: Sequence[Training], model: Tensor, updates: Tensor, channels: int, **options: Any
) -> Matched:
    """:func:`match_update` under several guesses of how clients train; each row keeps what explains
    it best.

    The winners are then the start of one more search under the first candidate, which is kept where
    it explains more.

    Args:
        candidates: the guesses, the likeliest first.
        model: as in :func:`match_update`.
        updates: as there.
        channels: of the values.
        **options: the others of :func:`match_update`.
    """
    found = [match_update(training, model, updates, channels, **options) for training in candidates]
    if len(found) > 1:
        options["start"] = _best(found).values
        found.append(match_update(candidates[0], model, updates, channels, **options))
    return _best(found)


def _best(found: Sequence[Matched]) -> Matched:
    misfit = torch.stack([one.misfit.nan_to_num(nan=torch.inf) for one in found])
    chosen = misfit.argmin(0)
    rows = torch.arange(misfit.shape[1], device=misfit.device)
    return Matched(torch.stack([one.values for one in found])[chosen, rows], misfit[chosen, rows])


class _Place(NamedTuple):
    """Outcome of a simulation from x: ``gap [C R, P]`` = (w - sim) / |w - theta| / sqrt(R), its
    square and the whole objective, both ``[C]``, and the points ``[stages][C R, P]`` it went
    through."""

    gap: Tensor
    misfit: Tensor
    cost: Tensor
    path: list[Tensor]


class _Solver:
    """One Gauss-Newton problem for C targets, each of R updates."""

    def __init__(
        self,
        training: Training,
        model: Tensor,
        updates: Tensor,
        grid: tuple[int, ...],
        search: Search,
    ) -> None:
        self.training = training
        self.search = search
        self.grid = grid
        self.rounds = updates.shape[1] if updates.dim() == 3 else 1
        self.target = updates.flatten(0, -2)
        self.model = stacked(model.flatten(0, -2) if model.dim() == 3 else model, len(self.target))
        if len(training.coordinates) < len(self.target):
            coordinates = training.coordinates.repeat_interleave(self.rounds, 0)
            self.training = replace(training, coordinates=coordinates)
        self.scale = norms(self.target).clamp(min=TINY) * self.rounds**0.5
        if training.batches is None:
            self.stages = min(search.stages or training.steps, training.steps)
            points = min(search.points or self.stages, self.stages)
        else:
            # A batch belongs to its own step, so with known batches no step can stand for others
            self.stages = points = training.steps
        self.points = [int((index + 0.5) * self.stages / points) for index in range(points)]
        self.on_graph = OnGraph(training.loss)
        self.fast = training.derivatives or Detached(training.loss)

    def each(self, x: Tensor) -> Tensor:
        """The picture of every update, ``[C, N, channels] -> [C R, N, channels]``."""
        return x if self.rounds == 1 else x.repeat_interleave(self.rounds, 0)

    def look(self, x: Tensor) -> _Place:
        """Simulate from x, without a graph."""
        params = self.model
        path = []
        length = self.training.steps / self.stages
        for stage in range(self.stages):
            path.append(params)
            moved = self.training.move(self.fast, params, self.each(x), [stage], length)
            params = params + moved.detach()
        gap = (self.target - (params - self.model)) / self.scale
        misfit = gap.square().sum(1).view(-1, self.rounds).sum(1)
        rough = 0.0 if not self.grid else roughness(x, self.grid).mean(1)
        return _Place(gap, misfit, misfit + self.search.smooth * rough, path)

    def direction(self, x: Tensor, here: _Place) -> Tensor:
        r"""Conjugate gradients on :math:`(A^\top A + \tfrac{\mu}{2N} D^\top W D)\, d = A^\top
        \mathrm{gap} - \tfrac{\mu}{2N} D^\top W D x`.

        A is the derivative of sim by x with the points of the path held still: how x moves later
        points is left out. That is of second order in the length of the update, and the next
        simulation sees what it missed.
        """
        value = x.detach().requires_grad_()
        length = self.training.steps / len(self.points)
        with torch.enable_grad():
            along = torch.cat([here.path[point] for point in self.points])
            moved = self.training.move(self.on_graph, along, self.each(value), self.points, length)
            moved = moved.reshape(len(self.points), *self.target.shape).sum(0)
            # A^T u is linear in u, so its derivative by u is A: two passes back make one forward
            dummy = torch.zeros_like(here.gap, requires_grad=True)
            (pulled,) = torch.autograd.grad(moved / self.scale, value, dummy, create_graph=True)

        def transposed(u: Tensor) -> Tensor:
            return torch.autograd.grad(moved, value, u / self.scale, retain_graph=True)[0]

        def forward(v: Tensor) -> Tensor:
            return torch.autograd.grad(pulled, dummy, v, retain_graph=True)[0]

        weight = self.search.smooth / (2 * x.shape[1])
        weights = 1 / roughness(x, self.grid) if self.grid else None

        def smoothing(v: Tensor) -> Tensor:
            if weights is None:
                return torch.zeros_like(v)
            return weight * diffuse(v, weights, self.grid)

        def normal(v: Tensor) -> Tensor:
            return transposed(forward(v)) + smoothing(v)

        return solve(normal, transposed(here.gap) - smoothing(x), self.search.steps)
