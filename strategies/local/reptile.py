"""Reptile.

*On First-Order Meta-Learning Algorithms*, A. Nichol, J. Achiam, J. Schulman, 2018,
https://arxiv.org/abs/1803.02999.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from strategies.learner import Learner
from strategies.types import Step
from tasks.params import clip_factor, norms
from tasks.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.types import Derivatives, Episode


class ReptileSettings(Settings):
    outer_rate: float = Field(0.05, gt=0, description="Reptile's own outer step size")


class Reptile(Learner):
    r"""The pseudo-gradient is the way back from the adapted field: :math:`G = w - \phi_K`
    (algorithm 1)."""

    least_inner_steps = 1

    def __init__(self, settings: Any) -> None:
        self.inner_steps = settings.inner_steps
        self.inner_rate = settings.inner_rate
        self.inner_clip = settings.inner_clip
        self.outer_rate = settings.reptile.outer_rate

    @classmethod
    def at_rate(cls, settings: Any, rate: float) -> Any:
        own = settings.reptile.model_copy(update={"outer_rate": rate})
        return settings.model_copy(update={"reptile": own})

    def step(self, derivatives: Derivatives, params: Tensor, episode: Episode) -> Step:
        point, loss = params, None
        for batch in episode.support:
            loss, gradient = derivatives.gradient(point, batch)
            factor = clip_factor(norms(gradient), self.inner_clip)
            point = point.addcmul(factor, gradient, value=-self.inner_rate)
        if loss is None:
            raise ValueError("Reptile needs learner.inner-steps of at least 1")
        return Step(params - point, loss, {"loss": loss})
