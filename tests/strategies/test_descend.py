"""The local loop that gradient oracles share: where it clips, how many steps it takes, what it
reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from privacy.meta_nsgd import MetaNsgd
from strategies.learner import Learner
from strategies.local.train import descend
from strategies.rule import Rule
from strategies.rules.fedavg import FedAvg
from strategies.rules.scaffold import Scaffold
from strategies.settings import LearnerSettings, MetaNsgdSettings, RuleSettings
from strategies.types import Broadcast, LocalResult, Step
from tasks.types import ClientData, Episode

KEYS = [("batches", 0), ("batches", 1)]


@dataclass
class Holder(ClientData):
    """A client that holds so many examples; steps are counted by ``of`` them."""

    examples: int
    of: int = 0

    @property
    def units(self) -> int:
        return self.of or self.examples


class Scripted(Learner):
    """An oracle with one gradient for all, and the objective ``table[step]`` ``[C]``."""

    inner_steps = 0
    outer_rate = 1.0

    def __init__(self, gradient: float, table: list[list[float]]) -> None:
        self.gradient, self.table, self.steps = gradient, torch.tensor(table), 0

    def step(self, derivatives: object, params: Tensor, episode: Episode) -> Step:
        objective = self.table[self.steps]
        self.steps += 1
        return Step(torch.full_like(params, self.gradient), objective, {"loss": objective})


def played(
    learner: Any,
    rule: Rule,
    received: Broadcast,
    settings: LearnerSettings,
    memory: Any = None,
    cohort: Any = None,
) -> LocalResult:
    cohort = cohort or [Holder(1)]
    task: Any = SimpleNamespace(
        derivatives=None, episodes=lambda *_: lambda step: Episode([], None)
    )
    return descend(
        learner, task, rule, received, cohort, memory or {}, KEYS[: len(cohort)], settings
    )


def test_a_clients_own_gradient_is_clipped_before_the_rule_corrects_it() -> None:
    """By hand: a gradient of 10 is cut to 5 and the variate of 3 comes off: a step of 2 (cut after
    it: 5)."""
    rule = Scaffold(RuleSettings())
    model = torch.zeros(1)
    received = rule.broadcast(model, rule.init(model), 1)
    settings = LearnerSettings(outer_steps=1, outer_clip=5.0)
    found = played(
        Scripted(10.0, [[1.0]]), rule, received, settings, {"control": torch.tensor([[3.0]])}
    )
    assert found.delta.item() == pytest.approx(-(5.0 - 3.0))


def test_noise_of_a_learner_that_clips_itself_is_not_clipped_again(
    quadratic: Callable[..., Any],
) -> None:
    """P = 10^4 numbers of deviation C sigma = 1 have the norm 100 (deviation 0.7), far above the
    clip of 5."""
    size, rate = 10_000, 0.1
    settings = LearnerSettings(
        inner_steps=1, outer_steps=1, outer_clip=5.0, batch_size=1,
        meta_nsgd=MetaNsgdSettings(clip=0.5, noise_multiplier=2.0, outer_rate=rate),
    )  # fmt: skip
    task, rule = (
        quadratic([[0.0] * size]),
        FedAvg(RuleSettings()),
    )  # the start is the optimum: a gradient of zero
    received = rule.broadcast(task.init(0), {}, 1)
    found = descend(MetaNsgd(settings), task, rule, received, task.points, {}, KEYS[:1], settings)
    assert float(found.delta.norm()) == pytest.approx(rate * size**0.5, rel=0.1)


def test_steps_are_counted_by_units_and_weights_by_examples() -> None:
    """Objects of several views: E = 2 steps for each of 1 and 3 objects, weights of 8 and 24
    views."""
    cohort = [Holder(8, 1), Holder(24, 3)]
    settings = LearnerSettings(outer_steps=2, outer_clip=0.0, steps_by_examples=True)
    rule, learner = FedAvg(RuleSettings()), Scripted(1.0, [[1.0, 1.0]] * 48)
    found = played(learner, rule, rule.broadcast(torch.zeros(1), {}, 1), settings, cohort=cohort)
    assert found.delta[:, 0].tolist() == [-2.0, -6.0] and learner.steps == 6
    assert found.steps.tolist() == [2, 6] and found.examples.tolist() == [8, 24]


def test_the_lowest_objective_of_a_clients_own_steps_is_reported() -> None:
    """Neither the last one nor one of the steps that only others of the cohort still take."""
    table = [[3.0, 5.0], [1.0, 4.0], [2.0, 6.0], [0.0, 3.0], [0.0, 8.0], [0.0, 7.0]]
    settings = LearnerSettings(outer_steps=3, outer_clip=0.0, steps_by_examples=True)
    rule, cohort = (
        FedAvg(RuleSettings()),
        [Holder(1), Holder(2)],
    )
    received = rule.broadcast(torch.zeros(1), {}, 1)
    found = played(Scripted(1.0, table), rule, received, settings, cohort=cohort)
    assert found.metrics["objective_min"].tolist() == [1.0, 3.0] and found.metrics[
        "loss"
    ].tolist() == [2.0, 7.0]
    alone = played(Scripted(1.0, [row[:1] for row in table]), rule, received, settings)
    assert alone.metrics["objective_min"].tolist() == [1.0] and alone.metrics["loss"].tolist() == [
        2.0
    ]


@pytest.mark.parametrize("silent", [True, False])
def test_a_learner_that_noises_its_step_tells_nothing_else(silent: bool) -> None:
    """No loss and no lowest objective: nothing noised them. Others tell their last and lowest."""
    learner = Scripted(1.0, [[3.0], [1.0], [2.0]])
    learner.silent = silent  # type: ignore[attr-defined]
    received, rule = Broadcast(torch.zeros(1), {}, 1), FedAvg(RuleSettings())
    result = played(learner, rule, received, LearnerSettings(outer_steps=3))
    told = {name: values.tolist() for name, values in result.metrics.items()}
    assert told == ({} if silent else {"loss": [2.0], "objective_min": [1.0]})
    assert result.delta.tolist() == [[-3.0]] and result.steps.tolist() == [3.0]
    assert MetaNsgd.silent
