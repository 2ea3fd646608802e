"""Counts and growth rows of ``fedapp bench fields``: launches, waits, exponents, memory."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sim.bench.fields_problem import MAML, Problem, batched, images, objects
from sim.bench.loops import CLIP, INNER_STEPS, RATE
from sim.bench.rows import Row, at_most
from sim.bench.timing import interleaved
from strategies.local.meta import Meta
from tasks.fields.radiance import Radiance, prepare_each
from tasks.types import Batch, Episode

FREE = frozenset(  # operations that launch nothing
    (
        *("view", "_unsafe_view", "transpose", "t", "slice", "expand", "as_strided", "unsqueeze"),
        *("squeeze", "select", "permute", "alias", "detach", "split", "unbind", "reshape"),
        *("new_empty", "empty", "empty_like", "lift_fresh"),
    )
)
SYNCS = ("_local_scalar_dense", "item", "equal", "is_nonzero")
MOST_LAUNCHES = 1000
MOST_MEGABYTES = 1000
MOST_EXPONENT = 1.05


def measure(quick: bool) -> Iterator[Row]:
    """Rows of all counts and growths; ``quick`` takes smaller cohorts."""
    for problem in (
        images(64, 3, 4, 64),
        images(64, 3, 32, 64),
        images(256, 5, 4, 128),
        objects(128, 4, 2, 64, 16),
    ):
        found = launches(problem)
        yield at_most(
            f"kernel launches of an outer step, {problem.name}",
            "launches",
            found.total,
            MOST_LAUNCHES,
        )
        yield at_most(
            f"host synchronisations of an outer step, {problem.name}",
            "syncs + 1",
            found.syncs + 1,
            1,
        )
    yield from _exponents(quick)
    yield at_most(
        "memory growth of a cohort, SIREN 5×256, C = 128", "MB", _memory(), MOST_MEGABYTES
    )


class Launched(NamedTuple):
    """Operations a GPU would launch, and those the host would wait for."""

    total: int
    syncs: int


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def launches(problem: Problem, gamma: float = 0.75) -> Launched:
    """Operations of one FedMeNF step of the whole cohort."""
    learner = Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0, gamma=gamma)
    episode = problem.episode
    rows = [*episode.support, episode.query]
    batches = Batch(torch.stack([b.inputs for b in rows]), torch.stack([b.targets for b in rows]))
    with _Counter() as counter:
        if isinstance(problem.field, Radiance):  # as tasks do before a step
            prepared = prepare_each(problem.field, batches)
            episode = Episode(prepared[:-1], prepared[-1])
        learner.step(problem.derivatives, problem.params, episode)
    total = sum(number for name, number in counter.calls.items() if name not in FREE)
    return Launched(total, sum(counter.calls[name] for name in SYNCS))


def _exponents(quick: bool) -> Iterator[Row]:
    """Exponents p of t = a x^p between a small and a large size."""

    def seconds(problem: Problem) -> float:
        (least,) = interleaved(batched(problem, MAML), repeats=6 if quick else 12, unheeded=1)
        return least

    few = 16 if quick else 32
    many = 64 if quick else 256
    growth = seconds(images(64, 3, many, 64)) / seconds(images(64, 3, few, 64))
    yield at_most(
        f"exponent of time in clients, {few} to {many}, SIREN 3×64",
        "p",
        math.log(growth) / math.log(many / few),
        MOST_EXPONENT,
    )
    small = images(128, 5, 8, 128)
    large = images(256, 5, 8, 128)
    growth = seconds(large) / seconds(small)
    yield at_most(
        "exponent of time in parameters, SIREN 5×128 to 5×256",
        "p",
        math.log(growth) / math.log(large.field.layout.size / small.field.layout.size),
        MOST_EXPONENT,
    )


def _memory() -> float:
    """MB by which a process grows while it takes one outer step of 128 clients (5×256, K = 8)."""
    code = "from sim.bench.fields_growth import grown; print(grown(128))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def grown(clients: int) -> float:
    """MB between what this process holds and the most it held while the cohort took a step
    (Linux)."""
    torch.set_num_threads(1)
    ours = batched(images(256, 5, clients, 128), MAML)
    batched(images(256, 5, 1, 128), MAML)()  # libraries warm up
    Path("/proc/self/clear_refs").write_text(
        "5", encoding="utf-8"
    )  # the high-water mark starts anew from here
    before = _status("VmRSS")
    ours()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
