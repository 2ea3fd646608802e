"""Linearised inversion of what a server holds (``readout`` on the command line and in results)."""

from __future__ import annotations

from torch import Tensor

from fedapp.attacks.recovery import Recovery
from privacy.attacks.inversion import invert_update


class LinearisedInversion(Recovery):
    """The picture whose gradient points along the update: :mod:`privacy.attacks.inversion`."""

    rungs = ("readout",)

    def recover(self, rung: str, method: str, seed: int, client: int, update: Tensor) -> Tensor:
        model = self.view.received(method, seed).model
        data = self.view.cohort[client]
        inputs = data.signals[0].support.inputs[None]
        field = self.view.fields.field
        found = invert_update(lambda params: field(params[None], inputs)[0], model, update)
        return found.reshape(data.truth.shape)
