"""Cohorts of fields for ``fedapp bench fields``: batches at hand for ours, and everything to build
them from for the published loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sim.bench.limits import Work, chunks, products
from sim.bench.loops import CLIP, INNER_STEPS, RATE, SIDE, Holding
from sim.bench.trainer import split
from strategies.cohort import chunk_width
from strategies.local.meta import Meta
from tasks.data.cameras import on_sphere
from tasks.fields.radiance import Radiance, RadianceDerivatives, Space
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.types import Batch, Derivatives, Episode

VIEWS = 6
MAML = Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0)


class Problem(NamedTuple):
    """A field with its derivatives and a cohort in both forms.

    ``params [C, P]`` and ``episode`` are what the batched trainer takes, ``cohort`` (one entry per
    client) what the published loop builds its batches from.
    """

    name: str
    field: Siren | Radiance
    derivatives: Derivatives
    params: Tensor
    episode: Episode
    cohort: list[Holding]


def images(width: int, depth: int, clients: int, samples: int) -> Problem:
    """SIRENs of their own for each client, each with a random picture.

    Args:
        width, depth: units per hidden layer, and hidden layers.
        clients: C, the rows of ``params``.
        samples: pixels per batch and client.
    """
    field = Siren(2, 3, width, depth)
    draw = torch.Generator().manual_seed(0)
    params = torch.stack([field.init(draw) for _ in range(clients)])
    cohort = [
        Holding(
            torch.rand(SIDE, SIDE, 3, generator=draw),
            torch.randint(SIDE * SIDE, (INNER_STEPS + 1, samples), generator=draw),
        )
        for _ in range(clients)
    ]
    name = f"SIREN {depth}×{width}, B = {samples}, C = {clients}"
    return Problem(name, field, SirenDerivatives(field), params, _episode(cohort), cohort)


def objects(width: int, depth: int, clients: int, count: int, samples: int) -> Problem:
    """Radiance fields of their own for each client, each with random views from around.

    Args:
        width, depth: units per hidden layer, and hidden layers.
        clients: C, the rows of ``params``.
        count: rays per batch and client.
        samples: points per ray.
    """
    field = Radiance(Space(2.0, 4.4, samples), width, depth)
    draw = torch.Generator().manual_seed(0)
    params = torch.stack([field.init(draw) for _ in range(clients)])
    cohort = [
        Holding(
            torch.rand(VIEWS, SIDE, SIDE, 3, generator=draw),
            torch.randint(VIEWS * SIDE * SIDE, (INNER_STEPS + 1, count), generator=draw),
            on_sphere(VIEWS, 3.2, draw),
            1.4 * SIDE,
            torch.rand(INNER_STEPS + 1, count, generator=draw),
        )
        for _ in range(clients)
    ]
    name = f"radiance field {depth}×{width}, {count} rays × {samples}, C = {clients}"
    return Problem(name, field, RadianceDerivatives(field), params, _episode(cohort), cohort)


def _episode(cohort: list[Holding]) -> Episode:
    parts = [[holding.batch(k) for holding in cohort] for k in range(INNER_STEPS + 1)]
    batches = [
        Batch(torch.stack([b.inputs for b in row]), torch.stack([b.targets for b in row]))
        for row in parts
    ]
    return Episode(batches[:-1], batches[-1])


def batched(problem: Problem, learner: Meta) -> Callable[[], Tensor]:
    """Ours: the cohort in the chunks the trainer would run."""
    parts = split(problem.params, problem.episode, _width(problem))
    return lambda: torch.cat([learner.step(problem.derivatives, *part).gradient for part in parts])


def bare_products(problem: Problem) -> Work:
    """The matrix products of :func:`batched` with second-order MAML, alone."""
    samples = problem.cohort[0].index.shape[1]
    if isinstance(problem.field, Radiance):
        samples *= problem.field.space.samples
    cohort = chunks(len(problem.params), _width(problem), [samples] * (INNER_STEPS + 1))
    return products(problem.field.network, cohort)


def _width(problem: Problem) -> int:
    samples = problem.cohort[0].index.shape[1]
    return chunk_width(problem.field.working_set(samples, INNER_STEPS), problem.params.device)
