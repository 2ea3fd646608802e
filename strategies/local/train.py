r"""The local loop every gradient oracle shares: E outer steps from the received model.

.. math:: w_{i+1} = w_i - \lambda_o\,\mathrm{correct}\big(\mathrm{clip}_C(G_i)\big)

for the whole cohort at once: ``w`` is a matrix ``[C, P]``. The client's own gradient is clipped
first and the rule's correction added after, so that SCAFFOLD's control variates are averages of
clipped gradients and cancel exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strategies.learner import OBJECTIVE, Learner
from strategies.rule import Rule
from strategies.settings import LearnerSettings
from strategies.types import Broadcast, LocalResult, Memory
from tasks.params import clip
from tasks.randomness import Key
from tasks.types import Trainable


def descend(
    learner: Learner,
    task: Trainable,
    rule: Rule,
    received: Broadcast,
    cohort: Sequence[Any],
    memory: Memory,
    keys: Sequence[Key],
    settings: LearnerSettings,
) -> LocalResult:
    """Train every client of ``cohort`` from the received model; nothing is synchronised with the
    host inside.

    With ``learner.steps-by-examples`` a client takes E steps for each picture, clip or object it
    holds; those who are through rest while the others of the cohort go on.
    """
    device = received.model.device
    examples = [int(data.examples) for data in cohort]
    units = [int(data.units) for data in cohort]
    steps = [settings.outer_steps * (count if settings.steps_by_examples else 1) for count in units]
    episode = task.episodes(
        cohort, keys, max(steps), learner.inner_steps, settings.batch_size, device
    )
    params = received.model.expand(len(cohort), -1).clone()
    left = torch.tensor(steps, device=device)
    limit = 0.0 if learner.clips_itself else settings.outer_clip
    metrics: dict[str, Tensor] = {}
    lowest = None
    for index in range(max(steps)):
        gradient, objective, found = learner.step(task.derivatives, params, episode(index))
        gradient = rule.correct(clip(gradient, limit), params, received, memory)
        if index < min(steps):
            params = params - learner.outer_rate * gradient
            metrics, lowest = (
                dict(found),
                objective if lowest is None else torch.minimum(lowest, objective),
            )
            continue
        going = left > index
        params = torch.where(going[:, None], params - learner.outer_rate * gradient, params)
        metrics = {name: torch.where(going, value, metrics[name]) for name, value in found.items()}
        lowest = torch.where(going, torch.minimum(lowest, objective), lowest)  # type: ignore[arg-type]
    assert lowest is not None, "settings guarantee at least one outer step"
    told = {} if learner.silent else {**metrics, OBJECTIVE: lowest}
    return LocalResult(
        delta=params - received.model,
        steps=left.to(params),
        step_size=learner.outer_rate,
        examples=torch.tensor(examples, dtype=params.dtype, device=device),
        metrics=told,
    )
