r"""ISFA: identity-stable federated aggregation, with the reliability weight inside the sum.

*PrivFedTalk: Privacy-Aware Federated Diffusion with Identity-Stable Adapters for Personalized
Talking-Head Generation*, 2026, https://arxiv.org/abs/2604.08037.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from strategies.rule import RunFacts
from strategies.rules.fedavg import FedAvg
from strategies.types import Broadcast, Contribution, LocalResult, Memory
from tasks.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class IsfaSettings(Settings):
    alpha: float = Field(0.7, ge=0, le=1, description="share of identity consistency in the score")
    gamma: float = Field(0.5, ge=0, le=20, description="how sharply the score weighs; 0 is FedAvg")
    max_examples: int = Field(
        0,
        ge=0,
        description="N, examples beyond which more do not count; 0: what the task gives nobody "
        "more of",
    )
    attendance: float = Field(
        1.0,
        gt=0,
        le=1,
        description="chance with which a client that did perfectly still trains; distributed-dp "
        "only",
    )


class Isfa(FedAvg):
    r"""FedAvg with weights that each device computes for itself and that leave it only inside the
    sum.

    .. math:: s_k = \alpha\, \mathrm{ID}_k + (1 - \alpha)\, \mathrm{TS}_k, \qquad
        a_k = \frac{\min(n_k, N)}{N} \exp(\gamma (s_k - 1)) \in [0, 1], \qquad
        w \leftarrow w + \frac{\sum_k a_k \Delta_k}{\sum_k a_k}

    ID and TS are the client's identity consistency and temporal stability in [0, 1] on clips it did
    not train on. The published rule sends scores and counts to the server, which normalises
    :math:`n_k e^{\gamma s_k}` over the cohort: the same mean, since the common factor
    :math:`e^{-\gamma}/N` cancels, but then one client's data move every other client's weight. Here
    :math:`a_k` is bounded by 1 whatever others do, so a release can mask it and account for it
    (under noise the denominator is public; see ``privacy/joint.py``). N =
    ``rules.isfa.max-examples``.

    *Adaptive participation* (``rules.isfa.attendance`` = q < 1): a drawn client whose last score
    was s trains only with probability :math:`p = q + (1 - q)(1 - s)` and then counts :math:`a\, q/p
    \le 1`, which keeps the sum's expectation (times q). Otherwise it adds zero. The coin is no
    secret and a server may choose it, so that a sum could hold one client alone: this is only for
    releases whose nodes add the noise, whose guarantee does not depend on who trained. Absence
    shows in how long a node takes: it is not covered.
    """

    signals = ("identity", "stability")
    attends = True  # an instance: only if its attendance is below 1

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.alpha = settings.isfa.alpha
        self.gamma = settings.isfa.gamma
        self.most = settings.isfa.max_examples
        self.least = settings.isfa.attendance
        self.attends = self.least < 1
        self.memory_sizes = {"score": 1} if self.attends else {}

    @classmethod
    def configured(cls, settings: Any, facts: RunFacts) -> Isfa:
        most = settings.isfa.max_examples or facts.most_examples
        own = settings.isfa.model_copy(update={"max_examples": most})
        return cls(settings.model_copy(update={"isfa": own}))

    def score(self, result: LocalResult) -> Tensor:
        """s ``[C]`` in [0, 1]; a signal that is not a number counts as 0."""
        known = {name: result.signals[name].nan_to_num(0.0).clamp(0, 1) for name in self.signals}
        return self.alpha * known["identity"] + (1 - self.alpha) * known["stability"]

    def attendance(self, memory: Memory) -> Tensor:
        """p ``[C]``: the chance with which each drawn client trains; 1 for those who never did."""
        return self.least + (1 - self.least) * (1 - memory["score"][:, 0])

    def weight(self, result: LocalResult) -> Tensor:
        """a ``[C]`` in [0, 1]."""
        score = self.score(result)
        share = result.examples.clamp(max=self.most) / self.most if self.most else 1.0
        return share * (self.gamma * (score - 1)).exp()

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        weight = self.weight(result)
        if not self.attends:
            return Contribution(result.delta, weight, largest=1.0), {}
        weight = weight * self.least / self.attendance(memory)
        return Contribution(result.delta, weight, largest=1.0), {
            "score": self.score(result)[:, None]
        }
