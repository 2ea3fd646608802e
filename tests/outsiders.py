"""What a plug-in author would write, from CONTRIBUTING alone: a task without pictures, a rule, a
learner."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from strategies.learner import WholeFit
from strategies.local.erm import Erm
from strategies.rule import Rule
from strategies.rules.fedavg import FedAvg
from strategies.rules.fednova import FedNova
from strategies.settings import LearnerSettings
from strategies.types import Aggregate, Broadcast, Contribution, LocalResult, Memory, State
from tasks.derivatives import Autograd
from tasks.params import Layout
from tasks.randomness import Key, generator
from tasks.settings import EvaluationSettings, TaskSettings
from tasks.types import Batch, ClientData, Episode, Evaluation, Trainable

EXAMPLES = 24


class SmallSteps(FedAvg):
    """A server that goes a hundredth of the way: what clients send is all there."""

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        return model + 0.01 * aggregate.mean, state


class Signs(FedAvg):
    """Clients send the signs of their update alone."""

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        return Contribution(result.delta.sign() * 1e-3, result.examples), {}


class Normalised(FedNova):
    """FedNova by another name."""


class ClaimsAScore(Erm):
    """Says of its clients what only the server's look at their uploads can."""

    metrics = ("loss", "psnr_p")


class ClaimsAClip(Erm):
    """Reports under the name of what every private sum has."""

    metrics = ("loss", "clip")


class Whole(WholeFit):
    """One step of descent on everything, as a learner that trains a cohort by itself."""

    def __init__(self, settings: LearnerSettings) -> None:
        self.rate = 0.01

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
        episode = task.episodes(cohort, keys, 1, 0, settings.batch_size, received.model.device)
        point = received.model.expand(len(cohort), -1)
        loss, gradient = task.derivatives.gradient(point, episode(0).query)
        one = torch.ones(len(cohort))
        return LocalResult(-self.rate * gradient, one, self.rate, one, metrics={"loss": loss})


@dataclass
class Table(ClientData):
    """What a client holds: no picture at all."""

    name: str
    inputs: Tensor
    truth: Tensor
    examples: int = EXAMPLES


class Regression(Trainable):
    """A line through points, nearly the same for everybody."""

    def __init__(self, settings: TaskSettings) -> None:
        self.layout, self.held = Layout.of({"slope": (3,), "offset": ()}), settings.data.held_out
        self.derivatives = Autograd(self.loss)

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        given = self.layout.unflatten(params)
        found = torch.einsum("cbi,ci->cb", batch.inputs, given["slope"]) + given["offset"][:, None]
        return (found - batch.targets[..., 0]).square().mean(1)

    def check(self, clients: int) -> None:
        """Made of numbers: always there."""

    def init(self, seed: int) -> Tensor:
        return 0.1 * torch.randn(self.layout.size, generator=generator("init", seed))

    def client_data(self, client: int) -> Table:
        draw = generator("line", client)
        inputs = torch.randn(EXAMPLES, 3, generator=draw)
        return Table(
            f"line {client}",
            inputs,
            (inputs.sum(1, keepdim=True) + 0.1 * torch.randn(1, generator=draw)),
        )

    def held_out(self) -> Sequence[Table]:
        return [self.client_data(1_000_000 + number) for number in range(self.held)]

    def episodes(
        self,
        cohort: Sequence[Table],
        keys: Sequence[Key],
        count: int,
        inner_steps: int,
        batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]:
        draws = [generator(*key) for key in keys]
        picks = [
            torch.randint(EXAMPLES, (count, inner_steps + 1, batch_size), generator=draw)
            for draw in draws
        ]

        def episode(step: int) -> Episode:
            batches = [
                Batch(
                    torch.stack(
                        [
                            data.inputs[pick[step, k]]
                            for data, pick in zip(cohort, picks, strict=True)
                        ]
                    ),
                    torch.stack(
                        [
                            data.truth[pick[step, k]]
                            for data, pick in zip(cohort, picks, strict=True)
                        ]
                    ),
                )
                for k in range(inner_steps + 1)
            ]
            return Episode(batches[:-1], batches[-1])

        return episode

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        return 64 * batch_size * (inner_steps + 1)

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        held = self.held_out()
        batch = Batch(
            torch.stack([data.inputs for data in held]), torch.stack([data.truth for data in held])
        )
        loss = self.loss(model.expand(len(held), -1), batch)
        return Evaluation({"mse": float(loss.mean()), "worst": {"mse": float(loss.max())}}, {})


class OptionedRule(FedAvg):
    """Goes as far as its own option says."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.share = float(json.loads(settings.options)["share"])

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        return model + self.share * aggregate.mean, state


class OptionedLearner(Erm):
    """Steps as far as its own option says."""

    def __init__(self, settings: LearnerSettings) -> None:
        super().__init__(settings)
        self.outer_rate = float(json.loads(settings.options)["rate"])
