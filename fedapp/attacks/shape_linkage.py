"""Recognition of people in updates of a template of heads, by shapes of theirs that are known.

The attacker holds shapes of the clients and of strangers (a gallery) and what the server holds of
an update. A client's own shape pulls the template towards itself, so each shape of the gallery is
scored by how far the update's mean goes its way. Of single updates the best score names the owner;
of a sum it tells who is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedapp.attacks.base import ReleaseAttack
from fedapp.attacks.next_round import Held, NextRound, Row
from privacy.attacks.linkage import linkage
from privacy.attacks.membership import auc

if TYPE_CHECKING:
    from tasks.head.template_task import HeadTemplate

STRANGERS = 50  # of the gallery, whom no client is
FIRST = 6_000  # number of the first of them
FALSE_POSITIVES = 0.1


class ShapeLinkage(ReleaseAttack):
    """Attribution of updates of a template to people in a gallery, under each release."""

    @classmethod
    def applies(cls, view: NextRound) -> bool:
        return view.pieces.task_type.family == "template"

    def run_on(self, method: str, seed: int, release: str, held: Held) -> Iterator[Row]:
        clients = self.view.clients
        n, candidates = len(clients), len(clients) + STRANGERS
        scores = self._scores(self.view.model(method, seed))
        row = {"attack": "linkage", "method": method, "release": release, "floor": None}
        if release == "plain":
            self.tell("linking updates to heads")
            gain = np.stack([scores(held(client)) for client in clients])
            found = linkage(gain, FALSE_POSITIVES)
            yield row | {"metric": "top1", "value": found.top1, "chance": 1 / candidates, "n": n}
            yield row | {"metric": "auc", "value": found.auc, "chance": 0.5, "n": n}
            return
        # One sum stands for everybody's update: naming the best score for all is right once at most
        gain = scores(held(clients[0]))
        best = int(np.argmax(gain))
        yield row | {
            "metric": "top1", "value": (1 / n) * (best < n), "chance": 1 / candidates, "n": n,
        }  # fmt: skip
        yield row | {
            "metric": "membership auc", "value": auc(-gain[:n], -gain[n:]), "chance": 0.5,
            "n": candidates,
        }  # fmt: skip

    def _scores(self, model: Tensor) -> Callable[[Tensor], np.ndarray]:
        """``update [P] -> scores [candidates]``."""
        from tasks.head import template

        task: HeadTemplate = self.view.pieces.task
        style = task.settings.head.style
        numbers = [*self.view.clients, *range(FIRST, FIRST + STRANGERS)]
        shapes = torch.stack(
            [template.cut(template.of_person(n, style, template.LATTICE)) for n in numbers]
        )
        away = shapes - task.parts(model[None])[0]
        # what a shape has that others have not
        own = torch.nn.functional.normalize(away - away.mean(0), dim=1)

        def scored(update: Tensor) -> np.ndarray:
            mean = task.parts(update[None])[0][0]
            return (own @ mean).double().numpy()

        return scored
