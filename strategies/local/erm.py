"""Empirical risk minimisation: plain gradient descent on the client's own loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.learner import Learner
from strategies.types import Step

if TYPE_CHECKING:
    from torch import Tensor

    from strategies.settings import LearnerSettings
    from tasks.types import Derivatives, Episode


class Erm(Learner):
    """The pseudo-gradient is the gradient on the query batch; there is no inner loop."""

    inner_steps = 0

    def __init__(self, settings: LearnerSettings) -> None:
        self.outer_rate = settings.outer_rate

    def step(self, derivatives: Derivatives, params: Tensor, episode: Episode) -> Step:
        loss, gradient = derivatives.gradient(params, episode.query)
        return Step(gradient, loss, {"loss": loss})
