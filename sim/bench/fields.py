"""The batched trainer on every field, against two loops: CPU seconds of a client's outer step, side
by side.

Rows named "published" compare with the loop that works as the release of FedMeNF does (graph,
coordinates and rays built anew for every batch, one client at a time), rows named "lean" with plain
autograd on batches at hand. Each side is called in turn in this process, on one thread unless the
row says two; gradients agree first. ``bf16`` rows let matrix products use bfloat16 arithmetic on
float32 tensors (``runtime.matmul-precision = medium``).
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sim.bench import Row, empty, limit, row
from sim.bench.loops import CLIP, INNER_STEPS, RATE, SIDE, Holding, Inner, as_published, lean
from sim.bench.trainer import agree, interleaved, split
from sim.bench.whole import end_to_end
from strategies.cohort import chunk_width
from strategies.local.meta import Meta
from tasks.data.cameras import on_sphere
from tasks.derivatives import Compiled
from tasks.errors import InputError
from tasks.fields.radiance import Radiance, RadianceDerivatives, Space, prepare_each
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.types import Batch, Derivatives, Episode

VIEWS = 6
COARSE = 0.1  # largest relative difference that bfloat16 products may make to a meta-gradient
FREE = frozenset(
    ("view", "_unsafe_view", "transpose", "t", "slice", "expand", "as_strided", "unsqueeze", "squeeze", "select",
     "permute", "alias", "detach", "split", "unbind", "reshape", "new_empty", "empty", "empty_like", "lift_fresh")
)  # fmt: skip  # operations that launch nothing
SYNCS = ("_local_scalar_dense", "item", "equal", "is_nonzero")


class Problem(NamedTuple):
    """A field, what trains it, a cohort in both forms: batches at hand, and everything to build
    them from."""

    name: str
    field: Siren | Radiance
    derivatives: Derivatives
    params: Tensor
    episode: Episode
    cohort: list[Holding]


def images(width: int, depth: int, clients: int, samples: int) -> Problem:
    """SIRENs of their own for each client, each with a random picture."""
    field = Siren(2, 3, width, depth)
    draw = torch.Generator().manual_seed(0)
    params = torch.stack([field.init(draw) for _ in range(clients)])
    cohort = [
        Holding(
            torch.rand(SIDE, SIDE, 3, generator=draw),
            torch.randint(SIDE * SIDE, (INNER_STEPS + 1, samples), generator=draw),
        )
        for _ in range(clients)
    ]
    name = f"SIREN {depth}×{width}, B = {samples}, C = {clients}"
    return Problem(name, field, SirenDerivatives(field), params, _episode(cohort), cohort)


def objects(width: int, depth: int, clients: int, count: int, samples: int) -> Problem:
    """Radiance fields of their own for each client, each with random views from around."""
    field = Radiance(Space(2.0, 4.4, samples), width, depth)
    draw = torch.Generator().manual_seed(0)
    params = torch.stack([field.init(draw) for _ in range(clients)])
    cohort = [
        Holding(
            torch.rand(VIEWS, SIDE, SIDE, 3, generator=draw),
            torch.randint(VIEWS * SIDE * SIDE, (INNER_STEPS + 1, count), generator=draw),
            on_sphere(VIEWS, 3.2, draw), 1.4 * SIDE, torch.rand(INNER_STEPS + 1, count, generator=draw),
        )
        for _ in range(clients)
    ]  # fmt: skip
    name = f"radiance field {depth}×{width}, {count} rays × {samples}, C = {clients}"
    return Problem(name, field, RadianceDerivatives(field), params, _episode(cohort), cohort)


def _episode(cohort: list[Holding]) -> Episode:
    parts = [[holding.batch(k) for holding in cohort] for k in range(INNER_STEPS + 1)]
    batches = [
        Batch(torch.stack([b.inputs for b in row]), torch.stack([b.targets for b in row]))
        for row in parts
    ]
    return Episode(batches[:-1], batches[-1])


def batched(problem: Problem, learner: Meta) -> Callable[[], Tensor]:
    """Ours: the cohort in the chunks the trainer would run."""
    samples = problem.cohort[0].index.shape[1]
    width = chunk_width(problem.field.working_set(samples, INNER_STEPS), problem.params.device)
    chunks = split(problem.params, problem.episode, width)
    return lambda: torch.cat(
        [learner.step(problem.derivatives, *chunk).gradient for chunk in chunks]
    )


def measure(quick: bool) -> Iterator[Row]:
    """All rows; ``quick`` leaves out the large SIREN on two threads and shrinks cohorts."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    clients = 8 if quick else 32
    problems: list[tuple[Callable[[], Problem], dict[tuple[int, str], float]]] = [
        (lambda: images(64, 3, 32, 64), {(1, "highest"): 10.0, (1, "medium"): 15.0}),
        (lambda: images(256, 5, 8 if quick else 16, 128),
         {(1, "highest"): 1.75, (2, "highest"): 2.4, (1, "medium"): 3.5, (2, "medium"): 4.5}),
        (lambda: objects(128, 4, clients // 4, 64, 16), {(1, "highest"): 1.65, (1, "medium"): 3.0}),
    ]  # fmt: skip
    try:
        for build, targets in problems:
            problem = build()
            yield from _against_loops(problem, targets, 3 if quick else 6)
        yield _compiled(images(64, 3, 32, 64), 10.0, 3 if quick else 6)
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        yield from empty.measure(3 if quick else 6)
        small, wide = images(64, 3, 4, 64), images(64, 3, 32, 64)
        for problem in (small, wide, images(256, 5, 4, 128), objects(128, 4, 2, 64, 16)):
            launched = launches(problem)
            yield limit(
                f"kernel launches of an outer step, {problem.name}",
                "launches",
                launched.total,
                1000,
            )
            yield limit(
                f"host synchronisations of an outer step, {problem.name}",
                "syncs + 1",
                launched.syncs + 1,
                1,
            )
        yield from _scaling(quick)
        yield limit("memory growth of a cohort, SIREN 5×256, C = 128", "MB", _memory(), 1000)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    yield from end_to_end(quick)
    note = "not measured: this machine has no GPU (targets 40 eager, 120 compiled)"
    unknown = dict.fromkeys(("ours", "reference", "ratio", "target"))
    yield {"case": "SIREN 5×256, C = 50, GPU", "unit": "ms/client", **unknown, "note": note}


def _against_loops(
    problem: Problem, targets: dict[tuple[int, str], float], repeats: int
) -> Iterator[Row]:
    learner, inner = Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0), Inner(RATE, CLIP)
    ours = batched(problem, learner)

    def published() -> Tensor:
        return as_published(problem.field, inner, problem.params, problem.cohort)

    def leanly() -> Tensor:
        return lean(problem.field, inner, problem.params, problem.episode)

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    exact = ours()
    agree(exact, leanly(), 1e-3)
    agree(exact, published(), 1e-3)
    count = len(problem.params)
    for (threads, precision), target in targets.items():
        torch.set_num_threads(threads)

        def mine(precision: str = precision) -> Tensor:
            torch.set_float32_matmul_precision(precision)
            found = ours()
            torch.set_float32_matmul_precision("highest")
            return found

        agree(mine(), exact, COARSE if precision == "medium" else 1e-3)
        arithmetic = "fp32" if precision == "highest" else "bf16 products"
        how = f"{problem.name}, {arithmetic}, {threads} thread{'s' * (threads > 1)}"
        for name, reference, wanted in (("published", published, target), ("lean", leanly, None)):
            a, b = interleaved(mine, reference, repeats, wall=threads > 1)
            unit = "ms/client" if threads > 1 else "CPU ms/client"
            yield row(f"{how}, against {name}", unit, 1e3 * a / count, 1e3 * b / count, wanted)


def _compiled(problem: Problem, target: float, repeats: int) -> Row:
    """``field.compiled = true`` against the published loop, where there is a compiler."""
    case = f"{problem.name}, fp32, 1 thread, compiled, against published"
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        derivatives = Compiled(problem.derivatives)  # type: ignore[arg-type]
    except InputError as error:
        unknown = dict.fromkeys(("ours", "reference", "ratio", "target"))
        return {
            "case": case,
            "unit": "CPU ms/client",
            **unknown,
            "note": f"not measured: {error.reason}",
        }
    ours = batched(
        problem._replace(derivatives=derivatives), Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0)
    )
    inner, count = Inner(RATE, CLIP), len(problem.params)

    def published() -> Tensor:
        return as_published(problem.field, inner, problem.params, problem.cohort)

    agree(ours(), published(), 1e-3)  # compiles
    mine, theirs = interleaved(ours, published, repeats)
    return row(case, "CPU ms/client", 1e3 * mine / count, 1e3 * theirs / count, target)


