"""The contract of rules: every rule of ours keeps every clause, and wrong rules break the one that
is meant for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedapp.contract.rule import CLAUSES, NOT_APPLIED, check_rule, class_of
from strategies.rules import RULES
from strategies.rules.fedavg import FedAvg
from strategies.rules.fedexp import FedExP
from strategies.types import Aggregate, Broadcast, Contribution, LocalResult, Memory, State


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_every_clause(name: str, clause: str) -> None:
    if CLAUSES[clause].applies(class_of(name)):
        CLAUSES[clause].check(name)


class TrimmedMean(FedAvg):
    """Wrong: a mean over the chunk's rows without the largest and smallest, which depends on how
    clients are packed."""

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        delta = result.delta
        if len(delta) > 2:
            trimmed = delta.sort(dim=0).values[1:-1].mean(0)
            delta = trimmed.expand_as(delta)
        return Contribution(delta, result.examples), {}


class OneByOne(FedAvg):
    """Wrong: raises for every cohort of more than one."""

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        if len(result.delta) > 1:
            raise RuntimeError("one at a time")
        return super().contribute(result, received, memory)


class MixedTypes(FedAvg):
    """Wrong: weights in another dtype than the update's."""

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        return Contribution(result.delta, result.examples.float()), {}


class Misspelt(FedAvg):
    """Wrong: a trait that does not exist."""

    average_gradients = True


class MisspeltMemory(FedAvg):
    """Wrong: a memory that nobody keeps."""

    memroy = ("control",)


class Late(FedAvg):
    """Wrong: depends on its chunk, but only with more than four clients and after some rounds."""

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        factor = 1 + 0.01 * len(result.delta) * (received.round > 3)
        return Contribution(factor * result.delta, result.examples), {}


class Runaway(FedAvg):
    """Wrong: no clip, and away from the clients."""

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        return model - aggregate.mean, state


class Restless(FedAvg):
    """Wrong: never twice the same."""

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        noise = 1e-9 * torch.rand(model.shape, dtype=model.dtype)
        return model + aggregate.mean + noise, state


class Scalarless(FedExP):
    """Wrong: says it sums a scalar that it does not contribute."""

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        return Contribution(result.delta, torch.ones_like(result.examples)), {}


@pytest.mark.falls_back
@pytest.mark.parametrize(
    ("rule", "clauses"),
    [
        (TrimmedMean, {"rows", "packing"}),
        (OneByOne, {"rows", "packing"}),
        (MixedTypes, {"contributes"}),
        (Misspelt, {"is-a-rule"}),
        (MisspeltMemory, {"is-a-rule"}),
        (Late, {"packing"}),
        (Runaway, {"moves", "server-clip"}),
        (Restless, {"bits", "optimum"}),
        (Scalarless, {"contributes"}),
    ],
)
def test_a_wrong_rule_breaks_its_clauses(rule: Any, clauses: set[str]) -> None:
    found = check_rule(rule)
    broken = {name for name, reason in found.items() if reason not in ("", NOT_APPLIED)}
    assert clauses <= broken, found


def test_a_clause_applies_by_trait() -> None:
    class Unbounded(FedAvg):
        bounded_step = False

    assert check_rule(Unbounded)["server-clip"] == NOT_APPLIED
    assert check_rule("fedavg")["server-clip"] == ""
