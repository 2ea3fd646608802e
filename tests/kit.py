"""Rounds without transport, for tests of rules and learners (and for plug-in authors)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from privacy.releases.plain import Plain
from strategies.cohort import Assignment, CohortResult, CohortTrainer
from strategies.federation import Federation, participants
from strategies.local import LEARNERS
from strategies.local.train import descend
from strategies.rules import RULES
from strategies.settings import LearnerSettings, RuleSettings
from strategies.types import LocalResult
from tasks.registry import load

NODES = 6  # of a private run, one client each
PRIVATE = {
    "methods": "maml", "clients.total": NODES, "evaluation.uploads": False, "privacy.epsilon-max": 1000.0,
    "learner.outer-steps": 1, "rounds": 2, "rules.server-clip": 0.0,
}  # fmt: skip
LEARNER = LearnerSettings(
    inner_steps=2, inner_rate=0.05, outer_steps=3, outer_rate=0.1, batch_size=4
)


class MemoryInRam:
    """A memory store that keeps every version."""

    def __init__(self) -> None:
        self.versions: dict[tuple[int, int], dict[str, Tensor]] = {}

    def load(self, client: int, version: int) -> Mapping[str, Tensor]:
        return self.versions[client, version]

    def save(self, client: int, version: int, memory: Mapping[str, Tensor]) -> None:
        self.versions[client, version] = {name: tensor.clone() for name, tensor in memory.items()}


class Reliable:
    """A learner that also says how reliable each client found itself: the same for all, or
    ``signals[client name]``."""

    inner_steps = 0

    def __init__(
        self, learner: Any, names: tuple[str, ...], signals: Mapping[str, float] | None = None
    ) -> None:
        self.learner, self.names, self.known = learner, names, signals or {}
        self.inner_steps = learner.inner_steps

    def fit(
        self,
        task: Any,
        rule: Any,
        received: Any,
        cohort: Any,
        memory: Any,
        keys: Any,
        settings: Any,
    ) -> LocalResult:
        result = descend(self.learner, task, rule, received, cohort, memory, keys, settings)
        value = torch.tensor(
            [self.known.get(data.name, 0.5) for data in cohort], dtype=result.delta.dtype
        )
        return replace(result, signals=dict.fromkeys(self.names, value))


class Rounds:
    """A federation and its clients in one object: ``go()`` plays rounds."""

    def __init__(
        self, task: Any, rule: str = "fedavg", learner: str = "erm", *, clients: int, per_round: int = 0,
        rules: RuleSettings | None = None, settings: LearnerSettings = LEARNER, chunk: int = 0, seed: int = 0,
        signals: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.rule = load("rule", rule, RULES)(rules or RuleSettings(server_clip=0))
        self.store, self.seed, self.per_round = MemoryInRam(), seed, per_round
        trained = load("learner", learner, LEARNERS)(settings)
        if getattr(self.rule, "signals", ()):
            trained = Reliable(trained, self.rule.signals, signals)
        release = Plain()
        if getattr(
            self.rule, "memory_sizes", None
        ):  # clients stay away only under noise of the nodes
            release.masked = release.noised = True  # type: ignore[misc]
        self.trainer = CohortTrainer(
            task, trained, self.rule, release, settings, self.store, chunk=chunk
        )
        self.federation = Federation.start(self.rule, clients, task.init(seed))
        self.results: list[CohortResult] = []

    def go(self, rounds: int = 1, nodes: int = 1) -> Tensor:
        """Play rounds with the participants split over ``nodes``; returns the model."""
        federation = self.federation
        for _ in range(rounds):
            number = federation.round + 1
            chosen = participants(self.seed, number, federation.population, self.per_round)
            total, accepted = None, []
            for node in range(nodes):
                share = chosen[node::nodes]
                versions = tuple(federation.accepted.get(client, 0) for client in share)
                order = Assignment(number, self.seed, tuple(share), versions)
                result = self.trainer.run(federation.broadcast(number), order)
                self.results.append(result)
                accepted += result.clients
                if result.payload is not None and total is None:
                    total = result.payload
                elif result.payload is not None and total is not None:
                    total.add(result.payload)
            assert total is not None
            federation.apply(Plain().decode(total, {}), accepted, number)
        return federation.model


def distance(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).abs().max())


def told_round(number: int, **values: Any) -> dict[str, Any]:
    """A round's event as a run writes it, for ``told``."""
    blank = {
        "event": "round", "round": number, "method": "maml", "seed": 0, "clients": {"ok": 4, "failed": 0},
        "failures": {}, "bytes_up": 0, "bytes_down": 0, "seconds": 1.0, "epsilon": None, "skipped": None,
    }  # fmt: skip
    return blank | values


def told_evaluation(number: int, **values: Any) -> dict[str, Any]:
    """The same of an evaluation."""
    return {
        "event": "evaluation",
        "round": number,
        "method": "maml",
        "seed": 0,
        "final": False,
        "seconds": 1.0,
    } | values


def draw_picture(file: Path, number: int) -> None:
    """A picture of noise, the same for the same number, as a file."""
    draw = torch.Generator().manual_seed(number)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.rand(16, 16, 3, generator=draw) * 255).byte().numpy()).save(file)
