"""Membership inference on a sum of adapter updates, by the gain on public recordings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fedapp.attacks.base import Attack
from fedapp.attacks.head_round import HeadRound
from fedapp.attacks.next_round import NextRound, Row
from privacy.attacks.membership import auc, power_at

FALSE_POSITIVES = 0.1
SPLITS = 8  # halves of the people whose sums are attacked


class SumMembership(Attack):
    """Members of a sum of half of the people, pooled over several halves; n counts decisions."""

    view: HeadRound

    @classmethod
    def applies(cls, view: NextRound) -> bool:
        return isinstance(view, HeadRound)

    def run(self, method: str, seed: int) -> Iterator[Row]:
        self.tell("looking for members of sums")
        updates = self.view.updates(method, seed)
        base = self.view.model(method, seed)
        n = len(self.view.clients)
        split = np.random.default_rng(0)
        scores: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for _ in range(SPLITS):
            inside = np.zeros(n, bool)
            inside[split.permutation(n)[: n // 2]] = True
            chosen = updates[torch.from_numpy(inside)]
            label, noised = self.view.noised(chosen)
            for release, held in {"secagg": chosen.mean(0), label: noised}.items():
                gain = self.view.gains(base, held[None])[0]
                # Sums differ in how much they help everybody: only differences are compared
                gain = (gain - gain.mean()) / max(gain.std(), 1e-12)
                scores.setdefault(release, []).append((gain[inside], gain[~inside]))
        for release, pairs in scores.items():
            members, others = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
            row = {
                "attack": "membership in a sum",
                "method": method,
                "release": release,
                "n": SPLITS * n,
                "floor": None,
            }
            yield row | {"metric": "auc", "value": auc(-members, -others), "chance": 0.5}
            yield row | {
                "metric": f"tpr@fpr={FALSE_POSITIVES:g}",
                "value": power_at(-members, -others, FALSE_POSITIVES),
                "chance": FALSE_POSITIVES,
            }
