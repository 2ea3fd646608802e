"""FedProx.

*Federated Optimization in Heterogeneous Networks*, T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar,
V. Smith, MLSys 2020, https://arxiv.org/abs/1812.06127.
"""

from __future__ import annotations

from torch import Tensor

from strategies.rules.fedavg import FedAvg
from strategies.settings import RuleSettings
from strategies.types import Aggregate, Broadcast, Contribution, LocalResult, Memory, State


class FedProx:
    r"""FedAvg whose clients are held near the model they received (algorithm 2).

    The client minimises :math:`F_i(w) + \frac{\mu}{2}\lVert w - w_0\rVert^2`, so its step gains
    :math:`\mu (w - w_0)`. With :math:`\mu = 0` this is FedAvg.
    """

    memory: tuple[str, ...] = ()

    def __init__(self, settings: RuleSettings) -> None:
        self.mu = settings.fedprox.mu
        self.average = FedAvg(settings)

    def size(self, parameters: int) -> int:
        return self.average.size(parameters)

    def init(self, model: Tensor) -> State:
        return self.average.init(model)

    def broadcast(self, model: Tensor, state: State, round: int) -> Broadcast:
        return self.average.broadcast(model, state, round)

    def correct(self, gradient: Tensor, params: Tensor, received: Broadcast, memory: Memory) -> Tensor:
        return gradient + self.mu * (params - received.model)

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        return self.average.contribute(result, received, memory)

    def apply(self, model: Tensor, state: State, aggregate: Aggregate, population: int) -> tuple[Tensor, State]:
        return self.average.apply(model, state, aggregate, population)
