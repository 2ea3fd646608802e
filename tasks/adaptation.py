r"""Test-time optimisation: the field that an unseen client gets from a shared meta-learner.

.. math::
    \phi_{k+1} = \phi_k - \lambda \, \mathrm{clip}_C(\nabla L(\phi_k, B_k)), \qquad \phi_0 = \theta

on the support of a held-out signal (all of it, or a batch of ``evaluation.batch-size``), for every
signal and every step size at once; judged on its query. Besides the table at one step size there is
a tuned one: a meta-learner is easily flattered by the step size it was trained with. It is tuned by
cross-fitting: each signal is reported at the step size that was best on average for the *other*
signals. Where support and query are the same samples, as in FedMeNF's image experiments, a second
pass adapts to a random half of them and is judged on the other half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tasks.data.pictures import contact_sheet
from tasks.metrics import load_network, lpips, mean_of, psnr, range_excess, ssim
from tasks.optimise import Adam
from tasks.params import clip
from tasks.randomness import generator
from tasks.settings import EvaluationSettings
from tasks.signals import Signal
from tasks.types import Batch, Derivatives, Evaluation

# Whole signals are large batches: more at once leave a CPU's cache.
JOBS_AT_ONCE = {"cpu": 4, "cuda": 4096}
OUTSIDE = 0.5  # mean distance from the data range, in units of that range
# dB below the constant-colour baseline, for fields whose output cannot leave the range.
BLACKOUT = 5.0
Table = dict[tuple[int, int, int], float]  # by (signal, rate index, step)


class Fitted(Protocol):
    """The parts of a field task that adaptation uses."""

    derivatives: Derivatives
    jitter: bool
    bounded: bool

    def predict(self, params: Tensor, inputs: Tensor) -> Tensor: ...


def adapt(
    derivatives: Derivatives,
    start: Tensor,
    batch: Callable[[int], Batch],
    rates: Tensor,
    steps: Sequence[int],
    limit: float,
    moments: Adam | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(k, params [N, P])`` after each ``k`` of ``steps``, all N signals in one computation.

    Args:
        derivatives: of the field's loss.
        start: parameters before the first step, ``[N, P]``.
        batch: ``batch(k)`` holds the samples of every signal that step k sees.
        rates: step size of each signal, ``[N, 1]``.
        steps: numbers of steps to report, from 0 up.
        limit: the norm that gradients are clipped to; 0: not clipped.
        moments: of Adam with rate 1, if steps are to be Adam's instead of gradient descent's.
    """
    params = start
    for step in range(max(steps) + 1):
        if step in steps:
            yield step, params
        if step < max(steps):
            _, gradient = derivatives.gradient(params, batch(step))
            step_of = clip(gradient, limit)
            params = params - rates * (moments.direction(step_of) if moments else step_of)


class Outcome(NamedTuple):
    """Renderings and their PSNR by (signal, rate index, step)."""

    renders: dict[tuple[int, int, int], Tensor]
    quality: Table


