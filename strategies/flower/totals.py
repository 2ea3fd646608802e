"""The sums of a round: one, or one of each group of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from strategies.types import Aggregate, Payload, Public


class Sum(NamedTuple):
    """A sum over nodes, and the public numbers it was made with."""

    total: Payload
    public: Public
    clients: tuple[int, ...] = ()


# round, the model that was sent, whose sums they are, and the sums as they came
Heard = Callable[[int, Tensor, list[tuple[tuple[int, ...], Tensor]]], None]


def together(parts: Sequence[Aggregate]) -> Aggregate:
    """The aggregate of several sums of one round: means weighted, sums added."""
    if len(parts) == 1:
        return parts[0]
    weight = sum(part.weight for part in parts)
    mean = torch.stack([part.mean * (part.weight / weight) for part in parts]).sum(0)
    scalars = {name: sum(part.scalars[name] for part in parts) for name in parts[0].scalars}
    return Aggregate(mean, weight, scalars, sum(part.count for part in parts))
