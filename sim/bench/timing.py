"""Clocks of the benchmarks: several functions called in turn, so that a busy neighbour slows all of
them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def interleaved(
    *functions: Callable[[], Any], repeats: int, wall: bool = False, unheeded: int = 0
) -> list[float]:
    """Least CPU seconds of a call of each function, taken in turn.

    Args:
        functions: what to call; all are called once before any is called again.
        repeats: calls of each that count.
        wall: seconds on the wall instead of CPU seconds of this process.
        unheeded: calls of each before those that count.
    """
    clock = time.perf_counter if wall else time.process_time
    best = [float("inf")] * len(functions)
    for turn in range(-unheeded, repeats):
        for index, function in enumerate(functions):
            started = clock()
            function()
            if turn >= 0:
                best[index] = min(best[index], clock() - started)
    return best


def median_seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds on the wall of a call, after one that does not count."""
    function()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
