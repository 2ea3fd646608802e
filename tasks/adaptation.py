r"""Test-time optimisation: what a new client gets from a shared meta-learner.

.. math:: \phi_{k+1} = \phi_k - \lambda \, \mathrm{clip}_C(\nabla L(\phi_k)), \qquad \phi_0 = \theta

on all samples of a held-out signal, for every signal (and every step size) at once. Besides the table at one step
size there is a tuned one: a meta-learner is easily flattered by the step size it was trained with. It is tuned by
cross-fitting: each picture is reported at the step size that was best on average for the *other* pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from tasks.data.pictures import Picture
from tasks.metrics import mean_of, psnr, range_excess, ssim
from tasks.params import clip
from tasks.settings import EvaluationSettings
from tasks.types import Batch, Derivatives, Evaluation

Predict = Callable[[Tensor, Tensor], Tensor]
JOBS_AT_ONCE = {"cpu": 4, "cuda": 4096}  # whole pictures are large batches: more at once leave a CPU's cache
DIVERGED = 0.5  # mean distance from the data range, in units of that range


def adapt(
    derivatives: Derivatives, start: Tensor, batch: Batch, rates: Tensor, steps: Sequence[int], limit: float
) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(k, params [N, P])`` after each ``k`` of ``steps``, all N signals in one computation.

    ``start [N, P]``; ``batch`` holds all samples of each signal; ``rates [N, 1]``; ``limit`` is the clip norm.
    """
    params = start
    for step in range(max(steps) + 1):
        if step in steps:
            yield step, params
        if step < max(steps):
            _, gradient = derivatives.gradient(params, batch)
            params = params - rates * clip(gradient, limit)


def _adapted_renders(
    derivatives: Derivatives, predict: Predict, model: Tensor, pictures: Sequence[Picture],
    rates: Sequence[float], settings: EvaluationSettings,
) -> dict[tuple[int, int, int], Tensor]:  # fmt: skip
    """Renderings ``[H, W, channels]`` by (picture, rate index, step); pictures of one size run together."""
    renders: dict[tuple[int, int, int], Tensor] = {}
    for size in sorted({picture.truth.shape for picture in pictures}):
        members = [index for index, picture in enumerate(pictures) if picture.truth.shape == size]
        jobs = [(index, rate) for index in members for rate in range(len(rates))]
        together = JOBS_AT_ONCE[model.device.type]
        for some in (jobs[start : start + together] for start in range(0, len(jobs), together)):
            batch = Batch(
                torch.stack([pictures[index].coordinates for index, _ in some]).to(model),
                torch.stack([pictures[index].values for index, _ in some]).to(model),
            )
            column = torch.tensor([[rates[rate]] for _, rate in some], dtype=model.dtype, device=model.device)
            start = model.expand(len(some), -1).contiguous()
            for step, params in adapt(derivatives, start, batch, column, settings.step_list, settings.clip):
                outputs = predict(params, batch.inputs).cpu()
                for (index, rate), output in zip(some, outputs, strict=True):
                    renders[index, rate, step] = output.reshape(size)
    return renders


def evaluate_adaptation(
    derivatives: Derivatives, predict: Predict, model: Tensor, pictures: Sequence[Picture],
    settings: EvaluationSettings, tune: bool,
) -> Evaluation:  # fmt: skip
    """PSNR and SSIM after k steps, at the fixed step size and (``tune``) at the cross-fitted best one."""
    searched = settings.rate_list if tune else []
    rates = [settings.rate, *(rate for rate in searched if rate != settings.rate)]
    renders = _adapted_renders(derivatives, predict, model, pictures, rates, settings)
    quality = {key: psnr(render, pictures[key[0]].truth) for key, render in renders.items()}
    everyone, steps = range(len(pictures)), settings.step_list

    excess = mean_of([range_excess(renders[index, 0, steps[0]]) for index in everyone])
    metrics: dict[str, object] = {
        "psnr": {str(k): mean_of([quality[index, 0, k] for index in everyone]) for k in steps},
        "ssim": {str(k): mean_of([ssim(renders[i, 0, k], pictures[i].truth) for i in everyone]) for k in steps},
        "range_excess": excess,
        "diverged": excess is None or excess > DIVERGED,
    }
    if tune:
        tuned, chosen = {}, {}
        for k in steps:
            choices = [rates.index(rate) for rate in searched]
            picks = {index: _best_for_others(quality, everyone, index, k, choices) for index in everyone}
            tuned[str(k)] = mean_of([quality[index, picks[index], k] for index in everyone])
            chosen[str(k)] = sorted({rates[pick] for pick in picks.values()})
        metrics |= {"psnr_tuned": tuned, "rates_tuned": chosen}

    shown = {
        f"{index:02d}-{k:03d}": renders[index, 0, k].clamp(0, 1).nan_to_num(0.0) for index in everyone for k in steps
    }
    return Evaluation(metrics, shown)


def _best_for_others(quality: dict, everyone: Sequence[int], index: int, step: int, choices: list[int]) -> int:
    """The rate index of ``choices`` with the best mean PSNR over all pictures but ``index``."""
    others = [other for other in everyone if other != index] or [index]

    def score(rate: int) -> float:
        mean = mean_of([quality[other, rate, step] for other in others])
        return -math.inf if mean is None else mean

    return max(choices, key=score)
