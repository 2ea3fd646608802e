"""A task small enough to do by hand: each client holds a target vector, the loss is a quadratic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.derivatives import Autograd
from tasks.params import Layout
from tasks.randomness import Key, generator
from tasks.types import Batch, ClientData, Episode, Evaluation, Trainable


@dataclass(frozen=True)
class Point(ClientData):
    """A client's target and its number of examples."""

    name: str
    truth: Tensor
    examples: int = 1


class QuadraticTask(Trainable):
    """L(w; B) = mean over samples of |A_s (w - t)|^2 / 2 with A_s = diag(inputs): curvature differs
    by sample.

    ``poison`` names clients whose data raise (``"raise"``) or are not numbers (``"nan"``).
    """

    renders = True

    def __init__(
        self, targets: Sequence[Sequence[float]], examples: Sequence[int] | None = None
    ) -> None:
        counts = examples or [1] * len(targets)
        self.points = [
            Point(str(i), torch.tensor(t, dtype=torch.float64), n)
            for i, (t, n) in enumerate(zip(targets, counts, strict=True))
        ]
        self.layout = Layout.of({"w": (len(targets[0]),)})
        self.derivatives = Autograd(self.loss)
        self.poison: dict[int, str] = {}

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        residual = batch.inputs * (params[:, None, :] - batch.targets)
        return residual.square().sum(-1).mean(-1) / 2

    def init(self, seed: int) -> Tensor:
        return torch.zeros(self.layout.size, dtype=torch.float64)

    def client_data(self, client: int) -> Point:
        if self.poison.get(client) == "raise":
            raise RuntimeError(f"the disk of client {client} is gone")
        if self.poison.get(client) == "nan":
            return Point("nan", torch.full_like(self.points[client].truth, float("nan")))
        return self.points[client]

    def episodes(
        self,
        cohort: Sequence[Point],
        keys: Sequence[Key],
        count: int,
        inner_steps: int,
        batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]:
        size = self.layout.size
        targets = torch.stack([point.truth for point in cohort])[:, None, :].expand(
            -1, batch_size, -1
        )
        draws = torch.stack(
            [
                torch.rand(
                    count,
                    inner_steps + 1,
                    batch_size,
                    size,
                    generator=generator(*key),
                    dtype=torch.float64,
                )
                for key in keys
            ],
            dim=2,
        )

        def episode(step: int) -> Episode:
            batches = [Batch(0.5 + inputs, targets) for inputs in draws[step]]
            return Episode(batches[:-1], batches[-1])

        return episode

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        return 1

    def render(self, params: Tensor, cohort: Sequence[Point]) -> Sequence[Tensor]:
        return list(params)

    def evaluate(self, model: Tensor, settings: object, tune: bool) -> Evaluation:
        return Evaluation({}, {})
