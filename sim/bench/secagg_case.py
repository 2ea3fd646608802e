"""Cases of ``fedapp bench secagg``, and what is measured of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from privacy.secagg.graph import default_threshold, harary

NODES = (10, 20, 50, 100)
SIZES = (100_000, 1_000_000, 10_000_000)
DROPOUTS = (0.0, 0.1)
QUICK_NODES = (10, 20)
QUICK_SIZES = (100_000, 1_000_000)
FEW = 50  # nodes below which no graph is sparser than the complete one


class Case(NamedTuple):
    """One secure sum of ``size`` numbers.

    ``nodes`` of which ``gone`` vanish after sharing; ``degree`` neighbours each; ``threshold``
    holders restore a secret.
    """

    nodes: int
    gone: int
    degree: int
    threshold: int
    size: int

    @property
    def complete(self) -> bool:
        """Whether everybody is everybody's neighbour."""
        return self.degree == self.nodes - 1

    @property
    def alive(self) -> int:
        """Nodes whose vectors are in the sum."""
        return self.nodes - self.gone

    @property
    def open_pairs(self) -> int:
        """Pairs of a vanished node and a surviving neighbour (expected, where the graph is
        drawn)."""
        return self.gone * round(self.degree * self.alive / (self.nodes - 1))

    @property
    def name(self) -> str:
        graph = "complete" if self.complete else f"{self.degree}-regular"
        return f"n = {self.nodes}, d = {self.size:.0e}, {self.gone} dropped, {graph}"


class Cost(NamedTuple):
    """Seconds of one client and of the server; bytes of one client up, and down beside the
    model."""

    client: float
    server: float
    up: int
    down: int


class Clock:
    """Adds up the seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, step: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = step(*arguments)
        self.seconds += time.perf_counter() - started
        return result


def cases(quick: bool) -> Iterator[Case]:
    """The grid of the benchmark; k-regular graphs where they have fewer edges than the complete
    one."""
    for nodes in QUICK_NODES if quick else NODES:
        for size in QUICK_SIZES if quick else SIZES:
            for share in DROPOUTS:
                gone = int(nodes * share)
                yield Case(nodes, gone, nodes - 1, default_threshold(nodes), size)
                if nodes >= FEW and gone:
                    degree, threshold = harary(nodes, max(1, nodes // 20), gone)
                    yield Case(nodes, gone, degree, threshold, size)
