"""A plug-in author's neural field of sound, from CONTRIBUTING's "A neural field needs less" alone.

A client holds a chord, its field maps time to amplitude, and nothing about it is a picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.data.sources import Procedural
from tasks.derivatives import Autograd
from tasks.fitting import FieldTask
from tasks.params import Layout
from tasks.randomness import generator
from tasks.settings import TaskSettings
from tasks.signals import Signal, sampled
from tasks.types import Batch

LENGTH = 96  # samples of a chord
PARTIALS = 12  # sine waves in a field
HIGHEST = 12.0  # half periods in a chord, at most


def chord(number: int) -> Signal:
    """Sound ``number``: three decaying sine waves, ``[LENGTH, 1]`` with silence at one half."""
    draw = generator("chord", number)
    pitch = 2 + (HIGHEST - 2) * torch.rand(3, generator=draw)
    phase = 2 * math.pi * torch.rand(3, generator=draw)
    time = torch.linspace(0, 1, LENGTH)[:, None]
    waves = torch.sin(math.pi * pitch * time + phase) * torch.exp(-time)
    return sampled(f"chord {number}", 0.5 + waves.mean(1, keepdim=True) / 2)


class Partials:
    r"""Sine waves of learned pitch: :math:`y(t) = \tfrac12 + \sum_k a_k \sin(w_k t + p_k)`."""

    bounded = False  # nothing keeps the sum in the data range

    def __init__(self) -> None:
        self.layout = Layout.of(dict.fromkeys(("amplitude", "pitch", "phase"), (PARTIALS,)))

    def init(self, generator: torch.Generator) -> Tensor:
        start = torch.rand(self.layout.size, generator=generator)
        named = self.layout.unflatten(start)
        named["amplitude"].mul_(0.05)
        named["pitch"].mul_(math.pi * HIGHEST / 2)  # the axis is two long, from -1 to 1
        named["phase"].mul_(2 * math.pi)
        return start

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        return 4 * (inner_steps + 1) * (8 * batch_size * PARTIALS + 2 * self.layout.size)

    def __call__(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], inputs [C, B, 1] -> [C, B, 1]``."""
        named = {name: part[:, None] for name, part in self.layout.unflatten(params).items()}
        waves = named["amplitude"] * torch.sin(inputs * named["pitch"] + named["phase"])
        return 0.5 + waves.sum(-1, keepdim=True)

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        return (self(params, batch.inputs) - batch.targets).square().mean((1, 2))


class AudioTask(FieldTask):
    """One chord per client."""

    def __init__(self, settings: TaskSettings) -> None:
        field = Partials()
        super().__init__(field, Autograd(field.loss), Procedural(settings.data, chord))
