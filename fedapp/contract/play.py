"""Rounds without transport: a federation and its clients in one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from privacy.releases.plain import Plain
from strategies.cohort import Assignment, CohortResult, CohortTrainer
from strategies.federation import Federation, participants
from strategies.learner import Learner, WholeFit
from strategies.local import LEARNERS
from strategies.local.train import descend
from strategies.rule import Rule
from strategies.rules import RULES
from strategies.settings import LearnerSettings, RuleSettings
from strategies.types import Broadcast, LocalResult, Memory
from tasks.randomness import Key
from tasks.registry import load
from tasks.types import Trainable

LEARNER = LearnerSettings(
    inner_steps=2, inner_rate=0.05, outer_steps=3, outer_rate=0.1, batch_size=4
)
UNCLIPPED = RuleSettings(server_clip=0)


class MemoryInRam:
    """A memory store that keeps every version."""

    def __init__(self) -> None:
        self.versions: dict[tuple[int, int], dict[str, Tensor]] = {}

    def load(self, client: int, version: int) -> Mapping[str, Tensor]:
        return self.versions[client, version]

    def save(self, client: int, version: int, memory: Mapping[str, Tensor]) -> None:
        self.versions[client, version] = {name: tensor.clone() for name, tensor in memory.items()}


class Reliable(WholeFit):
    """A learner that also says how reliable each client found itself: the same for all, or
    ``signals[client name]``."""

    def __init__(
        self, learner: Learner, names: tuple[str, ...], signals: Mapping[str, float] | None = None
    ) -> None:
        self.learner = learner
        self.names = names
        self.known = signals or {}
        self.inner_steps = learner.inner_steps

    def fit(
        self,
        task: Trainable,
        rule: Rule,
        received: Broadcast,
        cohort: Sequence[Any],
        memory: Memory,
        keys: Sequence[Key],
        settings: LearnerSettings,
    ) -> LocalResult:
        result = descend(self.learner, task, rule, received, cohort, memory, keys, settings)
        values = [self.known.get(data.name, 0.5) for data in cohort]
        signal = torch.tensor(values, dtype=result.delta.dtype)
        return replace(result, signals=dict.fromkeys(self.names, signal))


class OpenDistributed(Plain):
    """A sum in the clear that says its nodes mask it and add noise: clients may stay away under no
    other release."""

    masked = True
    placement = "distributed"


class Rounds:
    """Clients of a task, and a rule that moves their model: ``go()`` plays rounds.

    Args:
        task: whose clients train.
        rule: a name, a reference or a class.
        learner: a name or a reference.
        clients: how many there are.
        per_round: how many are drawn for a round; 0: all.
        rules: settings of the rule.
        settings: of the local loop.
        chunk: clients trained at once; 0: as memory allows.
        seed: of everything that is drawn.
        signals: reliability by client name, for rules that weigh by it.
        failing: clients may fail, and chunks fall back to training one by one.
    """

    def __init__(
        self,
        task: Any,
        rule: str | type[Rule] = "fedavg",
        learner: str = "erm",
        *,
        clients: int,
        per_round: int = 0,
        rules: RuleSettings = UNCLIPPED,
        settings: LearnerSettings = LEARNER,
        chunk: int = 0,
        seed: int = 0,
        signals: Mapping[str, float] | None = None,
        failing: bool = False,
    ) -> None:
        make: Any = load("rule", rule, RULES) if isinstance(rule, str) else rule
        self.rule: Any = make(rules)
        self.store = MemoryInRam()
        self.seed = seed
        self.per_round = per_round
        self.failing = failing
        trained: Any = load("learner", learner, LEARNERS)(settings)
        if self.rule.signals:
            trained = Reliable(trained, self.rule.signals, signals)
        release = OpenDistributed() if self.rule.attends else Plain()
        self.trainer = CohortTrainer(
            task, trained, self.rule, release, settings, self.store, chunk=chunk
        )
        self.federation = Federation.start(self.rule, clients, task.init(seed))
        self.results: list[CohortResult] = []

    def go(self, rounds: int = 1, nodes: int = 1) -> Tensor:
        """Play rounds with the participants split over ``nodes``; returns the model.

        Raises :class:`AssertionError` where a client or a chunk fails that should not.
        """
        federation = self.federation
        for _ in range(rounds):
            number = federation.round + 1
            chosen = participants(self.seed, number, federation.population, self.per_round)
            total = None
            accepted: list[int] = []
            for node in range(nodes):
                share = chosen[node::nodes]
                versions = tuple(federation.accepted.get(client, 0) for client in share)
                order = Assignment(number, self.seed, tuple(share), versions)
                result = self.trainer.run(federation.broadcast(number), order)
                self._expect_sound(result)
                self.results.append(result)
                accepted += result.clients
                if result.payload is not None and total is None:
                    total = result.payload
                elif result.payload is not None and total is not None:
                    total.add(result.payload)
            assert total is not None, f"no client of round {number} could be added up"
            federation.apply(Plain().decode(total, {}), accepted, number)
        return federation.model

    def _expect_sound(self, result: CohortResult) -> None:
        """Refuse what a fallback hides: clients that fail together, and not alone, mean code that
        depends on how they are packed."""
        if self.failing:
            return
        for reason in result.fallbacks:
            raise AssertionError(f"a chunk of clients fails where each alone does not: {reason}")
        absent = {} if self.rule.attends else result.failures
        for client, reason in absent.items():
            raise AssertionError(f"client {client} failed: {reason}")


def distance(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).abs().max())
