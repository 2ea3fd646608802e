"""Place and version of this checkout, and how many processors there are for it."""

import os
from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parent.parent
# Threads that wait for each other sleep. By default OpenMP's spin, which on a machine that others
# use as well takes several times the work for the same result; it is read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads of one computation that has this process for itself: all cores, or as many as
    ``OMP_NUM_THREADS`` allows."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return min(cores(), int(given)) if given.isdecimal() and int(given) else cores()


PACKAGES = ("tasks", "strategies", "privacy", "sim", "fedapp")
