"""Attacks on adapters: whose is this update, and who took part in that sum?

The attacker owns public recordings of every candidate (clips nobody trained on) and measures how
much what the server holds lowers the denoising loss on them, at fixed steps and noise, beside the
model the round started from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedapp.attacks.stage import Row, Stage
from fedapp.store.runfolder import RunFolder
from privacy.attacks.linkage import linkage
from privacy.attacks.membership import auc, power_at
from tasks.errors import InputError
from tasks.talking_head.adapters import Adapters
from tasks.talking_head.encoding import NoisedBatches, encode
from tasks.talking_head.person import Person

FALSE_POSITIVES = 0.1
PROBES = 64  # (step, noise) pairs a candidate is judged at
SPLITS = 8  # halves of the people whose sums are attacked


class HeadAttacks(Stage):
    """``clients`` people's updates; parametric people may be more than took part in the run."""

    def __init__(self, folder: RunFolder, clients: int) -> None:
        super().__init__(folder, clients)
        if not self.experiment.data.path:
            self.clients = list(range(clients))
        if len(self.clients) < 3:
            raise InputError(
                "clients", len(self.clients), "too few people to confuse", "attack at least 3"
            )
        cohort = [self.task.client_data(client) for client in self.clients]
        self.model_ = self.task.model(torch.device("cpu"))  # type: ignore[attr-defined]
        public = [
            Person(data.name, data.person.reference, data.person.held_out, ()) for data in cohort
        ]
        self.public = [
            encode(person, self.model_.backbone.codec, torch.device("cpu")) for person in public
        ]
        self._probes = self._draw_probes()

    def _draw_probes(self) -> Any:
        """The same steps and noise for all candidates, at little noise: there a face's own details
        decide the loss.

        (Twelve people: 12 of 12 linked from the first 40 % of the schedule, 6 of 12 from its last
        40 %.)
        """
        window, alphas = self.model_.settings.window, self.model_.alphas
        pairs = max(1, PROBES // window)
        steps = torch.linspace(0.02, 0.4, pairs).mul(len(alphas)).long().view(1, 1, pairs)
        picks = []
        for data in self.public:
            clip = torch.arange(pairs) % len(data.mel)
            room = torch.tensor([len(data.mel[index]) - window for index in clip.tolist()])
            first = (torch.linspace(0, 1, pairs) * room).long()
            picks.append((clip.view(1, 1, -1), first.view(1, 1, -1), steps, 0))
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

    # ------------------------------------------------------------------ attacks
    def linkage(self, method: str, seed: int, updates: Tensor) -> Iterator[Row]:
        """Which person each message is about, under each release."""
        base, n = self.model(method, seed), len(self.clients)
        mean = updates.mean(0)
        label, noised = self.noised(updates)
        views = {"plain": updates, "secagg": mean.expand(n, -1), label: noised.expand(n, -1)}
        for release, held in views.items():
            same = release != "plain"
            gain = self.gains(base, held[:1] if same else held)
            found = linkage(np.repeat(gain, n, 0) if same else gain, FALSE_POSITIVES)
            row = {"attack": "linkage", "method": method, "release": release, "n": n, "floor": None}
            yield row | {"metric": "top1", "value": found.top1, "chance": 1 / n}
            yield row | {"metric": "auc", "value": found.auc, "chance": 0.5}
            yield row | {
                "metric": f"tpr@fpr={FALSE_POSITIVES:g}",
                "value": found.power,
                "chance": FALSE_POSITIVES,
            }

    def membership(self, method: str, seed: int, updates: Tensor) -> Iterator[Row]:
        """Who was in a sum of half of the people, pooled over several halves; n counts
        decisions."""
        base, n = self.model(method, seed), len(self.clients)
        split = np.random.default_rng(0)
        scores: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for _ in range(SPLITS):
            inside = np.zeros(n, bool)
            inside[split.permutation(n)[: n // 2]] = True
            label, noised = self.noised(updates[torch.from_numpy(inside)])
            for release, held in {
                "secagg": updates[torch.from_numpy(inside)].mean(0),
                label: noised,
            }.items():
                gain = self.gains(base, held[None])[0]
                gain = (gain - gain.mean()) / max(
                    gain.std(), 1e-12
                )  # sums differ in how much they help everybody
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
                "metric": f"tpr@fpr={FALSE_POSITIVES:g}", "value": power_at(-members, -others, FALSE_POSITIVES),
                "chance": FALSE_POSITIVES,
            }  # fmt: skip

    def aggregation(self, method: str, updates: Tensor, seed: int) -> Row:
        """What averaging factors with the rule's weights loses (0 where only one factor
        travels)."""
        adapters: Adapters = self.model_.adapters
        error = adapters.aggregation_error(
            self.model(method, seed), updates, self.weights(method, seed)
        )
        return {
            "attack": "aggregation error", "method": method, "release": f"lora {adapters.mode}", "n": len(updates),
            "metric": "relative", "value": error, "floor": None, "chance": None,
        }  # fmt: skip


def attack_heads(
    folder: RunFolder,
    names: list[str],
    clients: int,
    methods: list[str],
    tell: Callable[[str], None],
) -> list[Row]:
    """The named attacks on ``methods`` at the first seed."""
    attacker = HeadAttacks(folder, clients)
    seed = attacker.experiment.seed_list[0]
    rows: list[Row] = []
    for method in methods:
        tell(f"{method}: making the next updates of {len(attacker.clients)} people")
        updates = attacker.updates(method, seed)
        if "linkage" in names:
            tell("linking updates to people")
            rows += attacker.linkage(method, seed, updates)
        if "membership" in names:
            tell("looking for members of sums")
            rows += attacker.membership(method, seed, updates)
        if "transcript" in names:
            rows += attacker.transcript(method, seed)
        rows.append(attacker.aggregation(method, updates, seed))
    return rows
