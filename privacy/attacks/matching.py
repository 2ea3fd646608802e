r"""Simulate and match: which private values, put through the client's own training, give the upload
a server holds?

*Data Leakage in Federated Averaging*, D. I. Dimitrov, M. Balunovic, N. Konstantinov, M. Vechev,
TMLR 2022, https://arxiv.org/abs/2206.12395, after *Inverting Gradients*, J. Geiping, H.
Bauermeister, H. Droege, M. Moeller, NeurIPS 2020, https://arxiv.org/abs/2003.14053. The server
knows what it sent (theta), what it got (w) and how clients train (learner, rates, clips, E); the
values x at known coordinates are unknown. It looks for

.. math:: \min_x\; \frac{\lVert \mathrm{sim}(\theta, x) - w \rVert^2}{\lVert w - \theta \rVert^2} + \mu\, \mathrm{TV}(x)

where sim is the client's training written as a function of x. Those papers descend by Adam or
L-BFGS. For a field under squared error gradients are linear in x and sim is nearly so, hence the
search here is Gauss-Newton: sim is linearised in x by automatic differentiation through the
learner's own ``step``, the least-squares problem is solved by conjugate gradients, and TV enters as
a re-weighted quadratic (lagged diffusivity: C. R. Vogel, M. E. Oman, *Iterative Methods for Total
Variation Denoising*, SIAM J. Sci. Comput. 17(1), 1996). All targets of a call are solved side by
side.

Nothing here reads the truth. Drawn batches may be known: in this system they come from streams the
server can name (:func:`drawn_samples`). Otherwise every batch is taken to be all samples, which is
what batches are on average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strategies.learner import Learner
from strategies.local.meta import Meta
from tasks.params import clip, norms
from tasks.randomness import Key
from tasks.signals import ClientSignals, Samples, Signal
from tasks.types import Batch, Derivatives, Episode, Linearised, Trainable

Loss = Callable[[Tensor, Batch], Tensor]  # parameters [C, P] and a batch -> [C]
START = 0.5  # mid grey: the middle of the range of data
EDGE = 0.1  # contrast (data range 1) from which TV counts a difference as an edge rather than as a slope
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of gamma, tried where a cap decides
TINY = 1e-30


@dataclass(frozen=True)
class Search:
    """How hard to look. Nothing here depends on a picture; ``DEFAULT``, ``QUICK`` and ``KNOWN`` are
    measured choices.

    ``smooth``: the weight mu of total variation in [0, inf). ``rounds`` of linearising, each with
    at most ``steps`` of conjugate gradients. ``stages``: outer steps of the simulation (each as
    long as E / stages real ones; 0: E itself), of which ``points``, evenly spread, are
    differentiated (0: all).
    """

    smooth: float = 0.02
    rounds: int = 4
    steps: int = 8
    stages: int = 2
    points: int = 1


DEFAULT = Search()
QUICK = Search(rounds=3, steps=4, stages=1)
KNOWN = Search(
    smooth=1e-3, rounds=5, steps=20
)  # batches known: less to smooth away, more to resolve


class Matched(NamedTuple):
    """``values [C, N, channels]``, not clamped, and ``misfit [C]`` = |sim - w|^2 / |w - theta|^2
    (0: explains all)."""

    values: Tensor
    misfit: Tensor


@dataclass(frozen=True)
class Training:
    """What a server knows of how its clients train.

    ``loss`` of the field, the ``learner``, ``coordinates [C, N, inputs]`` of the samples, E
    ``steps``, the clip on outer gradients (0: none), and ``batches [E, K + 1, C, B]``, the indices
    of the samples drawn (the last of K + 1 is the query batch), if known. ``derivatives`` of the
    same loss are faster where nothing is differentiated by x.
    """

    loss: Loss
    learner: Learner
    coordinates: Tensor
    steps: int
    outer_clip: float = 0.0
    batches: Tensor | None = None
    derivatives: Derivatives | None = None

    def episode(self, values: Tensor, steps: Sequence[int]) -> Episode:
        """The data of the outer ``steps`` if the private values were ``values [C, N, channels]``:
        rows step by step."""
        count = len(steps)
        if self.batches is None:
            everything = Batch(self.coordinates.repeat(count, 1, 1), values.repeat(count, 1, 1))
            return Episode([everything] * self.learner.inner_steps, everything)
        rows = torch.arange(len(values), device=values.device).repeat(count)[:, None]
        drawn = self.batches[list(steps)].transpose(1, 2).flatten(0, 1)  # [steps * C, K + 1, B]
        batches = [
            Batch(self.coordinates[rows, index], values[rows, index]) for index in drawn.unbind(1)
        ]
        return Episode(batches[:-1], batches[-1])

    def move(
        self,
        derivatives: Derivatives,
        params: Tensor,
        values: Tensor,
        steps: Sequence[int],
        length: float = 1.0,
    ) -> Tensor:
        """What each of the outer ``steps``, made ``length`` times as long, adds to ``params [steps
        * C, P]``."""
        gradient = self.learner.step(derivatives, params, self.episode(values, steps)).gradient
        return clip(gradient, self.outer_clip) * (-self.learner.outer_rate * length)


class Kept:
    """:class:`tasks.types.Derivatives` that stay on the graph: what a learner makes of them can be
    differentiated."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def gradient(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, gradient, _ = self.linearise(params, batch)
        return loss, gradient

    def linearise(self, params: Tensor, batch: Batch) -> Linearised:
        point = params if params.requires_grad else params.detach().requires_grad_()
        loss = self.loss(point, batch)
        (gradient,) = torch.autograd.grad(loss.sum(), point, create_graph=True)

        def hvp(vector: Tensor) -> Tensor:
            return torch.autograd.grad(gradient, point, grad_outputs=vector, create_graph=True)[0]

        return Linearised(loss, gradient, hvp)


