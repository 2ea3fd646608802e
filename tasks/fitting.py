"""Fitting fields: the common part of image, video and radiance tasks, and of any other field's.

A task of this kind is a field, its derivatives, and a source of signals. Batches are drawn
uniformly with replacement from all samples of one signal of the client, support and query each from
their own, as in FedMeNF (https://arxiv.org/abs/2508.06301); a client with several signals takes one
at random in every outer step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.adaptation import Adaptation
from tasks.data.pictures import contact_sheet
from tasks.errors import UnusableDataError
from tasks.params import Layout
from tasks.randomness import Key, generator
from tasks.settings import EvaluationSettings
from tasks.signals import ClientSignals, Signal
from tasks.types import Batch, Derivatives, Episode, Evaluation, Trainable

# Rendering is cut into blocks of this many field evaluations, so that memory stays bounded.
SAMPLES_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 22}
WHOLE_PASS = 4096  # samples a whole pass is taken to have where memory is planned
SAMPLES_HELD = 1 << 21  # of a cohort's coming steps, looked up together


class Field(Protocol):
    """A coordinate network for a cohort. ``bounded``: its outputs cannot leave the data range."""

    bounded: bool

    @property
    def layout(self) -> Layout: ...

    def init(self, generator: torch.Generator) -> Tensor: ...

    def working_set(self, batch_size: int, inner_steps: int) -> int: ...

    def __call__(self, params: Tensor, inputs: Tensor) -> Tensor: ...


class Source(Protocol):
    """Supply of a task's signals."""

    def check(self, clients: int) -> None:
        """Look at everything once; raises :class:`InputError`."""

    def client(self, client: int) -> ClientSignals:
        """The signals of client ``client``."""

    def held_out(self) -> Sequence[Signal]:
        """Signals no client holds."""

    def non_members(self, count: int) -> Sequence[Signal]:
        """At most ``count`` signals of which no client holds any part, beyond the held-out ones if
        there are more."""


