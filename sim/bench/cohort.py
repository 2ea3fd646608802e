"""``fedapp bench cohort``: gain of packing clients into cohorts, in rounds and in training."""

from __future__ import annotations

from collections.abc import Iterator

from sim.bench import rounds, trainer
from sim.bench.rows import Row


def measure(quick: bool) -> Iterator[Row]:
    """Trainer rows first: they take seconds."""
    yield from trainer.measure(quick)
    yield from rounds.measure(quick)