def simulate(
    field_loss: Loss,
    learner: Learner,
    model: Tensor,
    values: Tensor,
    coordinates: Tensor,
    steps: int,
    batches: Tensor | None = None,
    outer_clip: float = 0.0,
) -> Tensor:
    r"""The models ``w [C, P]`` clients with ``values [C, N, channels]`` would send, differentiable
    in these.

    .. math:: w_0 = \theta, \qquad w_{e+1} = w_e - \lambda_o\, \mathrm{clip}(G(w_e; x)), \qquad e = 0, \dots, E - 1

    with G the learner's own ``step``. ``model [P]`` or ``[C, P]``; ``batches``: see
    :class:`Training`.
    """
    training = Training(field_loss, learner, coordinates, steps, outer_clip, batches)
    derivatives, params = Kept(field_loss), _stacked(model, len(values))
    with torch.enable_grad():
        for step in range(steps):
            params = params + training.move(derivatives, params, values, [step])
    return params


def match_update(
    training: Training,
    model: Tensor,
    updates: Tensor,
    channels: int,
    grid: Sequence[int] = (),
    search: Search = DEFAULT,
    start: Tensor | None = None,
) -> Matched:
    r"""The values that explain ``updates [C, P]`` (w - theta) of ``model [P]`` or ``[C, P]``.

    .. math:: \min_x\; \frac{\lVert \mathrm{sim}(\theta, x) - w \rVert^2}{\lVert w - \theta \rVert^2}
        + \frac{\mu}{N} \sum_i \sqrt{\lVert (D x)_i \rVert^2 + \epsilon^2}

    ``grid`` is the shape in which the N samples lie, row by row; D are the differences between
    neighbours along its axes (all channels under one root). Without a grid there is no smoothing.
    ``start [C, N, channels]``: mid grey if not given. An update may be one client's or a mean: then
    what comes back is near the mean of the pictures.
    """
    solver = _Solver(training, model, updates.detach(), tuple(grid), search)
    x = (
        training.coordinates.new_full((*training.coordinates.shape[:2], channels), START)
        if start is None
        else start
    )
    here = solver.look(x)
    for _ in range(search.rounds):
        direction = solver.direction(x, here)
        length, better = torch.ones_like(here.cost), torch.zeros_like(here.cost, dtype=torch.bool)
        for _ in range(
            4
        ):  # full steps nearly always go down; a cap or a clip that switches may need shorter ones
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
    """
    found = [match_update(training, model, updates, channels, **options) for training in candidates]
    if len(found) > 1:
        options["start"] = _best(found).values
        found.append(match_update(candidates[0], model, updates, channels, **options))
    return _best(found)


def cap_guesses(training: Training) -> list[Training]:
    """How a capped objective may have acted: as simulated, or with the subtracted term in a share
    of the steps.

    Which side of the cap a loss is on depends on the picture and on the batch. From mid grey, or
    with all samples for a batch, sim may take the wrong side, and then subtracts a term that the
    client did not, or the reverse.
    """
    learner = training.learner
    if not (isinstance(learner, Meta) and learner.cap and learner.gamma):
        return [training]
    guesses = [learner.varied(cap=0.0, gamma=learner.gamma * share) for share in SHARES]
    return [training] + [replace(training, learner=guess) for guess in guesses]


def _best(found: Sequence[Matched]) -> Matched:
    misfit = torch.stack([one.misfit.nan_to_num(nan=torch.inf) for one in found])
    chosen, rows = misfit.argmin(0), torch.arange(misfit.shape[1], device=misfit.device)
    return Matched(torch.stack([one.values for one in found])[chosen, rows], misfit[chosen, rows])


def drawn_samples(
    task: Trainable,
    coordinates: Tensor,
    keys: Sequence[Key],
    steps: int,
    inner_steps: int,
    batch_size: int,
) -> Tensor:
    """Redraw the batches of clients: ``[E, K + 1, C, B]`` indices into ``coordinates [C, N,
    inputs]``.

    The streams are named by ``("batches", seed, round, client)`` and the server chose the seed. The
    task draws, from stand-ins whose value at each sample is the sample's number.
    """
    count = coordinates.shape[1]
    numbered = torch.arange(count, dtype=torch.float64)[:, None]
    cohort = []
    for rows in coordinates:
        samples = Samples(rows, numbered)
        cohort.append(ClientSignals("", (Signal("", samples, samples, tuple(numbered.shape)),)))
    episode = task.episodes(cohort, keys, steps, inner_steps, batch_size, coordinates.device)
    drawn = [
        [batch.targets[..., 0] for batch in (*one.support, one.query)]
        for one in map(episode, range(steps))
    ]
    return torch.stack([torch.stack(batches) for batches in drawn]).long()


class _Place(NamedTuple):
    """What a simulation from x found: ``gap [C, P]`` = (w - sim) / |w - theta|, its square, the
    whole objective, and the points ``[stages][C, P]`` it went through."""

    gap: Tensor
    misfit: Tensor
    cost: Tensor
    path: list[Tensor]


class _Solver:
    """One Gauss-Newton problem for C targets."""

    def __init__(
        self,
        training: Training,
        model: Tensor,
        updates: Tensor,
        grid: tuple[int, ...],
        search: Search,
    ) -> None:
        self.training, self.search, self.grid = training, search, grid
        self.model, self.target = _stacked(model, len(updates)), updates
        self.scale = norms(updates).clamp(min=TINY)
        # a batch belongs to its own step, so with known batches no step can stand for others
        known = training.batches is not None
        self.stages = (
            training.steps if known else min(search.stages or training.steps, training.steps)
        )
        points = self.stages if known else min(search.points or self.stages, self.stages)
        self.points = [int((index + 0.5) * self.stages / points) for index in range(points)]
        self.kept = Kept(training.loss)
        self.fast = training.derivatives or _Forgetful(training.loss)

    def look(self, x: Tensor) -> _Place:
        """Simulate from x, without a graph."""
        params, path, length = self.model, [], self.training.steps / self.stages
        for stage in range(self.stages):
            path.append(params)
            params = params + self.training.move(self.fast, params, x, [stage], length).detach()
        gap = (self.target - (params - self.model)) / self.scale
        misfit = gap.square().sum(1)
        rough = 0.0 if not self.grid else _roughness(x, self.grid).mean(1)
        return _Place(gap, misfit, misfit + self.search.smooth * rough, path)

    def direction(self, x: Tensor, here: _Place) -> Tensor:
        r"""Conjugate gradients on :math:`(A^\top A + \tfrac{\mu}{2N} D^\top W D)\, d = A^\top
        \mathrm{gap} - \ldots x`.

        A is the derivative of sim by x with the points of the path held still: how x moves later
        points is left out. That is of second order in the length of the update, and the next
        simulation sees what it missed.
        """
        value = x.detach().requires_grad_()
        length = self.training.steps / len(self.points)
        with torch.enable_grad():
            along = torch.cat([here.path[point] for point in self.points])
            moved = self.training.move(self.kept, along, value, self.points, length)
            moved = moved.reshape(len(self.points), *self.target.shape).sum(0)
            dummy = torch.zeros_like(
                here.gap, requires_grad=True
            )  # A^T u is linear in u: its derivative by u is A
            (pulled,) = torch.autograd.grad(moved / self.scale, value, dummy, create_graph=True)

        def transposed(u: Tensor) -> Tensor:
            return torch.autograd.grad(moved, value, u / self.scale, retain_graph=True)[0]

        def forward(v: Tensor) -> Tensor:
            return torch.autograd.grad(pulled, dummy, v, retain_graph=True)[0]

        weight = self.search.smooth / (2 * x.shape[1])
        weights = 1 / _roughness(x, self.grid) if self.grid else None

        def smoothing(v: Tensor) -> Tensor:
            return (
                torch.zeros_like(v) if weights is None else weight * _diffuse(v, weights, self.grid)
            )

        def normal(v: Tensor) -> Tensor:
            return transposed(forward(v)) + smoothing(v)

        return _conjugate_gradients(normal, transposed(here.gap) - smoothing(x), self.search.steps)


class _Forgetful(Kept):
    """The same numbers without a graph."""

    def linearise(self, params: Tensor, batch: Batch) -> Linearised:
        with torch.enable_grad():
            loss, gradient, hvp = super().linearise(
                params.detach(), Batch(batch.inputs, batch.targets.detach())
            )
        return Linearised(loss.detach(), gradient.detach(), lambda vector: hvp(vector).detach())


def _stacked(model: Tensor, count: int) -> Tensor:
    return model.detach().expand(count, -1)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """``[C, N, channels]`` twice -> ``[C, 1, 1]``."""
    return (one * other).sum((1, 2), keepdim=True)


def _conjugate_gradients(normal: Callable[[Tensor], Tensor], right: Tensor, steps: int) -> Tensor:
    """``normal(x) = right`` from zero, row by row; ``normal`` is symmetric, not negative. Finished
    rows stay."""
    x, left, direction = torch.zeros_like(right), right, right
    energy = first = _dot(right, right)
    for _ in range(steps):
        image = normal(direction)
        curvature = _dot(direction, image)
        going = (curvature > 0) & (energy > 1e-12 * first)
        if not bool(going.any()):
            break
        rate = torch.where(going, energy / curvature.clamp(min=TINY), torch.zeros_like(energy))
        x, left = x + rate * direction, left - rate * image
        renewed = torch.where(going, _dot(left, left), energy)
        direction, energy = left + renewed / energy.clamp(min=TINY) * direction, renewed
    return x


def _differences(x: Tensor, grid: tuple[int, ...]) -> list[Tensor]:
    """Forward differences of ``x [C, N, channels]`` along each axis, ``[C, *grid, channels]`` each;
    0 at the end."""
    field = x.reshape(len(x), *grid, x.shape[-1])
    return [
        torch.cat([field.diff(dim=axis), torch.zeros_like(field.narrow(axis, 0, 1))], dim=axis)
        for axis in range(1, len(grid) + 1)
    ]


def _roughness(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """``[C, N]``: the local term of total variation, all axes and channels under one root."""
    squares = sum((part.square().sum(-1) for part in _differences(x, grid)), torch.tensor(EDGE**2))
    return squares.sqrt().reshape(len(x), -1)


def _diffuse(x: Tensor, weights: Tensor, grid: tuple[int, ...]) -> Tensor:
    """D^T W D x for ``weights [C, N]``."""
    total = torch.zeros_like(x).reshape(len(x), *grid, x.shape[-1])
    for axis, part in enumerate(_differences(x, grid), start=1):
        flow = part * weights.reshape(len(x), *grid, 1)
        total = total - flow
        total.narrow(axis, 1, grid[axis - 1] - 1).add_(flow.narrow(axis, 0, grid[axis - 1] - 1))
    return total.reshape(x.shape)
