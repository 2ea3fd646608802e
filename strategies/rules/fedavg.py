"""FedAvg.

*Communication-Efficient Learning of Deep Networks from Decentralized Data*, B. McMahan, E. Moore,
D. Ramage, S. Hampson, B. Aguera y Arcas, AISTATS 2017, https://arxiv.org/abs/1602.05629.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strategies.rule import Rule
from strategies.types import Aggregate, Broadcast, Contribution, LocalResult, Memory, State
from tasks.params import clip

if TYPE_CHECKING:
    from torch import Tensor


class FedAvg(Rule):
    r"""Average of the clients' models, weighted by their number of examples n_i (algorithm 1).

    .. math:: w \leftarrow w + \mathrm{clip}_C\Big(\frac{\sum_i n_i \Delta_i}{\sum_i n_i}\Big),
        \qquad \Delta_i = w_i - w

    The clip on the averaged update is FedMeNF's server step; ``rules.server-clip = 0`` is the rule
    as published.
    """

    def __init__(self, settings: Any) -> None:
        self.server_clip = settings.server_clip

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        return Contribution(result.delta, result.examples), {}

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        return model + clip(aggregate.mean, self.server_clip), state
