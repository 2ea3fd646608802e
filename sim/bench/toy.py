"""Clients without work, for measuring what a round itself costs.

A stock client returns the model it got. The equivalent here is an update of zero; what remains is
real: each virtual client is one row of a matrix that is read once to be added up, checked, packed,
sent and folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strategies.learner import WholeFit
from strategies.rule import Rule
from strategies.settings import LearnerSettings
from strategies.types import Broadcast, LocalResult, Memory
from tasks.params import Layout
from tasks.randomness import Key
from tasks.settings import EvaluationSettings, TaskSettings, options_of
from tasks.types import ClientData, Evaluation, Trainable


class Nothing(ClientData):
    """The data of a client that has none."""

    name = "nothing"
    examples = 1
    truth = torch.zeros(0)


NOTHING = Nothing()


class ToyTask(Trainable):
    """A vector of ``task-options = {"parameters": P}`` zeros and nothing to fit it to."""

    def __init__(self, settings: TaskSettings) -> None:
        self.layout = Layout.of({"values": (int(options_of(settings.task_options)["parameters"]),)})

    def init(self, seed: int) -> Tensor:
        return torch.zeros(self.layout.size)

    def client_data(self, client: int) -> Nothing:
        return NOTHING

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        # rows are read once and kept nowhere: a fraction of the 4 bytes per number
        return self.layout.size // 8

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        return Evaluation({}, {})


class Idle(WholeFit):
    """Leaves the model as it is."""

    metrics = ()

    def __init__(self, settings: LearnerSettings) -> None:
        self._zeros = torch.zeros(0, 0)

    def fit(
        self,
        task: Any,
        rule: Rule,
        received: Broadcast,
        cohort: Sequence[Nothing],
        memory: Memory,
        keys: Sequence[Key],
        settings: LearnerSettings,
    ) -> LocalResult:
        """An update of zero for each client."""
        clients, size = len(cohort), received.model.numel()
        if self._zeros.shape[0] < clients or self._zeros.shape[1] != size:
            self._zeros = torch.zeros(clients, size)
        return LocalResult(self._zeros[:clients], torch.ones(clients), 1.0, torch.ones(clients))
