"""The batched trainer on every field, against two loops: CPU seconds of a client's outer step, side
by side.

Rows named "published" compare with the loop that works as the release of FedMeNF does (graph,
coordinates and rays built anew for every batch, one client at a time), rows named "lean" with plain
autograd on batches at hand. Each side is called in turn in this process, on one thread unless the
row says two; gradients agree first. The limit is the time of the step's matrix products alone.
``bf16`` rows let matrix products use bfloat16 arithmetic on float32 tensors
(``runtime.matmul-precision = medium``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sim.bench import empty, fields_growth
from sim.bench.fields_problem import MAML, Problem, bare_products, batched, images, objects
from sim.bench.loops import CLIP, RATE, Inner, as_published, lean
from sim.bench.rows import Row, row, unmeasured
from sim.bench.timing import interleaved
from sim.bench.trainer import agree
from sim.bench.whole import end_to_end
from tasks.derivatives import Compiled
from tasks.errors import InputError

EXACT = 1e-3  # largest relative difference of two meta-gradients in float32
COARSE = 0.1  # the same where one side multiplies in bfloat16

Targets = dict[tuple[int, str], float]  # (threads, precision) -> ratio to the published loop


def measure(quick: bool) -> Iterator[Row]:
    """All rows; ``quick`` shrinks cohorts and takes each measurement half as often."""
    threads = torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    repeats = 3 if quick else 6
    problems: list[tuple[Callable[[], Problem], Targets]] = [
        (
            lambda: images(64, 3, 32, 64),
            {(1, "highest"): 10.0, (1, "medium"): 15.0},
        ),
        (
            lambda: images(256, 5, 8 if quick else 16, 128),
            {
                (1, "highest"): 1.75,
                (2, "highest"): 2.4,
                (1, "medium"): 3.5,
                (2, "medium"): 4.5,
            },
        ),
        (
            lambda: objects(128, 4, 2 if quick else 8, 64, 16),
            {(1, "highest"): 1.65, (1, "medium"): 3.0},
        ),
    ]
    try:
        for build, targets in problems:
            yield from _against_loops(build(), targets, repeats)
        yield _compiled(images(64, 3, 32, 64), 10.0, repeats)
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        yield from empty.measure(repeats)
        yield from fields_growth.measure(quick)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    yield from end_to_end(quick)
    note = "not measured: this machine has no GPU (targets 40 eager, 120 compiled)"
    yield unmeasured("SIREN 5×256, C = 50, GPU", "ms/client", note)


def _against_loops(problem: Problem, targets: Targets, repeats: int) -> Iterator[Row]:
    inner = Inner(RATE, CLIP)
    ours = batched(problem, MAML)
    bare = bare_products(problem)

    def published() -> Tensor:
        return as_published(problem.field, inner, problem.params, problem.cohort)

    def leanly() -> Tensor:
        return lean(problem.field, inner, problem.params, problem.episode)

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    exact = ours()
    agree(exact, leanly(), EXACT)
    agree(exact, published(), EXACT)
    scale = 1e3 / len(problem.params)
    for (threads, precision), target in targets.items():
        torch.set_num_threads(threads)

        def mine(precision: str = precision) -> Tensor:
            torch.set_float32_matmul_precision(precision)
            found = ours()
            torch.set_float32_matmul_precision("highest")
            return found

        def nothing_else(precision: str = precision) -> None:
            torch.set_float32_matmul_precision(precision)
            bare.run()
            torch.set_float32_matmul_precision("highest")

        agree(mine(), exact, COARSE if precision == "medium" else EXACT)
        arithmetic = "fp32" if precision == "highest" else "bf16 products"
        how = f"{problem.name}, {arithmetic}, {threads} thread{'s' * (threads > 1)}"
        unit = "ms/client" if threads > 1 else "CPU ms/client"
        for name, reference, wanted in (("published", published, target), ("lean", leanly, None)):
            a, b, least = interleaved(
                mine, reference, nothing_else, repeats=repeats, wall=threads > 1
            )
            limit = bare.limit(least, scale)
            yield row(f"{how}, against {name}", unit, scale * a, scale * b, wanted, limit)


def _compiled(problem: Problem, target: float, repeats: int) -> Row:
    """``field.compiled = true`` against the published loop, where there is a compiler."""
    case = f"{problem.name}, fp32, 1 thread, compiled, against published"
    unit = "CPU ms/client"
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        derivatives = Compiled(problem.derivatives)  # type: ignore[arg-type]
    except InputError as error:
        return unmeasured(case, unit, f"not measured: {error.reason}")
    ours = batched(problem._replace(derivatives=derivatives), MAML)
    bare = bare_products(problem)
    inner = Inner(RATE, CLIP)

    def published() -> Tensor:
        return as_published(problem.field, inner, problem.params, problem.cohort)

    agree(ours(), published(), EXACT)  # compiles
    scale = 1e3 / len(problem.params)
    mine, theirs, least = interleaved(ours, published, bare.run, repeats=repeats)
    return row(case, unit, scale * mine, scale * theirs, target, bare.limit(least, scale))
