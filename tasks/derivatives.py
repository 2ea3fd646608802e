"""Derivatives of any per-client loss by automatic differentiation.

The reference for hand-written ones (``tasks/fields/siren.py``) and what a task of your own gets for free. The
loss is written for stacked parameters ``[C, P]`` and returns ``[C]``; since row c of the loss depends on row c of
the parameters alone, the gradient of the sum is the stack of the clients' gradients, in one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tasks.types import Linearised

Loss = Callable[[Tensor, Any], Tensor]


class Autograd:
    """:class:`tasks.types.Derivatives` of ``loss(params [C, P], batch) -> [C]``."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def gradient(self, params: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            point = params.detach().requires_grad_()
            loss = self.loss(point, batch)
            (gradient,) = torch.autograd.grad(loss.sum(), point)
        return loss.detach(), gradient

    def linearise(self, params: Tensor, batch: Any) -> Linearised:
        with torch.enable_grad():
            point = params.detach().requires_grad_()
            loss = self.loss(point, batch)
            (gradient,) = torch.autograd.grad(loss.sum(), point, create_graph=True)

        def hvp(vector: Tensor) -> Tensor:
            if not gradient.requires_grad:  # a loss that is linear in the parameters
                return torch.zeros_like(vector)
            (product,) = torch.autograd.grad(gradient, point, grad_outputs=vector, allow_unused=True)
            return torch.zeros_like(vector) if product is None else product

        return Linearised(loss.detach(), gradient.detach(), hvp)
