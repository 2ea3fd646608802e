"""SCAFFOLD.

*SCAFFOLD: Stochastic Controlled Averaging for Federated Learning*, S. P. Karimireddy, S. Kale, M.
Mohri, S. Reddi, S. Stich, A. T. Suresh, ICML 2020, https://arxiv.org/abs/1910.06378.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from strategies.rule import Rule, RunFacts
from strategies.types import Aggregate, Broadcast, Contribution, LocalResult, Memory, State
from tasks.params import clip
from tasks.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class ScaffoldSettings(Settings):
    scale: float = Field(
        0.0,
        ge=0,
        description="of the control variates beside the update; 0: learner.outer-steps times its "
        "rate",
    )


class Scaffold(Rule):
    r"""Control variates remove the drift of heterogeneous clients (algorithm 1, option II, eta_g =
    1).

    .. math::
        \text{step:}\quad & w \leftarrow w - \lambda (g_i - c_i + c) \\
        \text{client:}\quad & c_i^+ = c_i - c - \frac{\Delta_i}{E\lambda}, \qquad
            \text{adds } (\Delta_i,\ s\,(c_i^+ - c_i)) \text{ with weight 1} \\
        \text{server:}\quad & w \leftarrow w + \mathrm{clip}_C(\overline{\Delta}), \qquad
            c \leftarrow c + \frac{|S|}{N}\,\overline{c^+ - c}

    The two halves of the vector are one contribution, so that a private release clips and noises
    them jointly. The scale s (:math:`E\lambda`, ``rules.scaffold.scale``) makes them alike in size:
    a variate is a gradient, an update a step size times E of them, and a clip would leave next to
    nothing of it. A client remembers of its change what the clip let through. So :math:`c =
    \frac1N\sum_i c_i` holds after every round, whoever took part or failed (a client's new variate
    counts only once the server has accepted its contribution), up to the quantum of a secure sum
    and the noise of a noised one.
    """

    memory = ("control",)
    # an optimiser with a state of its own has no mean gradient to vary around
    averages_gradients = True

    def __init__(self, settings: Any) -> None:
        self.server_clip = settings.server_clip
        self.scale = settings.scaffold.scale or 1.0

    @classmethod
    def configured(cls, settings: Any, facts: RunFacts) -> Scaffold:
        scale = settings.scaffold.scale or facts.outer_steps * facts.outer_rate
        own = settings.scaffold.model_copy(update={"scale": scale})
        return cls(settings.model_copy(update={"scaffold": own}))

    def size(self, parameters: int) -> int:
        return 2 * parameters

    def init(self, model: Tensor) -> State:
        return {"control": model.new_zeros(model.shape)}

    def broadcast(self, model: Tensor, state: State, round: int) -> Broadcast:
        return Broadcast(model, {"control": state["control"]}, round)

    def correct(
        self, gradient: Tensor, params: Tensor, received: Broadcast, memory: Memory
    ) -> Tensor:
        return gradient - memory["control"] + received.extra["control"]

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        change = -received.extra["control"] - result.delta / (
            result.steps[:, None] * result.step_size
        )
        import torch

        vector = torch.cat([result.delta, self.scale * change], dim=-1)
        weight = torch.ones_like(result.examples)
        return Contribution(vector, weight, largest=1.0), {"control": memory["control"] + change}

    def after_clip(self, memory: Memory, renewed: Memory, clip_factor: Tensor) -> Memory:
        # else the invariant c = mean(c_i) would break wherever a release clips an update
        before = memory["control"]
        return {**renewed, "control": before + clip_factor * (renewed["control"] - before)}

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        delta, change = aggregate.mean.chunk(2)
        control = state["control"] + (aggregate.count / population) * change / self.scale
        return model + clip(delta, self.server_clip), {"control": control}
