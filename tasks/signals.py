"""Signals that neural fields are fitted to, as samples of a function, and the clients' shares.

A pixel, a voxel of a clip or a ray is an input; the colour seen there is its value. A field is
adapted on a signal's *support* samples and judged on its *query* samples: for a picture or a clip
both are all of it (as in FedMeNF's image experiments), for an object they are the pixels of
different views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tasks.data.pictures import pictures_have
from tasks.randomness import generator
from tasks.types import ClientData


class Places(Protocol):
    """Inputs of N samples: listed (a tensor ``[N, in]`` is one), or worked out from their numbers
    when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """Numbers ``[...]`` -> inputs ``[..., in]``."""


@dataclass(frozen=True)
class Samples:
    """N samples of a function: their places, and what is seen there.

    ``stored [N, channels]`` holds values in [0, 1], or bytes of which 255 is 1. What comes from
    files of 8 bits is kept as bytes and places that form a pattern are not kept at all: a
    photograph costs 3 bytes per pixel, not 20 (a view, not 36).
    """

    places: Places
    stored: Tensor

    def __len__(self) -> int:
        return len(self.stored)

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The samples with the numbers ``index [...]``: inputs ``[..., in]``, values ``[...,
        channels]``."""
        return self.places[index], real(self.stored[index])

    @property
    def inputs(self) -> Tensor:
        """All inputs ``[N, in]``, made anew."""
        return self.places[torch.arange(len(self))]

    @property
    def values(self) -> Tensor:
        """All values ``[N, channels]`` in [0, 1], made anew if they are kept as bytes."""
        return real(self.stored)


def real(stored: Tensor) -> Tensor:
    """Bytes as numbers in [0, 1]; other numbers as they are."""
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored


def compact(values: Tensor) -> Tensor:
    """Values in [0, 1] as bytes if that loses nothing, else as they are."""
    found = (values * 255).round().clamp(0, 255).to(torch.uint8)
    return found if torch.equal(real(found), values) else values


@dataclass(frozen=True)
class Lattice:
    """:class:`Places` of a regular grid: each axis from -1 to 1, last axis fastest."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: Tensor) -> Tensor:
        columns = []
        for n in reversed(self.shape):
            axis = torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1)
            columns.append(axis[index % n])
            index = index // n
        return torch.stack(columns[::-1], dim=-1)


@dataclass(frozen=True)
class Signal:
    """One picture, clip, object or sound. ``shape``: how the query values are arranged, ``[..., H,
    W, channels]`` where they form pictures, ``[..., channels]`` else.

    ``views``: of how many pictures its support is made.
    """

    name: str
    support: Samples
    query: Samples
    shape: tuple[int, ...]
    views: int = 1

    @property
    def truth(self) -> Tensor:
        """The query values in their shape: a picture ``[H, W, channels]``, several ``[n, H, W,
        channels]``, or ``[n, channels]`` where they form none."""
        return self.query.values.view(self.shape)

    @property
    def pictured(self) -> bool:
        """Whether its values form a picture or several: sound, for one, does not."""
        return pictures_have(self.shape)

    @property
    def whole(self) -> bool:
        """Whether support and query are the same samples."""
        return self.query is self.support

    def halved(self) -> Signal:
        """The signal with a random half of its support to adapt on and the other half to be judged
        on."""
        count = len(self.support)
        order = torch.randperm(count, generator=generator("held-out half", self.name, count))
        seen = order[: count // 2]
        unseen = order[count // 2 :]
        parts = [Samples(*self.support.at(index)) for index in (seen, unseen)]
        return Signal(self.name, parts[0], parts[1], tuple(parts[1].stored.shape))


@dataclass(frozen=True)
class ClientSignals(ClientData):
    """Data of one client, one signal or several of the same shape."""

    name: str
    signals: tuple[Signal, ...]

    @property
    def examples(self) -> int:
        """Its weight in an average: pictures, clips, or support views of all its objects (as in
        FedMeNF's release)."""
        return sum(signal.views for signal in self.signals)

    @property
    def units(self) -> int:
        """Number of signals: the count that ``learner.steps-by-examples`` multiplies."""
        return len(self.signals)

    @property
    def parts(self) -> int:
        """Number of pictures, clips or objects stacked in ``truth``: each is scored on its own."""
        return len(self.signals)

    @property
    def truth(self) -> Tensor:
        """The truth of its only signal, or those of all of them stacked in front."""
        first = self.signals[0].truth
        return (
            first
            if len(self.signals) == 1
            else torch.stack([signal.truth for signal in self.signals])
        )


def sampled(name: str, values: Tensor) -> Signal:
    """The signal of a picture ``[H, W, channels]`` or clip ``[T, H, W, channels]`` in [0, 1]: all
    of it."""
    stored = compact(values.reshape(-1, values.shape[-1]).contiguous())
    samples = Samples(Lattice(tuple(values.shape[:-1])), stored)
    return Signal(name, samples, samples, tuple(values.shape))
