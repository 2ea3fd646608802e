r"""FedAdam.

*Adaptive Federated Optimization*, S. J. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J.
Konecny, S. Kumar, H. B. McMahan, ICLR 2021, https://arxiv.org/abs/2003.00295.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from strategies.rules.fedavg import FedAvg
from strategies.types import Aggregate, State

DEFAULTS = {"rate": 0.3, "beta1": 0.5, "beta2": 0.9, "tau": 0.3}


class FedAdam(FedAvg):
    r"""FedAvg whose server takes the mean update for a gradient and steps with Adam (algorithm 2).

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) \overline{\Delta}, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) \overline{\Delta}^2, \qquad
        w \leftarrow w + \eta\, \frac{m}{\sqrt{v} + \tau}

    :math:`v` starts at :math:`\tau^2` as in the paper. ``rules.options`` may set rate, beta1, beta2
    and tau. A step is not bounded by ``rules.server-clip``, which this rule does not use: it says
    so by its trait, and the contract leaves that clause out.
    """

    bounded_step = False

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        options = DEFAULTS | json.loads(settings.options)
        self.rate = float(options["rate"])
        self.beta1 = float(options["beta1"])
        self.beta2 = float(options["beta2"])
        self.tau = float(options["tau"])

    def init(self, model: Tensor) -> State:
        return {
            "first": model.new_zeros(model.shape),
            "second": model.new_full(model.shape, self.tau**2),
        }

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        first = self.beta1 * state["first"] + (1 - self.beta1) * aggregate.mean
        second = self.beta2 * state["second"] + (1 - self.beta2) * aggregate.mean.square()
        step = self.rate * first / (second.sqrt() + self.tau)
        return model + step, {"first": first, "second": second}
