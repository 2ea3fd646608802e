"""FedExP.

*FedExP: Speeding Up Federated Averaging via Extrapolation*, D. Jhunjhunwala, S. Wang, G. Joshi,
ICLR 2023, https://arxiv.org/abs/2301.09604.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

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
from tasks.params import clip
from tasks.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class FedExPSettings(Settings):
    epsilon: float = Field(1e-3, ge=0, description="added to the squared norm of the mean update")


class FedExP(FedAvg):
    r"""FedAvg that goes further the more the clients' updates disagree (eq. 10, M clients, equal
    weights).

    .. math:: w \leftarrow w + \mathrm{clip}_C(\eta_g \overline{\Delta}), \qquad
        \eta_g = \max\Big(1, \frac{\sum_i \lVert\Delta_i\rVert^2}
            {2 M (\lVert\overline{\Delta}\rVert^2 + \epsilon)}\Big)

    For M orthogonal updates of equal norm :math:`\eta_g = M/2` (as :math:`\epsilon \to 0`); for
    equal ones it is 1. Under a private release each :math:`\lVert\Delta_i\rVert^2` is that of the
    clipped update, at most :math:`C^2`, and travels inside the sum. Noise lengthens
    :math:`\overline{\Delta}`, so that :math:`\eta_g` falls towards 1: the rule then turns into
    FedAvg rather than overshoot.

    Extrapolated iterates swing around where they go; as in the paper's experiments, what is judged
    is the mean of the last two.
    """

    scalars: Mapping[str, Bounds] = {"square_norm": Bounds(0.0, 1.0, clip_power=2, weighted=True)}

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.epsilon = settings.fedexp.epsilon

    def init(self, model: Tensor) -> State:
        return {"previous": model.clone()}

    def result(self, model: Tensor, state: State) -> Tensor:
        """The mean of the last two iterates."""
        return (model + state["previous"]) / 2

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        square = Scalar(result.delta.square().sum(1), self.scalars["square_norm"])
        equal = result.examples.new_ones(len(result.examples))
        return Contribution(result.delta, equal, {"square_norm": square}, largest=1.0), {}

    def extrapolation(self, aggregate: Aggregate) -> float:
        r""":math:`\eta_g`, at least 1; the weights are all one, so their sum is M."""
        size = float(aggregate.mean.double().square().sum())
        return max(
            1.0, aggregate.scalars["square_norm"] / (2 * aggregate.weight * (size + self.epsilon))
        )

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        moved = model + clip(self.extrapolation(aggregate) * aggregate.mean, self.server_clip)
        return moved, {"previous": model}
