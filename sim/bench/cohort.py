"""``fedapp bench cohort``: what packing clients into cohorts is worth, in rounds and in
training."""

from __future__ import annotations

from collections.abc import Iterator

from sim.bench import Row, rounds, trainer


def measure(quick: bool) -> Iterator[Row]:
    """Trainer rows first: they take seconds."""
    yield from trainer.measure(quick)
    yield from rounds.measure(quick)
