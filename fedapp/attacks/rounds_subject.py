"""A method of a run as attacks on transcripts see it: the sums, how clients train, and the truth
that finds are scored by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fedapp.config.pieces import Pieces
from fedapp.store.runfolder import RunFolder
from fedapp.store.transcript import TranscriptFile
from privacy.attacks.many_rounds import Sum, Training
from tasks.errors import InputError, nearest
from tasks.image import ImageTask
from tasks.metrics import psnr


@dataclass
class Subject:
    """One method of a run: what its server heard, and the truth it is scored by."""

    pieces: Pieces
    method: str
    seed: int
    sums: list[Sum]
    truth: Tensor  # [K, M], for scoring alone
    shape: tuple[int, ...]

    @cached_property
    def training(self) -> Training:
        pieces = self.pieces
        return Training(
            pieces.task, pieces.learner(self.method), pieces.rule, pieces.experiment.learner,
            self.shape,
        )  # fmt: skip

    @property
    def clients(self) -> int:
        return len(self.truth)

    @cached_property
    def floor(self) -> float:
        """PSNR that the sum of everybody is good for: of the mean picture, or of each one's own
        mean colour if that is nearer."""
        flat = self.truth.mean(1, keepdim=True).expand_as(self.truth)
        mean = self.truth.mean(0).expand_as(self.truth)
        return max(
            float(np.mean([psnr(one[k], self.truth[k]) for k in range(self.clients)]))
            for one in (flat, mean)
        )


def subjects(folder: RunFolder, method: str) -> list[Subject]:
    """The trained methods of a run's first seed, with what was heard of them."""
    pieces = Pieces.of(folder)
    experiment, task = pieces.experiment, pieces.task
    methods = experiment.trained_methods
    if method and method not in methods:
        raise InputError("--method", method, "the run did not train it", nearest(method, methods))
    if not isinstance(task, ImageTask):
        raise InputError(
            "task", experiment.task, "these attacks are on pictures", "attack a run of task image"
        )
    if any(event.get("deployed") for event in folder.events() if event["event"] == "start"):
        raise InputError(
            "run", str(folder.path), "its clients' data are on their own devices",
            "attack a simulated run of the same configuration",
        )  # fmt: skip
    holdings = [task.client_data(client) for client in range(experiment.clients.total)]
    shapes = {tuple(holding.signals[0].shape) for holding in holdings}
    if len(shapes) > 1 or any(len(holding.signals) > 1 for holding in holdings):
        raise InputError(
            "data", "pictures", "clients hold several, or of several sizes", "give each client one"
        )
    truth = torch.stack([h.signals[0].support.values.flatten() for h in holdings]).double()
    found = []
    seed = experiment.seed_list[0]
    for one in [method] if method else methods:
        heard = TranscriptFile(folder.path, f"{one}-{seed}").read()
        sums = [
            Sum(each.number, each.model, total.total, total.clients)
            for each in heard
            for total in each.sums
        ]
        if not sums:
            raise InputError(
                "run", str(folder.path), f"keeps no transcript of {one}",
                "run it under secagg with report.transcript = true",
            )  # fmt: skip
        found.append(Subject(pieces, one, seed, sums, truth, shapes.copy().pop()))
    return found
