"""Moving pictures out of numbers: a patterned backdrop and a few coloured discs on their ways
across it.

Every clip is a closed form of its number: the same on every machine, different for every number,
with motion that a field of (t, y, x) can interpolate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.randomness import generator
from tasks.signals import Lattice, Signal, sampled

DISCS = 3
SOFTNESS = 0.06  # width of a disc's edge, in half picture sides


def moving_picture(number: int, frames: int, size: int, channels: int) -> Signal:
    """A clip ``[frames, size, size, channels]`` in [0, 1].

    Args:
        number: names the clip for good.
        frames: its length.
        size: side of a frame, in pixels.
        channels: 3 for RGB, 1 for grey.
    """
    draw = generator("moving picture", number)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=draw)

    shape = (frames, size, size)
    t, y, x = Lattice(shape)[torch.arange(math.prod(shape)).view(shape)].unbind(-1)
    wave = uniform(-4.0, 4.0, 2)
    phase = uniform(0, 2 * math.pi)
    stripes = torch.sin(wave[0] * y + wave[1] * x + phase + 0.6 * t)[..., None]
    dark = uniform(0.05, 0.5, channels)
    light = uniform(0.4, 0.95, channels)
    picture = dark + (light - dark) * (0.5 + 0.5 * stripes)
    for _ in range(DISCS):
        centre = uniform(-0.6, 0.6, 2)
        speed = uniform(-0.5, 0.5, 2)
        bend = uniform(0.0, 0.25, 2)
        turn = uniform(0, 2 * math.pi)
        radius = uniform(0.15, 0.4)
        colour = uniform(0.0, 1.0, channels)
        row = centre[0] + speed[0] * t + bend[0] * torch.sin(math.pi * t + turn)
        column = centre[1] + speed[1] * t + bend[1] * torch.cos(math.pi * t + turn)
        inside = torch.sigmoid((radius - torch.hypot(y - row, x - column)) / (SOFTNESS / 4))[
            ..., None
        ]
        picture = picture + (colour - picture) * inside
    return sampled(f"moving {number}", picture.clamp(0, 1))