# ---------------------------------------------------------------------- counts
class Launched(NamedTuple):
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
    """Operations of one FedMeNF step of the whole cohort that a GPU would launch, and those it
    would wait for."""
    learner, episode = Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0, gamma=gamma), problem.episode
    rows = [*episode.support, episode.query]
    batches = Batch(torch.stack([b.inputs for b in rows]), torch.stack([b.targets for b in rows]))
    with _Counter() as counter:
        if isinstance(problem.field, Radiance):  # as tasks do before a step
            prepared = prepare_each(problem.field, batches)
            episode = Episode(prepared[:-1], prepared[-1])
        learner.step(problem.derivatives, problem.params, episode)
    total = sum(number for name, number in counter.calls.items() if name not in FREE)
    return Launched(total, sum(counter.calls[name] for name in SYNCS))


# ---------------------------------------------------------------------- growth
def _scaling(quick: bool) -> Iterator[Row]:
    """Exponents p of t = a x^p between a small and a large size."""
    learner = Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0)

    def seconds(problem: Problem) -> float:
        ours = batched(problem, learner)
        ours()
        return interleaved(ours, ours, 3 if quick else 6)[0]

    few, many = (16, 64) if quick else (32, 256)
    found = math.log(seconds(images(64, 3, many, 64)) / seconds(images(64, 3, few, 64))) / math.log(
        many / few
    )
    yield limit(f"exponent of time in clients, {few} to {many}, SIREN 3×64", "p", found, 1.05)
    small, large = images(128, 5, 8, 128), images(256, 5, 8, 128)
    growth = math.log(large.field.layout.size / small.field.layout.size)
    found = math.log(seconds(large) / seconds(small)) / growth
    yield limit("exponent of time in parameters, SIREN 5×128 to 5×256", "p", found, 1.05)


def _memory() -> float:
    """MB by which a process grows while it takes one outer step of 128 clients (5×256, K = 8)."""
    code = "from sim.bench import fields; print(fields.grown(128))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def grown(clients: int) -> float:
    """MB between what this process holds and the most it held while the cohort took a step
    (Linux)."""
    torch.set_num_threads(1)
    ours = batched(images(256, 5, clients, 128), Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0))
    batched(
        images(256, 5, 1, 128), Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0)
    )()  # libraries warm up
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew from here
    before = _status("VmRSS")
    ours()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)
    )
    return int(line.split()[1]) / 1024
