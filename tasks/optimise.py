r"""Adam on a matrix of clients: each row ``[P]`` is its own problem, all are stepped at once.

*Decoupled Weight Decay Regularization*, I. Loshchilov, F. Hutter, ICLR 2019,
https://arxiv.org/abs/1711.05101.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Adam:
    r"""Moments of one run of steps.

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) g, \qquad
        v \leftarrow \beta_2 v + (1-\beta_2) g^2 \\
        d &= \eta\, \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}
    """

    def __init__(
        self, rate: float, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        self.rate = rate
        self.betas = betas
        self.epsilon = epsilon
        self.steps = 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None

    def direction(self, gradient: Tensor) -> Tensor:
        """The step d, to be subtracted from the parameters, for ``gradient`` of any shape (the same
        in every call)."""
        if self.first is None or self.second is None:
            self.first = torch.zeros_like(gradient)
            self.second = torch.zeros_like(gradient)
        self.steps += 1
        one, two = self.betas
        self.first.lerp_(gradient, 1 - one)
        self.second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        mean = self.first / (1 - one**self.steps)
        root = (self.second / (1 - two**self.steps)).sqrt_().add_(self.epsilon)
        return self.rate * mean / root
