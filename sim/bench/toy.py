"""Clients without work, for measuring what a round itself costs.

A stock client returns the model it got. The equivalent here is an update of zero; what remains is
real: each virtual client is one row of a matrix that is read once to be added up, checked, packed,
sent and folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strategies.settings import LearnerSettings
from strategies.types import Broadcast, LocalResult, Memory, Rule
from tasks.params import Layout
from tasks.randomness import Key
from tasks.settings import EvaluationSettings, TaskSettings, options_of
from tasks.types import Evaluation


class Nothing(NamedTuple):
    """The data of a client that has none."""

    name: str = "nothing"
    examples: int = 1


NOTHING = Nothing()


class ToyTask:
    """A vector of ``task-options = {"parameters": P}`` zeros and nothing to fit it to."""

    derivatives = None

    def __init__(self, settings: TaskSettings) -> None:
        self.layout = Layout.of({"values": (int(options_of(settings.task_options)["parameters"]),)})

    def check(self, clients: int) -> None:
        """Nothing to check."""

    def init(self, seed: int) -> Tensor:
        return torch.zeros(self.layout.size)

    def client_data(self, client: int) -> Nothing:
        return NOTHING

    def held_out(self) -> Sequence[Any]:
        return []

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        # rows are read once and kept nowhere: a fraction of their 4 bytes per number
        return self.layout.size // 8

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        return Evaluation({}, {})


class Idle:
    """A :class:`strategies.types.WholeFit` that leaves the model as it is."""

    inner_steps = 0

    def __init__(self, settings: LearnerSettings) -> None:
        self._zeros = torch.zeros(0, 0)

    def fit(
        self,
        task: ToyTask,
        rule: Rule,
        received: Broadcast,
        cohort: Sequence[Nothing],
        memory: Memory,
        keys: Sequence[Key],
        settings: LearnerSettings,
    ) -> LocalResult:
        """An update of zero for each client."""
        clients = len(cohort)
        size = received.model.numel()
        if self._zeros.shape[0] < clients or self._zeros.shape[1] != size:
            self._zeros = torch.zeros(clients, size)
        return LocalResult(self._zeros[:clients], torch.ones(clients), 1.0, torch.ones(clients))
