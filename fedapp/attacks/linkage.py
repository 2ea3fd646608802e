"""Linkage of adapter updates to the people they were trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fedapp.attacks.base import ReleaseAttack
from fedapp.attacks.head_round import HeadRound
from fedapp.attacks.next_round import Held, NextRound, Row
from privacy.attacks.linkage import linkage

FALSE_POSITIVES = 0.1


class Linkage(ReleaseAttack):
    """Attribution of each message to a person, under each release."""

    view: HeadRound

    @classmethod
    def applies(cls, view: NextRound) -> bool:
        return isinstance(view, HeadRound)

    def run_on(self, method: str, seed: int, release: str, held: Held) -> Iterator[Row]:
        base = self.view.model(method, seed)
        clients = self.view.clients
        n = len(clients)
        if release == "plain":
            self.tell("linking updates to people")
            gain = self.view.gains(base, torch.stack([held(client) for client in clients]))
        else:
            # One sum stands for everybody's message
            gain = np.repeat(self.view.gains(base, held(clients[0])[None]), n, 0)
        found = linkage(gain, FALSE_POSITIVES)
        row = {"attack": "linkage", "method": method, "release": release, "n": n, "floor": None}
        yield row | {"metric": "top1", "value": found.top1, "chance": 1 / n}
        yield row | {"metric": "auc", "value": found.auc, "chance": 0.5}
        yield row | {
            "metric": f"tpr@fpr={FALSE_POSITIVES:g}",
            "value": found.power,
            "chance": FALSE_POSITIVES,
        }
