"""Recordings: the files they lie in and, once decoded, frames and their sound at fixed rates."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

RATE = 16_000  # samples per second
FPS = 25  # frames per second
SAMPLES_PER_FRAME = RATE // FPS
REASONS = ("unreadable", "no video", "no audio", "silent", "too short")


class Recording(NamedTuple):
    """One video file; ``audio`` is a sound file that replaces its own track; ``name`` is its path
    below the folder it was listed in."""

    path: Path
    audio: Path | None
    name: str


class Clip(NamedTuple):
    """``frames [T, H, W, 3]`` in [0, 1] at 25 per second, ``audio [T * 640]`` in [-1, 1] at 16 kHz,
    from the same start.

    ``opening [T]`` in [0, 1] is how far the mouth is open where that is known (parametric people),
    else ``None``.
    """

    name: str
    frames: Tensor
    audio: Tensor
    opening: Tensor | None = None


class UnusableClipError(Exception):
    """A recording that cannot become a clip; ``reason`` is one of :data:`REASONS`."""

    def __init__(self, reason: str, path: Path, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))


def is_silent(audio: Tensor, threshold: float = 1e-3) -> bool:
    """Whether the root mean square of the sound is below ``threshold`` (-60 dB of full scale)."""
    return bool(audio.square().mean().sqrt() < threshold) if audio.numel() else True
