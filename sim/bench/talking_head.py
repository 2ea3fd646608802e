"""``fedapp bench talking-head``: our adapter steps against a plain diffusers + PEFT training loop
on the same model.

The reference is what one would write first: one client, one LoRA adapter through ``add_adapter``,
``DDPMScheduler``'s ``add_noise`` and ``get_velocity``, ``torch.optim.AdamW``; unless "cached", it
encodes its frames and its sound in every step. Both sides run in this process, interleaved, on one
thread, in CPU seconds; gradients are compared first. The limit is the denoiser's convolutions and
linear layers alone. The backbone is untrained: its speed does not depend on what it knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from sim.bench import talking_head_memory
from sim.bench.rows import Row, row, unmeasured
from sim.bench.talking_head_limit import frozen_layers
from sim.bench.talking_head_problem import FRAMES, Problem, agree, narrow_sd, small
from sim.bench.timing import interleaved

GPU_TARGET = 3.0


def measure(quick: bool) -> Iterator[Row]:
    """Steps, memory, bytes; one thread."""
    threads = torch.get_num_threads()
    repeats = 4 if quick else 12
    torch.set_num_threads(1)
    try:
        yield from _steps(repeats)
    finally:
        torch.set_num_threads(threads)
    yield from talking_head_memory.measure()
    yield from _on_gpu(repeats)


def _steps(repeats: int) -> Iterator[Row]:
    one = Problem(small, 1)
    agree(one)
    yield _compared(f"step, 1 client, {FRAMES} frames, both cached", one, True, repeats, 1.0)
    yield _compared(
        "the same, reference encodes frames and sound each step", one, False, repeats, None
    )
    wide = Problem(narrow_sd, 1, frames=2, size=256)
    case = "SD-1.5's shape at 1/8 width, 256², 2 frames, reference encodes each step"
    yield _compared(case, wide, False, max(2, repeats // 2), 1.6)
    six = Problem(small, 6)
    case = "6 clients' adapters in one grouped step"
    yield _compared(case, six, True, max(2, repeats // 3), 1.3)


def _compared(case: str, problem: Problem, cached: bool, repeats: int, target: float | None) -> Row:
    """One step of all of a problem's clients by either side, per client.

    Args:
        case: the row's name.
        problem: whose clients; their steps go on from where they are.
        cached: whether the reference has its frames and sound encoded.
        repeats: steps that count.
        target: of the ratio.
    """
    bare = frozen_layers(problem)
    ours, theirs, least = interleaved(
        problem.step, lambda: problem.reference(cached), bare.run, repeats=repeats, unheeded=1
    )
    clients = len(problem.people)
    unit = "CPU ms/client" if clients > 1 else "CPU ms"
    scale = 1e3 / clients
    return row(case, unit, scale * ours, scale * theirs, target, bare.limit(least, scale))


def _on_gpu(repeats: int) -> Iterator[Row]:
    case = "6 clients' adapters in one grouped step, GPU"
    if not torch.cuda.is_available():
        note = f"not measured: this machine has no GPU (target {GPU_TARGET:g})"
        yield unmeasured(case, "ms/client", note)
        return
    six = Problem(small, 6, device=torch.device("cuda"))

    def timed(function: Callable[[], None]) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    both = [(timed(six.step), timed(six.reference)) for _ in range(repeats + 2)][2:]
    mine, theirs = (min(times) for times in zip(*both, strict=True))
    yield row(case, "ms/client", 1e3 * mine / 6, 1e3 * theirs / 6, GPU_TARGET)
