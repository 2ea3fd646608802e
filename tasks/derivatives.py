"""First and second derivatives of a per-client loss: by automatic differentiation, by hand,
compiled.

:class:`Autograd` is the reference for hand-written ones (``tasks/fields/siren.py``) and what a task
of your own gets for free. The loss is written for stacked parameters ``[C, P]`` and returns
``[C]``; since row c of the loss depends on row c of the parameters alone, the gradient of the sum
is the stack of the clients' gradients, in one backward pass.
"""

from __future__ import annotations

import os
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tasks.errors import InputError
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
            (product,) = torch.autograd.grad(
                gradient, point, grad_outputs=vector, allow_unused=True
            )
            return torch.zeros_like(vector) if product is None else product

        return Linearised(loss.detach(), gradient.detach(), hvp)


class ByHand(ABC):
    """:class:`tasks.types.Derivatives` written out: a field gives :meth:`evaluate` and
    :meth:`product`, no graph."""

    def prepare(self, batch: Any) -> Any:
        """A batch with all done that needs no parameters."""
        return batch

    @abstractmethod
    def evaluate(self, params: Tensor, batch: Any) -> tuple[Tensor, Tensor, Any]:
        """``(loss [C], gradient [C, P], what a second derivative needs)`` at ``params [C, P]``."""

    @abstractmethod
    def product(self, params: Tensor, vector: Tensor, batch: Any, tape: Any) -> Tensor:
        """The Hessian-vector product ``[C, P]``.

        Args:
            params: the point, ``[C, P]``.
            vector: the direction, ``[C, P]``.
            batch: as :meth:`prepare` left it.
            tape: as :meth:`evaluate` left it at the same point.
        """

    @torch.no_grad()
    def gradient(self, params: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        loss, gradient, _ = self.evaluate(params, self.prepare(batch))
        return loss, gradient

    @torch.no_grad()
    def linearise(self, params: Tensor, batch: Any) -> Linearised:
        prepared = self.prepare(batch)
        loss, gradient, tape = self.evaluate(params, prepared)

        @torch.no_grad()
        def hvp(vector: Tensor) -> Tensor:
            return self.product(params, vector, prepared, tape)

        return Linearised(loss, gradient, hvp)


def chosen(written: ByHand, compiled: bool) -> ByHand:
    """As they are, or compiled."""
    return Compiled(written) if compiled else written


class Compiled(ByHand):
    """The same as machine code made for each size of batch (``torch.compile``): slow at first,
    quicker then.

    The step is compiled, not the loop over steps, so its cost does not depend on K, and no graph is
    differentiated twice (which ``torch.compile`` cannot). Batches whose size changes from step to
    step (kept samples) are left alone.
    """

    def __init__(self, written: ByHand) -> None:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise InputError(
                "field.compiled",
                True,
                f"there is no C++ compiler {compiler!r} on this machine",
                "install one (Debian: apt install g++), or set field.compiled to false",
            )
        warnings.filterwarnings("ignore", message=".*lru_cache.*")  # constants, which never change
        self.written = written
        self._evaluate = torch.compile(written.evaluate, dynamic=False)
        self._product = torch.compile(written.product, dynamic=False)

    def prepare(self, batch: Any) -> Any:
        return self.written.prepare(batch)

    def evaluate(self, params: Tensor, batch: Any) -> tuple[Tensor, Tensor, Any]:
        return (self.written.evaluate if _ragged(batch) else self._evaluate)(params, batch)

    def product(self, params: Tensor, vector: Tensor, batch: Any, tape: Any) -> Tensor:
        return (self.written.product if _ragged(batch) else self._product)(
            params, vector, batch, tape
        )


def _ragged(batch: Any) -> bool:
    return getattr(batch, "ragged", False)
