"""FedAvg.

*Communication-Efficient Learning of Deep Networks from Decentralized Data*, B. McMahan, E. Moore,
D. Ramage, S. Hampson, B. Aguera y Arcas, AISTATS 2017, https://arxiv.org/abs/1602.05629.
"""

from __future__ import annotations

from torch import Tensor

from strategies.settings import RuleSettings
from strategies.types import Aggregate, Broadcast, Contribution, LocalResult, Memory, State
from tasks.params import clip


class FedAvg:
    r"""Average of the clients' models, weighted by their number of examples n_i (algorithm 1).

    .. math:: w \leftarrow w + \mathrm{clip}_C\Big(\frac{\sum_i n_i \Delta_i}{\sum_i n_i}\Big),
        \qquad \Delta_i = w_i - w

    The clip on the averaged update is FedMeNF's server step; ``rules.server-clip = 0`` is the rule
    as published.
    """

    memory: tuple[str, ...] = ()

    def __init__(self, settings: RuleSettings) -> None:
        self.server_clip = settings.server_clip

    def size(self, parameters: int) -> int:
        return parameters

    def init(self, model: Tensor) -> State:
        return {}

    def broadcast(self, model: Tensor, state: State, round: int) -> Broadcast:
        return Broadcast(model, {}, round)

    def correct(
        self, gradient: Tensor, params: Tensor, received: Broadcast, memory: Memory
    ) -> Tensor:
        return gradient

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        return Contribution(result.delta, result.examples), {}

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        return model + clip(aggregate.mean, self.server_clip), state
