"""Loss-threshold membership inference on a run's shared field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fedapp.attacks.base import Attack
from fedapp.attacks.field_round import FieldRound
from fedapp.attacks.next_round import NextRound, Row
from privacy.attacks.membership import auc, power_at

FALSE_POSITIVES = 0.1


class Membership(Attack):
    """Loss of the shared model on members' and on non-members' pictures.

    Two sets of pictures differ by themselves: what the untrained model already tells apart,
    training did not give away, so that is ``chance``.
    """

    view: FieldRound

    @classmethod
    def applies(cls, view: NextRound) -> bool:
        return isinstance(view, FieldRound)

    def run(self, method: str, seed: int) -> Iterator[Row]:
        view = self.view
        total = view.experiment.clients.total
        members = [view.task.client_data(client) for client in range(total)]
        others = view.fields.non_members(total)
        untrained = view.task.init(seed).to(view.model(method, seed))
        after, before = (
            (self._losses(model, members), self._losses(model, others))
            for model in (view.judged(method, seed), untrained)
        )
        base = {
            "attack": "membership",
            "method": method,
            "release": view.experiment.release,
            "n": total + len(others),
        }
        yield base | {"metric": "auc", "value": auc(*after), "floor": 0.5, "chance": auc(*before)}
        yield base | {
            "metric": f"tpr@fpr={FALSE_POSITIVES:g}",
            "value": power_at(*after, FALSE_POSITIVES),
            "floor": FALSE_POSITIVES,
            "chance": power_at(*before, FALSE_POSITIVES),
        }

    def _losses(self, model: Tensor, cohort: Sequence[Any]) -> np.ndarray:
        """``[clients]``: squared error of the shared field on each picture."""
        images = self.view.fields.render(model.expand(len(cohort), -1), cohort)
        pairs = zip(images, cohort, strict=True)
        return np.array([float((image - data.truth).square().mean()) for image, data in pairs])
