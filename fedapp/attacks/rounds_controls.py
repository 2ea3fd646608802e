"""Sums as a server would have them if a protection were not there: controls of the attacks on
transcripts, made of a run's own models and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from privacy.attacks.crafted import Ask
from privacy.attacks.many_rounds import Sum, Training, naive_clip
from privacy.node_secret import NodeSecret
from privacy.releases.lattice import LatticeRelease
from tasks.params import clip
from tasks.randomness import Key
from tasks.signals import sampled
from tasks.types import Batch

SPARSE = 64  # samples of a batch where draws are to be few
MOVES = 0.01  # of a model's numbers from round to round, where a control needs several


@dataclass
class Controls:
    """Sums of a run's clients, made again without what protects them.

    Args:
        pieces: of the run.
        heard: its own sums: their models are used.
        truth: the pictures, ``[K, M]``.
        shape: of a picture.
        method: of the run that is attacked.
    """

    pieces: Pieces
    heard: Sequence[Sum]
    truth: Tensor
    shape: tuple[int, ...]
    method: str = ""

    @property
    def noise(self) -> float:
        """Deviation of the noise in each number of a sum that nodes add."""
        release = self.pieces.release
        if not isinstance(release, LatticeRelease) or release.placement != "distributed":
            return 0.0
        return float(release.least_deviation(self.pieces.privacy.clip_norm, 1.0))

    @property
    def seed(self) -> int:
        return self.pieces.experiment.seed_list[0]

    def public_key(self, number: int, client: int) -> Key:
        """A stream's name as a server knows it."""
        return ("batches", self.seed, number, client)

    def secret_key(self, number: int, client: int) -> Key:
        """One that it does not know."""
        return (NodeSecret.simulated("attack on rounds", client), "batches", number, client)

    def training(self, method: str, **changes: Any) -> Training:
        """Of a method, with other settings of the local loop."""
        settings = self.pieces.experiment.learner.model_copy(update=changes)
        kind = self.pieces.learner_type(method)
        learner = kind.configured(settings, self.pieces.facts)
        return Training(self.pieces.task, learner, self.pieces.rule, settings, self.shape)

    # ------------------------------------------------------------------ one step of FedAvg
    def public_draws(self, rounds: int) -> tuple[Training, list[Sum]]:
        """Batches from streams that the server names, all members."""
        size = min(SPARSE, self.truth.shape[1])
        training = self.training("erm", outer_steps=1, batch_size=size)
        everybody = tuple(range(len(self.truth)))
        return training, [
            self._sum(training, number, everybody, self.public_key)
            for number in range(1, rounds + 1)
        ]

    def changing_members(self, rounds: int) -> tuple[Training, list[Sum]]:
        """Whole passes, one member missing in every round, in turns."""
        training = self.training("erm", outer_steps=1, batch_size=0)
        clients = len(self.truth)
        found = []
        for number in range(1, rounds + 1):
            present = tuple(k for k in range(clients) if k != number % (clients + 1))
            found.append(self._sum(training, number, present, self.secret_key))
        return training, found

    def sparse_draws(self, rounds: int) -> tuple[Training, list[Sum]]:
        """Few samples a round, secret."""
        size = max(1, self.truth.shape[1] // 16)
        training = self.training("erm", outer_steps=1, batch_size=size)
        everybody = tuple(range(len(self.truth)))
        return training, [
            self._sum(training, number, everybody, self.secret_key)
            for number in range(1, rounds + 1)
        ]

    def _sum(self, training: Training, number: int, present: tuple[int, ...], key: Any) -> Sum:
        model = self.heard[(number - 1) % len(self.heard)].model.double()
        names = [key(number, client) for client in present]
        total = training.updates(model, self.truth[list(present)], names).sum(0)
        return Sum(number, model, total, present)

    # ------------------------------------------------------------------ of others
    def of_others(self, heard: Sum, pictures: Tensor, number: int) -> Tensor:
        """The update ``[P]`` of a sum over other people's ``pictures [K, M]`` at a round's model,
        with draws that are not known and the noise that nodes add."""
        training = self.training(self.method)
        names = [self.secret_key(number, client) for client in range(len(pictures))]
        total = training.updates(heard.model, pictures, names).sum(0)
        stream = torch.Generator().manual_seed(number)
        return total + self.noise * torch.randn(total.shape, generator=stream, dtype=torch.float64)

    # ------------------------------------------------------------------ at another size
    def at(self, side: int) -> Small:
        """The same pictures at another size."""
        experiment = self.pieces.experiment
        rows, columns, channels = self.shape
        pictures = self.truth.view(-1, rows, columns, channels).permute(0, 3, 1, 2)
        if rows != side:
            pictures = torch.nn.functional.interpolate(pictures, size=(side, side), mode="area")
        truth = pictures.permute(0, 2, 3, 1).flatten(1)
        data = experiment.data.model_copy(update={"size": side})
        smaller: Experiment = experiment.model_copy(update={"data": data})
        return Small(Pieces(smaller), self.heard, truth, (side, side, channels))


class Small(Controls):
    """The run's clients with smaller pictures, whose sums have to be made again."""

    def sums(self, training: Training, rounds: int, noised: bool = False) -> list[Sum]:
        """Sums of everybody, draws secret, at models near the start of the run; ``noised``: with
        the noise that the run's nodes add."""
        start = self.pieces.task.init(self.seed).double()
        everybody = tuple(range(len(self.truth)))
        found = []
        model = start
        for number in range(1, rounds + 1):
            names = [self.secret_key(number, client) for client in everybody]
            total = training.updates(model, self.truth, names).sum(0)
            if noised:
                stream = torch.Generator().manual_seed(number)
                total = total + self.noise * torch.randn(
                    total.shape, generator=stream, dtype=torch.float64
                )
            found.append(Sum(number, model, total, everybody))
            model = model + total / len(everybody)
        return found

    def single_precision(self, training: Training, naive: bool) -> Ask:
        """One clipped step of everybody in single precision, by the product's clip or a naive
        one."""
        places = sampled("", torch.zeros(self.shape)).support.inputs
        values = self.truth.float().view(len(self.truth), -1, self.shape[-1])
        batch = Batch(places.expand(len(values), -1, -1), values)
        limit = training.settings.outer_clip
        rate = training.learner.outer_rate
        bound = naive_clip if naive else clip

        def ask(model: Tensor) -> Tensor:
            rows = model.float().expand(len(values), -1)
            gradient = training.task.derivatives.gradient(rows, batch)[1]
            moved = bound(gradient, limit).double()
            # a client that is not finite abstains
            sound = torch.isfinite(moved).all(1, keepdim=True)
            return -rate * torch.where(sound, moved, torch.zeros_like(moved)).sum(0)

        return ask
