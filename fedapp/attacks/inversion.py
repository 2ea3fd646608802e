"""Gradient inversion by simulated training, batches unknown or redrawn from the streams the server
named."""

from __future__ import annotations

import torch
from torch import Tensor

from fedapp.attacks.recovery import Recovery
from privacy.attacks.client_training import cap_guesses, drawn_samples
from privacy.attacks.matching import DEFAULT, KNOWN, Search, match_best
from tasks.adaptation import constant_colour
from tasks.metrics import psnr

UNKNOWN_BATCHES = "inversion"
KNOWN_BATCHES = "inversion, batches known"
MEMORY = 4  # rounds whose uploads of one client are inverted together
SEVERAL_ROUNDS = f"inversion, {MEMORY} rounds"
KNOWN_FOR = 2  # clients whose redrawn batches are used: an order of magnitude slower


class Inversion(Recovery):
    """The picture whose simulated training gives the update: :mod:`privacy.attacks.matching`.
    ``search`` is how hard it looks."""

    rungs = (UNKNOWN_BATCHES, SEVERAL_ROUNDS, KNOWN_BATCHES)
    search: Search = DEFAULT

    def fits(self, rung: str, release: str) -> bool:
        # Redrawn batches explain one client's own update, not a sum; whole runs of sums have
        # attacks of their own (``--name rounds``)
        if rung == SEVERAL_ROUNDS and not self.view.everybody:
            return False
        return self.view.whole and (rung == UNKNOWN_BATCHES or release == "plain")

    def can_try(self, method: str) -> bool:
        # A learner that trains as a whole has no step to simulate
        return bool(self.view.pieces.learner(method).inverts)

    def targets(self, rung: str) -> list[int]:
        return self.view.clients[:KNOWN_FOR] if rung == KNOWN_BATCHES else self.view.clients

    def recover(self, rung: str, method: str, seed: int, client: int, update: Tensor) -> Tensor:
        data = self.view.cohort[client]
        inputs = data.signals[0].support.inputs
        training = self.view.training(method, inputs)
        search = self.search
        model, sent = self.view.received(method, seed).model, update[None]
        if rung == SEVERAL_ROUNDS:
            rounds = self.view.following(method, seed, MEMORY)
            row = self.view.clients.index(client)
            model = torch.stack([one for one, _ in rounds])[None]
            sent = torch.stack([updates[row] for _, updates in rounds])[None]
        if rung == KNOWN_BATCHES:
            settings = self.view.experiment.learner
            key = ("batches", seed, self.view.checkpoint.round + 1, client)
            batches = drawn_samples(
                self.view.task,
                inputs[None],
                [key],
                settings.outer_steps,
                training.learner.inner_steps,
                settings.batch_size,
            )
            training = self.view.training(method, inputs, batches)
            search = KNOWN
        matched = match_best(
            cap_guesses(training),
            model,
            sent,
            data.truth.shape[-1],
            grid=data.truth.shape[:-1],
            search=search,
        )
        return matched.values[0].reshape(data.truth.shape).float()

    def inverted(self, method: str, seed: int) -> list[tuple[float, float]]:
        """(PSNR of what matching recovers from a plain upload, constant-colour baseline) of each
        client."""
        held = self.view.bare(method, seed).__getitem__
        found = self.recover_all(UNKNOWN_BATCHES, method, seed, self.view.clients, held)
        truths = [data.truth for data in self.view.cohort]
        return [
            (psnr(image, truth), psnr(constant_colour(truth), truth))
            for image, truth in zip(found, truths, strict=True)
        ]
