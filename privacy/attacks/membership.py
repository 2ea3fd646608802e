"""Loss-threshold membership inference: members' losses are lower if members are fitted better.

*Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting*, S. Yeom, I. Giacomelli,
M. Fredrikson, S. Jha, CSF 2018, https://arxiv.org/abs/1709.01604: the cheap test. A low score here
is no proof of privacy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def auc(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Probability that a member's loss is below a non-member's (ties count half); 0.5 is chance."""
    less = (members[:, None] < others[None, :]).mean()
    equal = (members[:, None] == others[None, :]).mean()
    return float(less + equal / 2)


def power_at(
    members: NDArray[np.float64], others: NDArray[np.float64], false_positives: float
) -> float:
    """Share of members found by the loss threshold that calls at most this share of non-members
    members."""
    allowed = int(np.floor(false_positives * len(others)))
    threshold = np.sort(others)[allowed] if allowed < len(others) else np.inf
    return float((members < threshold).mean())
