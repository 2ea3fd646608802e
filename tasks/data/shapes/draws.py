"""Plain numbers and colours from one named stream: how an object gets its measures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TypeVar

import torch

from tasks.randomness import generator

Choice = TypeVar("Choice")
Colour = tuple[float, float, float]  # RGB in [0, 1]


class Draws:
    """Numbers in the order they are asked for; the same key gives the same ones anywhere."""

    def __init__(self, *key: object) -> None:
        self._stream = generator(*key)

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * float(
            torch.rand((), generator=self._stream, dtype=torch.float64)
        )

    def chance(self, share: float) -> bool:
        """True with probability ``share``."""
        return self.between(0, 1) < share

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One of the choices, all equally likely."""
        return choices[int(torch.randint(len(choices), (), generator=self._stream))]

    def tint(
        self, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
    ) -> Colour:
        """A colour uniform in ranges of hue (in turns, 0 is red), saturation and value, each in [0,
        1]."""
        return colorsys.hsv_to_rgb(
            self.between(*hue) % 1, self.between(*saturation), self.between(*value)
        )

    def near(self, colour: Colour, spread: float) -> Colour:
        """``colour`` times one factor within 1 -/+ ``spread``, kept in [0, 1]."""
        factor = self.between(1 - spread, 1 + spread)
        red, green, blue = (min(1.0, channel * factor) for channel in colour)
        return red, green, blue
