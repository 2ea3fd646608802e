r"""Local training of a whole cohort as one batched computation.

.. math:: w_{e+1} = w_e - \lambda_o\, \mathrm{correct}(\mathrm{clip}_C(G_e)), \qquad e = 0, \dots, E-1

for all C clients at once: ``w`` is a matrix ``[C, P]``. The client's own gradient is clipped first and the rule's
correction added after, so that SCAFFOLD's control variates are averages of clipped gradients and cancel exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from strategies.settings import LearnerSettings
from strategies.types import Broadcast, Learner, LocalResult, Memory, Rule
from tasks.params import clip
from tasks.randomness import Key
from tasks.types import Task


def descend(
    learner: Learner,
    task: Task,
    rule: Rule,
    received: Broadcast,
    cohort: Sequence[Any],
    memory: Memory,
    keys: Sequence[Key],
    settings: LearnerSettings,
) -> LocalResult:
    """Train every client of ``cohort`` from the received model; nothing is synchronised with the host inside."""
    device = received.model.device
    episode = task.episodes(cohort, keys, settings.outer_steps, learner.inner_steps, settings.batch_size, device)
    params = received.model.expand(len(cohort), -1).clone()
    metrics: dict[str, torch.Tensor] = {}
    lowest = None
    for index in range(settings.outer_steps):
        gradient, objective, metrics = learner.step(task.derivatives, params, episode(index))  # type: ignore[assignment]
        gradient = rule.correct(clip(gradient, settings.outer_clip), params, received, memory)
        params = params - learner.outer_rate * gradient
        lowest = objective if lowest is None else torch.minimum(lowest, objective)
    assert lowest is not None, "settings guarantee at least one outer step"
    return LocalResult(
        delta=params - received.model,
        steps=settings.outer_steps,
        step_size=learner.outer_rate,
        examples=torch.tensor([float(data.examples) for data in cohort], device=device),
        metrics={**metrics, "objective_min": lowest},
    )
