"""The batched trainer against the same meta-step called client after client with plain autograd.

The reference is the lean loop of ``sim/bench/loops.py``. Both sides run in this process,
interleaved, on one thread, in process-CPU seconds; their gradients are compared before any ratio is
printed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sim.bench.limits import chunks, products
from sim.bench.loops import Inner, lean
from sim.bench.rows import Row, row
from sim.bench.timing import interleaved
from strategies.cohort import chunk_width
from strategies.local.meta import Meta
from tasks.errors import FedappError
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.types import Batch, Episode

INNER_STEPS = 8
RATE = 0.01
CLIP = 5.0
SAMPLES = 64
TOLERANCE = 1e-4  # largest relative difference of the two meta-gradients in float32


def problem(field: Siren, clients: int) -> tuple[Tensor, Episode]:
    """Fields of their own for each client, and random batches."""
    draw = torch.Generator().manual_seed(0)
    params = torch.stack([field.init(draw) for _ in range(clients)])

    def batch() -> Batch:
        inputs = torch.rand(clients, SAMPLES, field.inputs, generator=draw) * 2 - 1
        return Batch(inputs, torch.rand(clients, SAMPLES, field.outputs, generator=draw))

    return params, Episode([batch() for _ in range(INNER_STEPS)], batch())


def split(params: Tensor, episode: Episode, width: int) -> list[tuple[Tensor, Episode]]:
    """The cohort in chunks, as the trainer runs it."""
    parts = [
        [
            Batch(*pair)
            for pair in zip(batch.inputs.split(width), batch.targets.split(width), strict=True)
        ]
        for batch in (*episode.support, episode.query)
    ]
    return [
        (rows, Episode([batches[i] for batches in parts[:-1]], parts[-1][i]))
        for i, rows in enumerate(params.split(width))
    ]


def measure(quick: bool) -> Iterator[Row]:
    """SIREN 3×64, K = 8, at C = 1, 8, 32."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        field = Siren(2, 3, 64, 3)
        learner = Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0)
        derivatives = SirenDerivatives(field)
        width = chunk_width(field.working_set(SAMPLES, INNER_STEPS), torch.device("cpu"))
        for clients, target in ((1, 1.0), (8, None), (32, 3.0)):
            params, episode = problem(field, clients)
            parts = split(params, episode, width)

            def ours(parts: list[tuple[Tensor, Episode]] = parts) -> Tensor:
                return torch.cat([learner.step(derivatives, *part).gradient for part in parts])

            def reference(params: Tensor = params, episode: Episode = episode) -> Tensor:
                return lean(field, Inner(RATE, CLIP), params, episode)

            agree(ours(), reference())
            bare = products(field.network, chunks(clients, width, [SAMPLES] * (INNER_STEPS + 1)))
            repeats = max((64 if quick else 256) // clients, 6)
            mine, theirs, least = interleaved(ours, reference, bare.run, repeats=repeats)
            case = f"meta-step, SIREN 3×64, K = {INNER_STEPS}, B = {SAMPLES}, C = {clients}"
            scale = 1e3 / clients
            yield row(
                f"{case}, one thread",
                "CPU ms/client",
                scale * mine,
                scale * theirs,
                target,
                bare.limit(least, scale),
            )
    finally:
        torch.set_num_threads(threads)


def agree(ours: Tensor, reference: Tensor, tolerance: float = TOLERANCE) -> None:
    """Raise unless the two sides compute the same gradient (largest difference over largest
    entry)."""
    difference = float((ours - reference).abs().max() / reference.abs().max())
    if not difference <= tolerance:
        raise FedappError(
            f"the two trainers differ by {difference:.2e} (tolerance {tolerance}): no ratio"
        )
