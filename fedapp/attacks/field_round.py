"""The next round of a run of neural fields: its clients' data, non-members, and how they train."""

from __future__ import annotations

from copy import copy

from torch import Tensor

from fedapp.attacks.next_round import NextRound
from fedapp.store.runfolder import RunFolder
from privacy.attacks.client_training import Training
from tasks.fitting import FieldTask


class FieldRound(NextRound):
    """For tasks whose parameters are one field. ``cohort`` is the clients' data, against which
    recoveries are scored; ``others`` those of non-members."""

    def __init__(self, folder: RunFolder, clients: int) -> None:
        super().__init__(folder, clients)
        assert isinstance(self.task, FieldTask), "attack_run sends no other here"
        self.fields: FieldTask = self.task
        self.cohort = [self.task.client_data(client) for client in self.clients]
        self.others = self.fields.non_members(len(self.clients))
        self._bare: dict[tuple[str, int], Tensor] = {}

    @property
    def whole(self) -> bool:
        """Whether each client has one signal whose samples are all of it: else nothing can be read
        out of one update."""
        return all(len(data.signals) == 1 and data.signals[0].whole for data in self.cohort)

    def bare(self, method: str, seed: int) -> Tensor:
        """``[C, P]``: the updates without what the rule took off each of them."""
        if (method, seed) not in self._bare:
            corrected = self.updates(method, seed) + self.corrections(method, seed)
            self._bare[method, seed] = corrected
        return self._bare[method, seed]

    def training(self, method: str, inputs: Tensor, batches: Tensor | None = None) -> Training:
        """A server's knowledge of the clients' training on one signal (what a rule adds to a step
        is not simulated).

        Args:
            method: the learner.
            inputs: coordinates of the samples, ``[N, inputs]``.
            batches: redrawn ones, if known.
        """
        settings = self.experiment.learner
        learner = copy(self.pieces.learner(method))
        if learner.noise_multiplier:
            learner.noise_multiplier = 0.0  # the noise itself is what nobody can simulate
        loss = self.fields.field.loss  # type: ignore[attr-defined]
        return Training(
            loss,
            learner,
            inputs[None],
            settings.outer_steps,
            settings.outer_clip,
            batches,
            self.fields.derivatives,
        )
