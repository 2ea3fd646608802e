"""FedNova.

*Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization*, J. Wang, Q.
Liu, H. Liang, G. Joshi, H. V. Poor, NeurIPS 2020, https://arxiv.org/abs/2007.07481.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from strategies.rule import RunFacts
from strategies.rules.fedavg import FedAvg
from strategies.types import (
    Aggregate,
    Bounds,
    Broadcast,
    Contribution,
    LocalResult,
    Memory,
    Scalar,
    State,
)
from tasks.errors import InputError
from tasks.params import clip
from tasks.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class FedNovaSettings(Settings):
    steps: int = Field(
        0,
        ge=0,
        description="local steps all clients take; 0: learner.outer-steps, or they differ",
    )
    max_steps: float = Field(
        1000.0, gt=0, description="most local steps of a client, where they differ"
    )


class FedNova(FedAvg):
    r"""Average of *normalised* updates: who takes more local steps does not pull harder (eq. 8,
    local SGD).

    .. math::
        w \leftarrow w + \mathrm{clip}_C\Big(\tau_{\mathrm{eff}}
            \frac{\sum_i n_i \Delta_i / \tau_i}{\sum_i n_i}\Big),
        \qquad \tau_{\mathrm{eff}} = \frac{\sum_i n_i \tau_i}{\sum_i n_i}

    :math:`\tau_i` is the number of local outer steps of client i. Where all take E steps, as they
    do unless ``learner.steps-by-examples`` is set, this is FedAvg and nothing more than FedAvg's
    sum travels. Where they differ, :math:`\tau_i` (at most ``rules.fednova.max-steps``) travels
    inside the sum, weighted as the update is. Noise would drown it, so that is refused under
    noised releases.
    """

    counts_steps = True

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.equal = settings.fednova.steps > 0
        self.most = settings.fednova.max_steps
        bounds = Bounds(0.0, self.most, weighted=True)
        self.scalars: Mapping[str, Bounds] = {} if self.equal else {"steps": bounds}

    @classmethod
    def configured(cls, settings: Any, facts: RunFacts) -> FedNova:
        if not facts.equal_steps:
            return cls(settings)
        steps = settings.fednova.steps or facts.outer_steps  # everybody knows how many
        own = settings.fednova.model_copy(update={"steps": steps})
        return cls(settings.model_copy(update={"fednova": own}))

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        if self.equal:
            return super().contribute(result, received, memory)
        most = int(result.steps.max())
        if most > self.most:
            raise InputError(
                "rules.fednova.max-steps",
                self.most,
                f"a client takes {most} local steps",
                "raise it to outer-steps times the most examples a client holds",
            )
        scalars = {"steps": Scalar(result.steps.to(result.delta), self.scalars["steps"])}
        return Contribution(result.delta / result.steps[:, None], result.examples, scalars), {}

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        if self.equal:
            return super().apply(model, state, aggregate, population)
        effective = aggregate.scalars["steps"] / aggregate.weight
        return model + clip(effective * aggregate.mean, self.server_clip), state