class FieldTask(Trainable):
    """One field on one source of signals.

    Args:
        field: the coordinate network.
        derivatives: of its loss.
        source: supply of the signals it is fitted to.
        evaluations: of the network per sample (samples per ray; 1 for pixels).
        jitter: whether training batches carry a random number in [0, 1) as one more input.
    """

    family = "field"
    renders = True
    whole_passes = True

    def __init__(
        self,
        field: Field,
        derivatives: Derivatives,
        source: Source,
        evaluations: int = 1,
        jitter: bool = False,
    ) -> None:
        self.field = field
        self.derivatives = derivatives
        self.source = source
        self.layout = field.layout
        self.evaluations = evaluations
        self.jitter = jitter
        self.bounded = field.bounded

    def check(self, clients: int) -> None:
        self.source.check(clients)

    def init(self, seed: int) -> Tensor:
        return self.field.init(generator("init", seed))

    def client_data(self, client: int) -> ClientSignals:
        return self.source.client(client)

    def held_out(self) -> Sequence[Signal]:
        return self.source.held_out()

    def non_members(self, count: int) -> list[ClientSignals]:
        """One to ``count`` non-members, the controls of attacks: nobody shares data with them."""
        return [ClientSignals(signal.name, (signal,)) for signal in self.source.non_members(count)]

    def episodes(
        self,
        cohort: Sequence[ClientSignals],
        keys: Sequence[Key],
        count: int,
        inner_steps: int,
        batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]:
        passes = batch_size == 0
        batch_size = batch_size or samples_of_each(cohort)
        shape = (count, inner_steps + 1, batch_size)
        draws = [
            _ClientBatches(holding, shape, key, self.jitter, passes)
            for holding, key in zip(cohort, keys, strict=True)
        ]
        width = max(1, SAMPLES_HELD // (len(cohort) * (inner_steps + 1) * batch_size))
        # The one block of steps that is looked up: the samples of all steps may be large.
        held: dict[int, Batch] = {}

        def episode(step: int) -> Episode:
            first = step - step % width
            if first not in held:
                held.clear()
                parts = zip(*(draw.steps(first, first + width) for draw in draws), strict=True)
                held[first] = Batch(*(torch.stack(part, dim=2).to(device) for part in parts))
            inputs, targets = (part[step - first] for part in held[first])  # [K + 1, C, B, ...]
            batches = self.prepared(Batch(inputs, targets))
            return Episode(batches[:-1], batches[-1])

        return episode

    def prepared(self, batches: Batch) -> Sequence[Any]:
        """Each of ``batches [K, C, B, ...]``, with all done that needs no parameters."""
        return [Batch(*pair) for pair in zip(batches.inputs, batches.targets, strict=True)]

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        return self.field.working_set(batch_size or WHOLE_PASS, inner_steps)

    @torch.no_grad()
    def predict(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], inputs [C, N, in] -> [C, N, channels]``, in blocks of bounded memory."""
        block = max(1, SAMPLES_AT_ONCE[params.device.type] // (len(params) * self.evaluations))
        return torch.cat([self.field(params, part) for part in inputs.split(block, dim=1)], dim=1)

    def render(self, params: Tensor, cohort: Sequence[ClientSignals]) -> Sequence[Tensor]:
        images = []
        for row, holding in zip(params, cohort, strict=True):
            parts = [self._seen(row, signal) for signal in holding.signals]
            images.append(torch.cat(parts).view(holding.truth.shape))
        return images

    def picture(self, data: ClientSignals | Signal, values: Tensor) -> Tensor | None:
        """``values``, arranged like ``data.truth``, as one picture ``[H, W, 1 or 3]``.

        ``None`` where the client's signals form no pictures (sound): there is nothing to look at,
        and that is no failure. The shape of ``values`` alone would not tell: of several sounds
        ``[k, n, 1]`` is what one grey picture looks like.
        """
        first = data.signals[0] if isinstance(data, ClientSignals) else data
        return contact_sheet(values) if first.pictured else None

    def _seen(self, row: Tensor, signal: Signal) -> Tensor:
        return self.predict(row[None], signal.query.inputs[None].to(row))[0].cpu()

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        return Adaptation(self, model, settings).evaluate(self.held_out(), tune)


def samples_of_each(cohort: Sequence[ClientSignals]) -> int:
    """Samples of a whole pass, which all of a cohort take together.

    Raises:
        UnusableDataError: a client holds several signals, or others than it is queried on, or not
            as many samples as the rest.
    """
    first = len(cohort[0].signals[0].support)
    for holding in cohort:
        whole = len(holding.signals) == 1 and holding.signals[0].whole
        if not whole or len(holding.signals[0].support) != first:
            raise UnusableDataError(
                "a whole pass (learner.batch-size = 0) needs one signal per client, all of one size"
            )
    return first


class _ClientBatches:
    """Batches of one client by outer step: K from the support and one from the query of one signal.

    The first steps do not depend on how many there are.

    Args:
        holding: the client's signals.
        shape: ``(outer steps, K + 1, B)``.
        key: name of the client's own random stream.
        jitter: whether samples carry a random number as one more input.
        passes: whether every batch is all samples in their order, instead of some drawn.
    """

    def __init__(
        self,
        holding: ClientSignals,
        shape: tuple[int, int, int],
        key: Key,
        jitter: bool,
        passes: bool = False,
    ) -> None:
        self.signals = holding.signals
        stream = generator(*key)
        count, batches, width = shape
        if passes:
            self.signal = torch.zeros(count, dtype=torch.long)
            self.index = torch.arange(width).expand(shape)
        elif len(self.signals) == 1 and self.signals[0].whole:
            self.signal = torch.zeros(count, dtype=torch.long)
            self.index = torch.randint(len(self.signals[0].support), shape, generator=stream)
        else:
            # One row of uniform numbers per step, the signal's own first: the others are scaled to
            # the sizes of the signal that it picks.
            numbers = torch.rand(count, batches * width + 1, generator=stream, dtype=torch.float64)
            self.signal = (
                (numbers[:, 0] * len(self.signals)).long().clamp(max=len(self.signals) - 1)
            )
            sizes = torch.tensor(
                [
                    [len(signal.support)] * (batches - 1) + [len(signal.query)]
                    for signal in self.signals
                ]
            )
            size = sizes[self.signal][..., None]  # [count, K + 1, 1]
            self.index = torch.minimum((numbers[:, 1:].view(shape) * size).long(), size - 1)
        self.offset = (
            torch.rand((*shape, 1), generator=generator("jitter", *key)) if jitter else None
        )

    def steps(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Inputs and values ``[steps, K + 1, B, ...]`` of the outer steps ``first`` to ``last``."""
        which = self.signal[first:last]
        index = self.index[first:last]
        if len(self.signals) == 1:
            inputs, values = _seen(self.signals[0], index)
        else:
            parts = [
                _seen(self.signals[int(number)], one)
                for number, one in zip(which, index, strict=True)
            ]
            inputs, values = (torch.stack(part) for part in zip(*parts, strict=True))
        if self.offset is not None:
            inputs = torch.cat([inputs, self.offset[first:last]], dim=-1)
        return inputs, values


def _seen(signal: Signal, index: Tensor) -> tuple[Tensor, Tensor]:
    """The samples ``index [..., K + 1, B]`` of a signal: the last batch is of its query."""
    if signal.whole:
        return signal.support.at(index)
    parts = [signal.support.at(index[..., :-1, :]), signal.query.at(index[..., -1:, :])]
    inputs, values = (torch.cat(part, dim=-3) for part in zip(*parts, strict=True))
    return inputs, values
