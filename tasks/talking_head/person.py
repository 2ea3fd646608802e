"""One person's recordings, as a talking head is fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from tasks.data.recordings.clips import Clip


class Person(NamedTuple):
    """One client's recordings. ``reference [H, W, 3]`` comes from a clip that is in neither
    list."""

    name: str
    reference: Tensor
    train: Sequence[Clip]
    held_out: Sequence[Clip]

    @property
    def examples(self) -> int:
        """Clips that are trained on: the client's weight in an average."""
        return len(self.train)
