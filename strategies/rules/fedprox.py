"""FedProx.

*Federated Optimization in Heterogeneous Networks*, T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A.
Talwalkar, V. Smith, MLSys 2020, https://arxiv.org/abs/1812.06127.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from strategies.rules.fedavg import FedAvg
from strategies.types import Broadcast, Memory
from tasks.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class FedProxSettings(Settings):
    mu: float = Field(0.1, ge=0, description="weight of the proximal term; 0 is FedAvg")


class FedProx(FedAvg):
    r"""FedAvg whose clients are held near the model they received (algorithm 2).

    The client minimises :math:`F_i(w) + \frac{\mu}{2}\lVert w - w_0\rVert^2`, so its step gains
    :math:`\mu (w - w_0)`. With :math:`\mu = 0` this is FedAvg.
    """

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.mu = settings.fedprox.mu

    def correct(
        self, gradient: Tensor, params: Tensor, received: Broadcast, memory: Memory
    ) -> Tensor:
        return gradient + self.mu * (params - received.model)
