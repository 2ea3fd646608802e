"""Signals: what neural fields are fitted to, as samples of a function, and who holds them.

A pixel, a voxel of a clip or a ray is an input; the colour seen there is its value. A field is adapted on a signal's
*support* samples and judged on its *query* samples: for a picture or a clip both are all of it (as in FedMeNF's image
experiments), for an object they are the pixels of different views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.randomness import generator


class Samples(NamedTuple):
    """``inputs [N, in]`` and ``values [N, channels]`` in [0, 1]."""

    inputs: Tensor
    values: Tensor


@dataclass(frozen=True)
class Signal:
    """One picture, clip or object. ``shape``: how the query values are arranged, ``[..., H, W, channels]``."""

    name: str
    support: Samples
    query: Samples
    shape: tuple[int, ...]

    @property
    def truth(self) -> Tensor:
        """The query values as a picture ``[H, W, channels]`` or several ``[n, H, W, channels]``."""
        return self.query.values.view(self.shape)

    @property
    def whole(self) -> bool:
        """Whether support and query are the same samples."""
        return self.query is self.support

    def halved(self) -> Signal:
        """The signal with a random half of its support to adapt on and the other half to be judged on."""
        count = len(self.support.values)
        order = torch.randperm(count, generator=generator("held-out half", self.name, count))
        seen, unseen = order[: count // 2], order[count // 2 :]
        parts = [Samples(self.support.inputs[index], self.support.values[index]) for index in (seen, unseen)]
        return Signal(self.name, parts[0], parts[1], tuple(parts[1].values.shape))


@dataclass(frozen=True)
class Holding:
    """What one client holds: one signal or several of the same shape. Satisfies :class:`tasks.types.ClientData`."""

    name: str
    signals: tuple[Signal, ...]

    @property
    def examples(self) -> int:
        """Its weight in an average: how many signals."""
        return len(self.signals)

    @property
    def parts(self) -> int:
        """How many pictures, clips or objects are stacked in ``truth``: each is scored on its own."""
        return len(self.signals)

    @cached_property
    def truth(self) -> Tensor:
        """The truth of its only signal, or those of all of them stacked in front."""
        first = self.signals[0].truth
        return first if len(self.signals) == 1 else torch.stack([signal.truth for signal in self.signals])


def grid(shape: Sequence[int]) -> Tensor:
    """Coordinates ``[prod(shape), len(shape)]`` of a regular grid, each axis from -1 to 1, last axis fastest."""
    axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(math.prod(shape), len(shape))


def sampled(name: str, values: Tensor) -> Signal:
    """The signal of a picture ``[H, W, channels]`` or clip ``[T, H, W, channels]`` in [0, 1]: all of it."""
    samples = Samples(grid(values.shape[:-1]), values.reshape(-1, values.shape[-1]).contiguous())
    return Signal(name, samples, samples, tuple(values.shape))
