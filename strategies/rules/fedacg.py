"""FedACG.

*Communication-Efficient Federated Learning with Accelerated Client Gradient*, G. Kim, J. Kim, B.
Han, CVPR 2024, https://arxiv.org/abs/2201.03172.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from strategies.rules.fedavg import FedAvg
from strategies.types import Aggregate, Broadcast, Memory, State
from tasks.params import clip
from tasks.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class FedACGSettings(Settings):
    momentum: float = Field(
        0.85,
        ge=0,
        lt=1,
        description="lambda, the server's momentum; 0 with beta = 0 is FedAvg",
    )
    beta: float = Field(0.001, ge=0, description="weight of the pull to the model that was sent")


class FedACG(FedAvg):
    r"""Server momentum that clients already start from, and are held near (algorithm 1).

    .. math::
        \text{sent:}\quad & \tilde w = w + \lambda m \\
        \text{client:}\quad & \text{step gains } \beta (w_i - \tilde w),
            \qquad \Delta_i = w_i - \tilde w \\
        \text{server:}\quad & m \leftarrow \lambda m + \mathrm{clip}_C(\overline{\Delta}),
            \qquad w \leftarrow w + m

    so that, without the clip, the new w is the mean of the clients' models. With :math:`\lambda =
    \beta = 0` this is FedAvg. Nothing beside one model travels either way.
    """

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.momentum = settings.fedacg.momentum
        self.beta = settings.fedacg.beta

    def init(self, model: Tensor) -> State:
        return {"momentum": model.new_zeros(model.shape)}

    def broadcast(self, model: Tensor, state: State, round: int) -> Broadcast:
        return Broadcast(model + self.momentum * state["momentum"], {}, round)

    def correct(
        self, gradient: Tensor, params: Tensor, received: Broadcast, memory: Memory
    ) -> Tensor:
        return gradient + self.beta * (params - received.model)

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        momentum = self.momentum * state["momentum"] + clip(aggregate.mean, self.server_clip)
        return model + momentum, {"momentum": momentum}
