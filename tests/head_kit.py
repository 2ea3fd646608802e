"""A tiny talking head for tests: its model, a batch of parametric people, adapters that moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tasks.settings import TalkingHeadSettings
from tasks.talking_head import people
from tasks.talking_head.adapters import PERSONAL, SHARED
from tasks.talking_head.backbone import Backbone
from tasks.talking_head.encoding import draw, encode
from tasks.talking_head.model import HeadModel, Noised

CPU = torch.device("cpu")


def model_of(folder: Path, **settings: Any) -> HeadModel:
    return HeadModel(Backbone.load(folder), TalkingHeadSettings(**settings), CPU)


def batch_of(model: HeadModel, clients: int, frames: int = 4) -> Noised:
    cohort = [
        encode(people.person(0, n, "ordinary", 2, 1, 4, 16), model.backbone.codec, CPU)
        for n in range(clients)
    ]
    keys = [("test", n) for n in range(clients)]
    return draw(cohort, keys, 1, 1, frames, model.settings.window, model.alphas).batch(0, 0)


def moved(model: HeadModel, clients: int, both: bool = False) -> torch.Tensor:
    start = torch.cat(
        [model.adapters.start(SHARED), model.adapters.start(PERSONAL)]
        if both
        else [model.adapters.start(SHARED)]
    )
    generator = torch.Generator().manual_seed(1)
    return start + 0.3 * torch.randn(clients, len(start), generator=generator)
