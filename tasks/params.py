"""Parameters as vectors, cohorts as matrices.

A model's parameters are one vector ``[P]``; those of a cohort of C clients are one matrix ``[C,
P]``. Rules, releases and learners do their algebra on these (a step, a norm or a clip of a whole
cohort is one operation); only a task looks inside, through the views that :class:`Layout` gives
without copying.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Places of named tensors in a flat vector: ``entries`` is ``((name, shape, offset), ...)``."""

    entries: tuple[tuple[str, tuple[int, ...], int], ...]
    size: int

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """Lay tensors of the given shapes one after another, in the mapping's order."""
        entries = []
        offset = 0
        for name, shape in shapes.items():
            entries.append((name, tuple(shape), offset))
            offset += math.prod(shape)
        return cls(tuple(entries), offset)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Named views of ``vector [..., P]``, each ``[..., *shape]``; writing to a view writes to
        the vector."""
        lead = vector.shape[:-1]
        return {
            name: vector[..., offset : offset + math.prod(shape)].view(*lead, *shape)
            for name, shape, offset in self.entries
        }

    def flatten(self, params: Mapping[str, Tensor]) -> Tensor:
        """The vector ``[..., P]`` of named tensors ``[..., *shape]`` (a copy)."""
        import torch

        parts = []
        for name, shape, _ in self.entries:
            tensor = params[name]
            lead = tensor.shape[: tensor.dim() - len(shape)]
            parts.append(tensor.reshape(*lead, math.prod(shape)))
        return torch.cat(parts, dim=-1)


def is_finite(vector: Tensor) -> bool:
    """Whether a vector holds neither NaN nor infinity.

    Either makes the sum not finite, and summing is several times faster than looking at each
    number; a sum that merely overflowed is told apart by looking after all.
    """
    import torch

    return bool(torch.isfinite(vector.sum())) or bool(torch.isfinite(vector).all())


def norms(rows: Tensor) -> Tensor:
    """L2 norm of each row: ``[C, P] -> [C, 1]``."""
    import torch

    return torch.linalg.vector_norm(rows, dim=-1, keepdim=True)


def clip_factor(norm: Tensor, limit: float) -> Tensor:
    r"""The factor in (0, 1] that brings a vector of the given norm to at most ``limit``.

    .. math:: c = \frac{C}{\max(C, \lVert g \rVert)}

    ``limit = 0`` means no clipping (factor 1). Differentiable in ``norm`` where the clip is active.
    """
    return (
        norm.new_ones(norm.shape)
        if limit == 0
        else constant(limit, norm.dtype, norm.device) / norm.clamp(min=limit)
    )


@lru_cache(maxsize=64)
def constant(value: float | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor, made once: for operations that would make it anew each time they are
    given a number."""
    import torch

    return torch.tensor(value, dtype=dtype, device=device)


def scaled_bmm(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``scale * bmm(a, b)`` in one product (what it would add to is multiplied by zero)."""
    return a.bmm(b) if scale == 1.0 else a.new_empty(()).baddbmm(a, b, beta=0, alpha=scale)


def clip(rows: Tensor, limit: float) -> Tensor:
    """Each row of ``[C, P]`` scaled to L2 norm at most ``limit`` (0: unchanged).

    Where the squares of a row overflow in single precision its norm is taken in double: by an
    infinite one it would become zero, and its client would count without adding anything.
    """
    import torch

    if limit == 0:
        return rows
    norm = norms(rows)
    factor = clip_factor(norm, limit)
    if rows.dtype == torch.float32:
        wide = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float64)
        factor = torch.where(torch.isinf(norm), clip_factor(wide, limit).float(), factor)
    return rows * factor
