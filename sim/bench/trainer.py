"""The batched trainer against the same meta-step called client after client with plain autograd.

The reference is written the way one would first write it: one client's tensors, ``torch.autograd.grad`` with
``create_graph=True`` through K inner steps, the clip inside the graph. Both sides run in this process, interleaved, on
one thread, in process-CPU seconds; their gradients are compared before any ratio is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sim.bench import Row, row
from strategies.cohort import chunk_width
from strategies.local.meta import Meta
from tasks.errors import FedappError
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.types import Batch, Episode

INNER_STEPS, RATE, CLIP, SAMPLES = 8, 0.01, 5.0, 64
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
        [Batch(*pair) for pair in zip(batch.inputs.split(width), batch.targets.split(width), strict=True)]
        for batch in (*episode.support, episode.query)
    ]
    return [
        (rows, Episode([batches[i] for batches in parts[:-1]], parts[-1][i]))
        for i, rows in enumerate(params.split(width))
    ]


def one_after_another(field: Siren, params: Tensor, episode: Episode) -> Tensor:
    """MAML's gradient of each client by plain autograd: ``[C, P]``."""
    rows = []
    for client in range(len(params)):
        start = [tensor.clone().requires_grad_() for tensor in field.layout.unflatten(params[client]).values()]

        def loss(weights: list[Tensor], batch: Batch, client: int = client) -> Tensor:
            activation = batch.inputs[client]
            for index in range(0, len(weights) - 2, 2):
                activation = torch.sin(field.omega * torch.addmm(weights[index + 1], activation, weights[index].T))
            output = torch.addmm(weights[-1], activation, weights[-2].T) + 0.5
            return (output - batch.targets[client]).square().mean()

        point = start
        for batch in episode.support:
            gradients = torch.autograd.grad(loss(point, batch), point, create_graph=True)
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            factor = RATE * CLIP / norm.clamp(min=CLIP)
            point = [tensor - factor * gradient for tensor, gradient in zip(point, gradients, strict=True)]
        gradients = torch.autograd.grad(loss(point, episode.query), start)
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    return torch.stack(rows)


def measure(quick: bool) -> Iterator[Row]:
    """SIREN 3×64, K = 8, at C = 1, 8, 32."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        field = Siren(2, 3, 64, 3)
        learner = Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0)
        derivatives = SirenDerivatives(field)
        for clients, target in ((1, 1.0), (8, None), (32, 3.0)):
            params, episode = problem(field, clients)

            chunks = split(params, episode, chunk_width(field.working_set(SAMPLES, INNER_STEPS), params.device))

            def ours(chunks: list[tuple[Tensor, Episode]] = chunks) -> Tensor:
                return torch.cat([learner.step(derivatives, *chunk).gradient for chunk in chunks])

            def reference(params: Tensor = params, episode: Episode = episode) -> Tensor:
                return one_after_another(field, params, episode)

            _agree(ours(), reference())
            repeats = (64 if quick else 256) // clients or 2
            mine, theirs = _interleaved(ours, reference, max(repeats, 6))
            case = f"meta-step, SIREN 3×64, K = {INNER_STEPS}, B = {SAMPLES}, C = {clients}, one thread"
            yield row(case, "CPU ms/client", 1e3 * mine / clients, 1e3 * theirs / clients, target)
    finally:
        torch.set_num_threads(threads)


def _agree(ours: Tensor, reference: Tensor) -> None:
    difference = float((ours - reference).abs().max() / reference.abs().max())
    if not difference <= TOLERANCE:
        raise FedappError(f"the two trainers differ by {difference:.2e} (tolerance {TOLERANCE}): no ratio")


def _interleaved(a: Callable[[], Tensor], b: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """Least CPU seconds of a call of each, taken in turn."""
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        for index, function in enumerate((a, b)):
            started = time.process_time()
            function()
            best[index] = min(best[index], time.process_time() - started)
    return best[0], best[1]
