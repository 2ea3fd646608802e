"""The next round of a run of talking heads: public recordings of every candidate, and how much an
adapter lowers the loss on them.

The attacker owns clips nobody trained on and measures how much what the server holds lowers the
denoising loss on them, at fixed steps and noise, beside the model the round started from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedapp.attacks.next_round import NextRound, Row
from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError
from tasks.randomness import Key
from tasks.talking_head.adapters import Adapters
from tasks.talking_head.encoding import NoisedBatches, encode
from tasks.talking_head.person import Person

PROBES = 64  # (step, noise) pairs a candidate is judged at


class HeadRound(NextRound):
    """``clients`` people's updates; parametric people may be more than took part in the run."""

    def __init__(self, folder: RunFolder, clients: int) -> None:
        super().__init__(folder, clients)
        if not self.experiment.data.path:
            self.clients = list(range(clients))
        if len(self.clients) < 3:
            raise InputError(
                "clients", len(self.clients), "too few people to confuse", "attack at least 3"
            )
        cpu = torch.device("cpu")
        self.model_ = self.task.model(cpu)
        cohort = [self.task.client_data(client) for client in self.clients]
        public = [
            Person(data.name, data.person.reference, data.person.held_out, ()) for data in cohort
        ]
        self.public = [encode(person, self.model_.backbone.codec, cpu) for person in public]
        self._probes = self._draw_probes()

    def opening(self, method: str) -> str:
        return f"{method}: making the next updates of {len(self.clients)} people"

    def remarks(self, method: str, seed: int) -> list[Row]:
        """Loss of averaging factors with the rule's weights (0 where only one factor travels)."""
        adapters: Adapters = self.model_.adapters
        updates = self.updates(method, seed)
        error = adapters.aggregation_error(
            self.model(method, seed), updates, self.weights(method, seed)
        )
        return [
            {
                "attack": "aggregation error",
                "method": method,
                "release": f"lora {adapters.mode}",
                "n": len(updates),
                "metric": "relative",
                "value": error,
                "floor": None,
                "chance": None,
            }
        ]

    def _draw_probes(self) -> Any:
        """The same steps and noise for all candidates, at little noise: there a face's own details
        decide the loss.

        (Twelve people: 12 of 12 linked from the first 40 % of the schedule, 6 of 12 from its last
        40 %.)
        """
        window = self.model_.settings.window
        alphas = self.model_.alphas
        pairs = max(1, PROBES // window)
        steps = torch.linspace(0.02, 0.4, pairs).mul(len(alphas)).long().view(1, 1, pairs)
        picks: list[tuple[Tensor, Tensor, Tensor, Key]] = []
        for data in self.public:
            clip = torch.arange(pairs) % len(data.mel)
            room = torch.tensor([len(data.mel[index]) - window for index in clip.tolist()])
            first = (torch.linspace(0, 1, pairs) * room).long()
            picks.append((clip.view(1, 1, -1), first.view(1, 1, -1), steps, (0,)))
        return NoisedBatches(self.public, picks, window, alphas).batch(0, 0)

    @torch.no_grad()
    def losses(self, params: Tensor) -> np.ndarray:
        """``[candidates]``: the denoising loss of adapter ``params [P]`` on everybody's public
        clips."""
        return self.model_.loss(params.expand(len(self.public), -1), self._probes).double().numpy()

    def gains(self, base: Tensor, updates: Tensor) -> np.ndarray:
        """``[U, candidates]``: relative drop of the loss by each of ``updates [U, P]``."""
        before = self.losses(base)
        return np.stack([1 - self.losses(base + update) / before for update in updates])
