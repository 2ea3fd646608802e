"""Benchmarks: ours and a reference side by side in one run, reported as ratios, outputs compared
first, with the machine's own limit beside them.

``BENCHMARKS`` maps a name to a generator of rows (:class:`sim.bench.rows.Row`).
"""

from __future__ import annotations

import os
import platform
from typing import Any

BENCHMARKS: dict[str, str] = {
    "cohort": "sim.bench.cohort:measure",
    "secagg": "sim.bench.secagg:measure",
    "talking-head": "sim.bench.talking_head:measure",
    "fields": "sim.bench.fields:measure",
    "methods": "fedapp.studies.matrix:measure",
    "head": "fedapp.studies.heads:measure",
    "split-nerf": "fedapp.studies.split_speed:measure",
}


def machine() -> dict[str, Any]:
    """Machine and versions that stand beside the figures."""
    import torch

    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "processor": platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
