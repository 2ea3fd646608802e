"""Fitting fields: what image, video and radiance tasks have in common.

A task of this kind is a field, its derivatives, and a source of signals. Batches are drawn uniformly with replacement
from all samples of one signal of the client, support and query each from their own, as in FedMeNF
(https://arxiv.org/abs/2508.06301); a client with several signals takes one at random in every outer step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.adaptation import Adaptation
from tasks.params import Layout
from tasks.randomness import Key, generator
from tasks.settings import EvaluationSettings
from tasks.signals import Holding, Samples, Signal
from tasks.types import Batch, Derivatives, Episode, Evaluation

# rendering is cut into blocks of this many field evaluations, so memory stays bounded
SAMPLES_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 22}


class Field(Protocol):
    """A coordinate network for a cohort."""

    @property
    def layout(self) -> Layout: ...

    def init(self, generator: torch.Generator) -> Tensor: ...

    def working_set(self, batch_size: int, inner_steps: int) -> int: ...

    def __call__(self, params: Tensor, inputs: Tensor) -> Tensor: ...


class Source(Protocol):
    """Where a task's signals come from."""

    def check(self, clients: int) -> None:
        """Look at everything once; raises :class:`InputError`."""

    def client(self, client: int) -> Holding:
        """What client ``client`` holds."""

    def held_out(self) -> Sequence[Signal]:
        """Signals no client holds."""


class FieldTask:
    """:class:`tasks.types.Task` and :class:`tasks.types.Rendering` for one field on one source.

    ``evaluations``: what one sample costs (samples a ray; 1 for pixels). ``jitter``: training batches carry a random
    number in [0, 1) as one more input.
    """

    def __init__(
        self, field: Field, derivatives: Derivatives, source: Source, evaluations: int = 1, jitter: bool = False
    ) -> None:
        self.field, self.derivatives, self.source = field, derivatives, source
        self.layout = field.layout
        self.evaluations, self.jitter = evaluations, jitter
        self.bounded = bool(getattr(field, "bounded", False))  # outputs cannot leave the data range

    def check(self, clients: int) -> None:
        self.source.check(clients)

    def init(self, seed: int) -> Tensor:
        return self.field.init(generator("init", seed))

    def client_data(self, client: int) -> Holding:
        return self.source.client(client)

    def held_out(self) -> Sequence[Signal]:
        return self.source.held_out()

    def episodes(
        self, cohort: Sequence[Holding], keys: Sequence[Key], count: int, inner_steps: int, batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]:  # fmt: skip
        pool, draws, jitters = _Pool(), [], []
        for holding, key in zip(cohort, keys, strict=True):
            stream = generator(*key)
            draws.append(pool.draw(holding, (count, inner_steps + 1, batch_size), stream))
            if self.jitter:
                shape = (count, inner_steps + 1, batch_size, 1)
                jitters.append(torch.rand(shape, generator=generator("jitter", *key)))
        inputs, values = pool.samples(device)
        index = torch.stack(draws, dim=2).to(device)  # [count, K + 1, C, B]
        offsets = torch.stack(jitters, dim=2).to(device) if jitters else None

        def episode(step: int) -> Episode:
            chosen = index[step]  # [K + 1, C, B]
            picked = inputs[chosen]
            if offsets is not None:
                picked = torch.cat([picked, offsets[step]], dim=-1)
            batches = self.prepared(Batch(picked, values[chosen]))
            return Episode(batches[:-1], batches[-1])

        return episode

    def prepared(self, batches: Batch) -> Sequence[Any]:
        """Each of ``batches [K, C, B, ...]``, with all done that needs no parameters."""
        return [Batch(*pair) for pair in zip(batches.inputs, batches.targets, strict=True)]

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        return self.field.working_set(batch_size, inner_steps)

    @torch.no_grad()
    def predict(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], inputs [C, N, in] -> [C, N, channels]``, in blocks of bounded memory."""
        block = max(1, SAMPLES_AT_ONCE[params.device.type] // (len(params) * self.evaluations))
        return torch.cat([self.field(params, part) for part in inputs.split(block, dim=1)], dim=1)

    def render(self, params: Tensor, cohort: Sequence[Holding]) -> Sequence[Tensor]:
        images = []
        for row, holding in zip(params, cohort, strict=True):
            parts = [self._seen(row, signal) for signal in holding.signals]
            images.append(torch.cat(parts).view(holding.truth.shape))
        return images

    def _seen(self, row: Tensor, signal: Signal) -> Tensor:
        return self.predict(row[None], signal.query.inputs[None].to(row))[0].cpu()

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        return Adaptation(self, model, settings).evaluate(self.held_out(), tune)


class _Pool:
    """The samples of a cohort laid one after another, and indices into them."""

    def __init__(self) -> None:
        self._parts: list[Samples] = []
        self._size = 0

    def add(self, samples: Samples) -> int:
        """Where these samples begin."""
        self._parts.append(samples)
        self._size += len(samples.values)
        return self._size - len(samples.values)

    def samples(self, device: torch.device) -> Samples:
        """All of them."""
        parts = self._parts
        return Samples(torch.cat([p.inputs for p in parts]).to(device), torch.cat([p.values for p in parts]).to(device))

    def draw(self, holding: Holding, shape: tuple[int, int, int], stream: torch.Generator) -> Tensor:
        """Indices ``shape = (count, K + 1, B)``: K batches from the support and one from the query of one signal a
        step. The first steps do not depend on how many there are."""
        signals = holding.signals
        if len(signals) == 1 and signals[0].whole:
            samples = signals[0].support
            start = self.add(samples)
            return torch.randint(len(samples.values), shape, generator=stream).add_(start)
        roles = [[signal.support, signal.query] for signal in signals]
        starts = torch.tensor([[self.add(samples) for samples in pair] for pair in roles])
        sizes = torch.tensor([[len(samples.values) for samples in pair] for pair in roles])
        count, batches, width = shape
        numbers = torch.rand(count, batches * width + 1, generator=stream, dtype=torch.float64)
        signal = (numbers[:, 0] * len(signals)).long().clamp(max=len(signals) - 1)
        role = torch.zeros(batches, dtype=torch.long)
        role[-1] = 1
        size, start_ = sizes[signal][:, role, None], starts[signal][:, role, None]  # [count, K + 1, 1]
        within = (numbers[:, 1:].view(shape) * size).long()
        return torch.minimum(within, size - 1) + start_
