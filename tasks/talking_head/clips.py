"""What a person's recordings are, once decoded: frames, the sound that belongs to them, a reference
picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

RATE = 16_000  # samples a second
FPS = 25  # frames a second
SAMPLES_PER_FRAME = RATE // FPS


class Clip(NamedTuple):
    """``frames [T, H, W, 3]`` in [0, 1] at 25 a second, ``audio [T * 640]`` in [-1, 1] at 16 kHz,
    from the same start.

    ``opening [T]`` in [0, 1] is how far the mouth is open where that is known (parametric people),
    else ``None``.
    """

    name: str
    frames: Tensor
    audio: Tensor
    opening: Tensor | None = None


class Person(NamedTuple):
    """One client's recordings. ``reference [H, W, 3]`` comes from a clip that is in neither
    list."""

    name: str
    reference: Tensor
    train: Sequence[Clip]
    held_out: Sequence[Clip]
    voice: Tensor | None = None

    @property
    def examples(self) -> int:
        """Clips that are trained on: the client's weight in an average."""
        return len(self.train)
