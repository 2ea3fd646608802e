"""Recognition of people in updates of a template of heads, by shapes of theirs that are known.

The attacker holds shapes of the clients and of strangers (a gallery) and what the server holds of
an update. A client's own shape pulls the template towards itself. Of a single update the shape that
it goes along best names the owner. A *sum* is one linear system in who is in it: all weights are
solved for together (ridge, the attacker's best of ``RIDGES``), which finds members where one
product per shape does not. Only clients whose fits are poor, many people in a sum, or noise stand
against that.
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
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # of the mean squared length of a shape


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
        # One sum stands for everybody's update
        update = held(clients[0])
        solved = [self._solved(method, seed, update, ridge) for ridge in RIDGES]
        best = max(solved, key=lambda weights: auc(-weights[:n], -weights[n:]))
        named = np.argsort(-best)[:n]
        yield row | {
            "metric": "membership auc", "value": auc(-best[:n], -best[n:]), "chance": 0.5,
            "n": candidates,
        }  # fmt: skip
        yield row | {
            "metric": "members among the n named", "value": float((named < n).mean()),
            "chance": n / candidates, "n": n,
        }  # fmt: skip

    def _solved(self, method: str, seed: int, update: Tensor, ridge: float) -> np.ndarray:
        """Weights ``[candidates]`` of shapes that together make a sum's mean, by ridge
        regression."""
        from tasks.head import template

        away = self._away(self.view.model(method, seed)).double()
        task: HeadTemplate = self.view.pieces.task
        mean = task.parts(update[None])[0][0].double() * template.counted()
        mean = mean / mean.norm().clamp(min=1e-12) * away.norm(dim=1).mean()
        gram = away @ away.T
        scale = ridge * float(gram.diagonal().mean())
        weights: np.ndarray = torch.linalg.solve(
            gram + scale * torch.eye(len(away), dtype=torch.float64), away @ mean
        ).numpy()
        return weights

    def _away(self, model: Tensor) -> Tensor:
        """Shapes of the gallery ``[candidates, N]``, clients first, as they differ from the
        template."""
        from tasks.head import template

        task: HeadTemplate = self.view.pieces.task
        style = task.settings.head.style
        numbers = [*self.view.clients, *range(FIRST, FIRST + STRANGERS)]
        shapes = torch.stack(
            [template.cut(template.of_person(n, style, template.LATTICE)) for n in numbers]
        )
        return (shapes - task.parts(model[None])[0]) * template.counted()

    def _scores(self, model: Tensor) -> Callable[[Tensor], np.ndarray]:
        """``update [P] -> scores [candidates]``."""
        task: HeadTemplate = self.view.pieces.task
        away = self._away(model)
        # what a shape has that others have not
        own = torch.nn.functional.normalize(away - away.mean(0), dim=1)

        def scored(update: Tensor) -> np.ndarray:
            mean = task.parts(update[None])[0][0]
            return (own @ mean).double().numpy()

        return scored
