"""The server half without transport: what a round sends, and equal steps as plain averaging."""

from __future__ import annotations

import pytest
import torch
from kit import LEARNER, Rounds

from strategies.federation import Federation
from strategies.rules import RULES
from strategies.settings import FedNovaSettings, RuleSettings
from strategies.types import Aggregate
from tasks.registry import load


@pytest.mark.parametrize("name", list(RULES))
def test_what_is_sent_names_its_round_and_is_the_model_for_plain_averaging(name: str) -> None:
    """Learners that alternate between parts of a model go by the round's number."""
    rule = load("rule", name, RULES)(RuleSettings())
    federation = Federation.start(rule, 4, torch.arange(3.0))
    for number in (1, 7):
        sent = federation.broadcast(number)
        assert sent.round == number and sent.model.shape == (3,)
    if name == "fedavg":
        assert torch.equal(sent.model, federation.model) and not sent.extra


def test_fednova_of_equal_steps_sums_nothing_more_than_fedavg_and_moves_alike(
    quadratic: object,
) -> None:
    targets = [[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]
    task = quadratic(targets, [5, 1, 2])  # type: ignore[operator]
    equal = RuleSettings(server_clip=0.5, fednova=FedNovaSettings(steps=LEARNER.outer_steps))
    nova = Rounds(task, "fednova", clients=3, rules=equal)
    average = Rounds(task, "fedavg", clients=3, rules=RuleSettings(server_clip=0.5))
    assert torch.equal(nova.go(4), average.go(4))
    assert nova.rule.scalars == {} and nova.results[0].payload.scalars == {}  # type: ignore[union-attr]


def test_by_hand_unequal_steps_are_averaged_per_step_and_made_as_long_as_the_mean() -> None:
    """Updates (2, 0) of one step and 3 examples, (0, 9) of three steps and 1: per step (2, 0) and
    (0, 3), their mean (1.5, 0.75), times (3 * 1 + 1 * 3) / 4 = 1.5 effective steps."""
    rule = load("rule", "fednova", RULES)(RuleSettings(server_clip=0.0))
    aggregate = Aggregate(torch.tensor([1.5, 0.75]), 4.0, {"steps": 6.0}, 2)
    model, _ = rule.apply(torch.zeros(2), {}, aggregate, 2)
    assert model.tolist() == [2.25, 1.125]
