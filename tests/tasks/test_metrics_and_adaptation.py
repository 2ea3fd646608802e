"""Metrics with numbers one can redo by hand, and test-time optimisation that must find what it
should."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tasks.adaptation import Adaptation, _best_for_others, adapt
from tasks.errors import InputError
from tasks.image import ImageTask
from tasks.metrics import psnr, range_excess, ssim
from tasks.settings import DataSettings, EvaluationSettings, FieldSettings, TaskSettings
from tasks.signals import sampled
from tasks.types import Batch


def test_psnr_by_hand() -> None:
    truth = torch.zeros(4, 4, 1)
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-4)  # 10 log10(1 / 0.01)
    assert psnr(truth - 5.0, truth) == 100.0, "renderings are clamped to the data range first"
    assert math.isnan(psnr(truth + float("nan"), truth))


def test_ssim_of_equal_and_of_unrelated_pictures() -> None:
    picture = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0))
    assert ssim(picture, picture) == pytest.approx(1.0)
    assert ssim(1 - picture, picture) < 0
    assert ssim(picture[:5], picture[:5]) is None


def test_ssim_by_hand_of_plain_pictures() -> None:
    """Without any variance SSIM is (2 a b + c) / (a^2 + b^2 + c) with c = (0.01 R)^2 for a data
    range of R = 1."""
    black = torch.zeros(8, 8, 3)
    c = 0.01**2
    assert ssim(black + 0.1, black) == pytest.approx(c / (0.1**2 + c), rel=1e-4)
    assert ssim(black + 0.5, black + 0.4) == pytest.approx((0.4 + c) / (0.41 + c), rel=1e-4)
    assert ssim(black - 5.0, black) == pytest.approx(1.0), (
        "renderings are clamped to the data range first"
    )


def test_range_excess_by_hand() -> None:
    assert range_excess(torch.tensor([0.5, 1.5, -0.25, 2.0])) == pytest.approx(
        (0.5 + 0.25 + 1.0) / 4
    )


class Quadratic:
    """L(w) = |w|^2 / 2 per client, so one step of size r shrinks w by the factor 1 - r."""

    def gradient(self, params: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return params.square().sum(-1) / 2, params

    def linearise(self, params: torch.Tensor, batch: Batch) -> None:
        raise AssertionError("test-time optimisation is first order")


def test_adaptation_takes_exactly_k_steps_with_each_rate() -> None:
    start = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    rates = torch.tensor([[0.5], [0.1]])
    seen = dict(
        adapt(Quadratic(), start, lambda _: Batch(start, start), rates, [0, 1, 3], limit=0.0)
    )
    assert seen[0].tolist() == start.tolist()
    torch.testing.assert_close(seen[3][:, 0], torch.tensor([0.5**3, 0.9**3]))


def test_adaptation_clips() -> None:
    start = torch.tensor([[3.0, 4.0]])
    seen = dict(
        adapt(Quadratic(), start, lambda _: Batch(start, start), torch.ones(1, 1), [1], limit=1.0)
    )
    torch.testing.assert_close(seen[1], start * 0.8)


class Plain:
    """A task whose field is its parameters: one picture of one grey number a pixel."""

    derivatives = Quadratic()
    jitter = False
    bounded = False

    def predict(self, params: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        return params


def test_the_limit_of_the_settings_bounds_every_step_of_an_evaluation() -> None:
    """The gradient at w is w, of norm 4; at rate 1 a step of at most 0.01 k is left after k
    steps."""
    start = torch.full((64,), 0.5)
    settings = EvaluationSettings(steps="0,1,3", rate=1.0, clip=0.01)
    signal = sampled("black", torch.zeros(8, 8, 1))
    adaptation = Adaptation(Plain(), start, settings)
    rendered = adaptation.outcomes([signal], [1.0]).renders
    params = dict(zip((0, 1, 3), adaptation.adapted(signal, [0, 1, 3]), strict=True))
    for step, found in params.items():
        assert float((start - found).norm()) == pytest.approx(0.01 * step, rel=1e-3, abs=1e-7)
        assert float((start - rendered[0, 0, step].flatten()).norm()) == pytest.approx(
            0.01 * step, rel=1e-3, abs=1e-7
        )


def test_a_rate_is_chosen_by_the_other_signals_alone() -> None:
    """Signal 0 does far better at rate 0 (30 against 10), the others a little better at rate 1 (21
    against 20): signal 0 must get rate 1; the others are told by signal 0 to take rate 0."""
    quality = {
        (signal, rate, 4): psnrs[rate]
        for signal, psnrs in {0: (30.0, 10.0), 1: (20.0, 21.0), 2: (20.0, 21.0)}.items()
        for rate in (0, 1)
    }
    assert [_best_for_others(quality, range(3), index, 4, [0, 1]) for index in range(3)] == [
        1,
        0,
        0,
    ]
    means, chosen = Adaptation(Plain(), torch.zeros(1), EvaluationSettings(steps="4"))._tuned(
        quality, range(3), [0, 1]
    )
    assert means == {"4": pytest.approx((10 + 20 + 20) / 3)} and chosen == {"4": [0, 1]}


@pytest.mark.parametrize(
    ("bounded", "excess", "start", "outside"),
    [
        (True, 0.0, 5.0, True),
        (False, 0.0, 5.0, False),
        (True, 0.0, 8.0, False),
        (False, 0.6, 20.0, True),
        (False, 0.4, 20.0, False),
        (False, None, 20.0, True),
        (False, 0.0, None, True),
    ],
)
def test_a_bounded_field_is_outside_if_it_starts_far_below_a_constant_colour(
    bounded: bool, excess: float | None, start: float | None, outside: bool
) -> None:
    """A constant colour has 12 dB here; more than 5 dB below it nothing is shown any more."""
    task = Plain()
    task.bounded = bounded
    metrics = {"range_excess_held_out": excess, "psnr": {"0": start}, "psnr_floor_held_out": 12.0}
    assert (
        Adaptation(task, torch.zeros(1), EvaluationSettings())._outside_range(metrics, "0")
        is outside
    )


def test_evaluation_improves_with_steps_and_tunes_on_other_pictures() -> None:
    task = ImageTask(
        TaskSettings(data=DataSettings(size=12, held_out=3), field=FieldSettings(width=16, depth=2))
    )
    settings = EvaluationSettings(steps="0,2,16", rates="0.0001,0.03", rate=0.01)
    evaluation = task.evaluate(task.init(0), settings, tune=True)
    quality = evaluation.metrics["psnr"]
    assert quality["0"] < quality["2"] < quality["16"]
    assert evaluation.metrics["rates_tuned"]["16"] == [0.03], "the useless rate must not be chosen"
    assert evaluation.metrics["psnr_tuned"]["16"] > quality["16"]
    assert evaluation.metrics["outside_range"] is False
    assert len(evaluation.pictures) == 3 * 3


def test_a_single_signal_is_not_tuned_on_itself() -> None:
    task = ImageTask(
        TaskSettings(data=DataSettings(size=8, held_out=1), field=FieldSettings(width=8, depth=1))
    )
    metrics = task.evaluate(
        task.init(0), EvaluationSettings(steps="0,2", rates="0.01,0.03"), tune=True
    ).metrics
    assert metrics["psnr_tuned"] == {"0": None, "2": None} and metrics["rates_tuned"] == {
        "0": [],
        "2": [],
    }


def test_a_field_outside_the_data_range_is_reported_as_outside_range() -> None:
    task = ImageTask(
        TaskSettings(data=DataSettings(size=8, held_out=1), field=FieldSettings(width=8, depth=1))
    )
    model = task.init(0)
    task.layout.unflatten(model)["layers.1.bias"].fill_(
        9.0
    )  # the published objective's typical end: a constant near 10
    metrics = task.evaluate(model, EvaluationSettings(steps="0"), tune=False).metrics
    assert metrics["outside_range"] is True and metrics["range_excess_held_out"] > 5


def test_unseen_pixels_are_judged_apart_and_are_harder() -> None:
    task = ImageTask(
        TaskSettings(data=DataSettings(size=16, held_out=2), field=FieldSettings(width=32, depth=2))
    )
    settings = EvaluationSettings(steps="0,64", rates="0.03,0.1")
    metrics = task.evaluate(task.init(0), settings, tune=True).metrics
    assert metrics["psnr_unseen_tuned"]["64"] < metrics["psnr_tuned"]["64"] - 1
    half = task.held_out()[0].halved()
    seen, unseen = (
        {tuple(row) for row in part.inputs.tolist()} for part in (half.support, half.query)
    )
    assert len(seen) == len(unseen) == 128 and not seen & unseen


def test_batches_of_adaptation_are_the_same_for_every_method() -> None:
    task = ImageTask(
        TaskSettings(data=DataSettings(size=12, held_out=2), field=FieldSettings(width=8, depth=1))
    )
    settings = EvaluationSettings(steps="0,3", batch_size=5)
    first, second = (
        Adaptation(task, task.init(seed), settings)._batches(task.held_out()) for seed in (0, 1)
    )
    assert torch.equal(first(2).targets, second(2).targets) and first(2).targets.shape == (2, 5, 3)
    assert not torch.equal(first(1).targets, first(2).targets)


def test_lpips_is_the_users_network_or_not_computed(tmp_path: Path) -> None:
    class Distance(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a - b).abs().mean((1, 2, 3))

    file = tmp_path / "distance.pt"
    torch.jit.script(Distance()).save(str(file))
    task = ImageTask(
        TaskSettings(data=DataSettings(size=12, held_out=2), field=FieldSettings(width=8, depth=1))
    )
    model = task.init(0)
    assert task.evaluate(model, EvaluationSettings(steps="0"), tune=False).metrics["lpips"] is None
    found = task.evaluate(
        model, EvaluationSettings(steps="0,2", lpips=str(file)), tune=False
    ).metrics["lpips"]
    truths = [signal.truth for signal in task.held_out()]
    renders = [
        task.predict(model[None], signal.query.inputs[None])[0] for signal in task.held_out()
    ]
    by_hand = [
        2 * float((r.view(t.shape).clamp(0, 1) - t).abs().mean())
        for r, t in zip(renders, truths, strict=True)
    ]
    assert found["0"] == pytest.approx(sum(by_hand) / 2, rel=1e-5) and found.keys() == {"0", "2"}
    with pytest.raises(InputError, match="TorchScript") as caught:
        task.evaluate(model, EvaluationSettings(steps="0", lpips=str(tmp_path)), tune=False)
    assert caught.value.key == "evaluation.lpips"