class Adaptation:
    """A shared ``model [P]`` adapted to signals it has not seen."""

    def __init__(self, task: Fitted, model: Tensor, settings: EvaluationSettings) -> None:
        self.task = task
        self.model = model
        self.settings = settings

    def evaluate(self, signals: Sequence[Signal], tune: bool) -> Evaluation:
        """PSNR and SSIM after k steps, at the fixed step size and (``tune``) at the cross-fitted
        best one."""
        settings = self.settings
        everyone = range(len(signals))
        steps = settings.step_list
        searched = settings.rate_list if tune else []
        rates = [settings.rate, *(rate for rate in searched if rate != settings.rate)]
        found = self.outcomes(signals, rates)
        excess = mean_of([range_excess(found.renders[index, 0, steps[0]]) for index in everyone])
        metrics: dict[str, Any] = {
            "psnr": self._means(found.quality, everyone),
            "ssim": {
                str(k): mean_of([ssim(found.renders[i, 0, k], signals[i].truth) for i in everyone])
                for k in steps
            },
            "lpips": self._lpips(found, signals),
            "psnr_floor_held_out": mean_of(
                [psnr(constant_colour(signal.truth), signal.truth) for signal in signals]
            ),
            "range_excess_held_out": excess,
        }
        metrics["outside_range"] = self._outside_range(metrics, str(steps[0]))
        if tune:
            choices = [rates.index(rate) for rate in searched]
            metrics["psnr_tuned"], chosen = self._tuned(found.quality, everyone, choices)
            metrics["rates_tuned"] = {
                k: [rates[pick] for pick in picks] for k, picks in chosen.items()
            }
            # Where support and query are the same samples, a field that learned them by heart
            # would score well: half of them are kept from it.
            if all(signal.whole for signal in signals):
                unseen = self.outcomes([signal.halved() for signal in signals], rates)
                metrics["psnr_unseen_tuned"], _ = self._tuned(unseen.quality, everyone, choices)
        shown = {
            f"{index:02d}-{k:03d}": contact_sheet(_visible(found.renders[index, 0, k]))
            for index in everyone
            if signals[index].pictured
            for k in steps
        }
        return Evaluation(metrics, shown)

    def outcomes(self, signals: Sequence[Signal], rates: Sequence[float]) -> Outcome:
        """All signals at all rates; those of one size run together."""
        found = Outcome({}, {})
        sizes = {(len(signal.support), signal.shape) for signal in signals}
        for size in sorted(sizes):
            members = [
                i for i, signal in enumerate(signals) if (len(signal.support), signal.shape) == size
            ]
            jobs = [(index, rate) for index in members for rate in range(len(rates))]
            together = JOBS_AT_ONCE[self.model.device.type]
            for some in (jobs[start : start + together] for start in range(0, len(jobs), together)):
                self._run(signals, some, rates, found)
        return found

    def adapted(self, signal: Signal, steps: Sequence[int]) -> list[Tensor]:
        """The field's parameters ``[P]`` after each of ``steps`` on one signal, at the fixed step
        size."""
        rate = torch.full(
            (1, 1), self.settings.rate, dtype=self.model.dtype, device=self.model.device
        )
        start = self.model[None].contiguous()
        batch = self._batches([signal])
        found = adapt(self.task.derivatives, start, batch, rate, steps, self.settings.clip)
        return [params[0] for _, params in found]

    def _run(
        self,
        signals: Sequence[Signal],
        jobs: list[tuple[int, int]],
        rates: Sequence[float],
        to: Outcome,
    ) -> None:
        model = self.model
        settings = self.settings
        column = torch.tensor(
            [[rates[rate]] for _, rate in jobs], dtype=model.dtype, device=model.device
        )
        start = model.expand(len(jobs), -1).contiguous()
        queries = torch.stack([signals[index].query.inputs for index, _ in jobs]).to(model)
        batch = self._batches([signals[index] for index, _ in jobs])
        for step, params in adapt(
            self.task.derivatives, start, batch, column, settings.step_list, settings.clip
        ):
            for (index, rate), output in zip(
                jobs, self.task.predict(params, queries).cpu(), strict=True
            ):
                render = output.reshape(signals[index].shape)
                if rate == 0:  # the others are only scored
                    to.renders[index, rate, step] = render
                to.quality[index, rate, step] = psnr(render, signals[index].truth)

    def _batches(self, signals: Sequence[Signal]) -> Callable[[int], Batch]:
        """Samples by step; the draws depend on the signal alone, so that every method and step size
        sees the same."""
        size = self.settings.batch_size
        last = max(self.settings.step_list)
        supports = [signal.support for signal in signals]
        if not size:
            inputs = [part.inputs for part in supports]
            values = [part.values for part in supports]
            whole = Batch(torch.stack(inputs).to(self.model), torch.stack(values).to(self.model))
            return lambda step: whole
        batches = []
        for signal in signals:
            stream = generator("adaptation", signal.name)
            places, colours = signal.support.at(
                torch.randint(len(signal.support), (last, size), generator=stream)
            )
            if self.task.jitter:
                places = torch.cat([places, torch.rand(last, size, 1, generator=stream)], -1)
            batches.append((places, colours))
        drawn = Batch(
            *(torch.stack(parts, 1).to(self.model) for parts in zip(*batches, strict=True))
        )
        return lambda step: Batch(drawn.inputs[step], drawn.targets[step])

    def _outside_range(self, metrics: dict[str, Any], first: str) -> bool:
        """Whether the field has left the data range; one that cannot is told by a start far below
        the constant-colour baseline."""
        excess = metrics["range_excess_held_out"]
        start = metrics["psnr"][first]
        floor = metrics["psnr_floor_held_out"]
        if excess is None or excess > OUTSIDE or start is None:
            return True
        return self.task.bounded and floor is not None and start < floor - BLACKOUT

    def _lpips(self, found: Outcome, signals: Sequence[Signal]) -> dict[str, float | None] | None:
        """Mean perceptual distance by step; ``None`` where no network was supplied."""
        if not self.settings.lpips:
            return None
        network = load_network("evaluation.lpips", self.settings.lpips)
        everyone = range(len(signals))
        return {
            str(k): mean_of(
                [lpips(network, found.renders[i, 0, k], signals[i].truth) for i in everyone]
            )
            for k in self.settings.step_list
        }

    def _means(self, quality: Table, everyone: Sequence[int]) -> dict[str, float | None]:
        return {
            str(k): mean_of([quality[index, 0, k] for index in everyone])
            for k in self.settings.step_list
        }

    def _tuned(
        self, quality: Table, everyone: Sequence[int], choices: list[int]
    ) -> tuple[dict[str, float | None], dict[str, list[int]]]:
        """Mean PSNR by step at cross-fitted rates, and the rate indices that were chosen; none for
        a single signal."""
        steps = self.settings.step_list
        if len(everyone) < 2:  # nobody is left to tune on
            return {str(k): None for k in steps}, {str(k): [] for k in steps}
        tuned = {}
        chosen = {}
        for k in steps:
            picks = {
                index: _best_for_others(quality, everyone, index, k, choices) for index in everyone
            }
            tuned[str(k)] = mean_of([quality[index, picks[index], k] for index in everyone])
            chosen[str(k)] = sorted(set(picks.values()))
        return tuned, chosen


def _visible(rendered: Tensor) -> Tensor:
    """A rendering within the range of pictures, black where it is not a number."""
    return rendered.clamp(0, 1).nan_to_num(0.0)


def constant_colour(truth: Tensor) -> Tensor:
    """Constant-colour baseline: the mean colour of ``truth``, in its shape."""
    return truth.reshape(-1, truth.shape[-1]).mean(0).expand(truth.shape)


def _best_for_others(
    quality: Table, everyone: Sequence[int], index: int, step: int, choices: list[int]
) -> int:
    """The rate index of ``choices`` with the best mean PSNR over all signals but ``index``."""
    others = [other for other in everyone if other != index]

    def score(rate: int) -> float:
        mean = mean_of([quality[other, rate, step] for other in others])
        return -math.inf if mean is None else mean

    return max(choices, key=score)
