"""Benchmarks: ours and a reference side by side in one run, reported as ratios, outputs compared
first.

``BENCHMARKS`` maps a name to a generator of rows ``{case, unit, ours, reference, ratio, target}``;
``ratio`` says how many times better ours is, ``target`` what it should at least be (``None``: no
target).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from typing import Any

BENCHMARKS: dict[str, str] = {
    "cohort": "sim.bench.cohort:measure",
    "secagg": "sim.bench.secagg:measure",
    "talking-head": "sim.bench.talking_head:measure",
    "fields": "sim.bench.fields:measure",
    "methods": "fedapp.studies.matrix:measure",
}

Row = dict[str, Any]


def row(case: str, unit: str, ours: float, reference: float | None, target: float | None) -> Row:
    """A row whose ratio is reference / ours (less is better in every unit used here)."""
    ratio = None if reference is None else reference / ours
    return {
        "case": case,
        "unit": unit,
        "ours": ours,
        "reference": reference,
        "ratio": ratio,
        "target": target,
    }


def limit(case: str, unit: str, ours: float, at_most: float) -> Row:
    """A row that compares ours with a fixed limit instead of a measured reference."""
    return {
        "case": case,
        "unit": unit,
        "ours": ours,
        "reference": at_most,
        "ratio": at_most / ours,
        "target": 1.0,
    }


def missed(rows: Iterable[Row]) -> list[Row]:
    """Rows whose ratio is below their target."""
    return [
        entry for entry in rows if entry["target"] is not None and entry["ratio"] < entry["target"]
    ]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
