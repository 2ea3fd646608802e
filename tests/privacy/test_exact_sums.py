"""The provable mode of sums without noise: what its guarantee says, and what it does not say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from exact_kit import (
    BRIGHT,
    MEMBERS,
    configured,
    summed,
    task_of,
    trainer_of,
    two_sets,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from privacy.entropy import LARGEST_NORMAL, Entropy
from privacy.ring import DITHER, HALF

ROUNDS = 20


def sums(experiment: Experiment, pictures: Tensor, members: int = MEMBERS) -> list[Tensor]:
    """Unmasked sums of 20 rounds at models of the server's choice, in levels."""
    trainer = trainer_of(experiment, pictures)
    stream = torch.Generator().manual_seed(0)
    start = trainer.task.init(0)
    return [
        summed(trainer, start + 0.02 * torch.randn(start.shape, generator=stream), members, number)[
            0
        ]
        for number in range(1, ROUNDS + 1)
    ]


@pytest.fixture
def no_dither(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dithered, without the dither: its law is looked at by itself."""
    monkeypatch.setattr(Entropy, "normal", lambda self, count: np.zeros(count))


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.usefixtures("no_dither")
@given(seed=st.integers(0, 2**32), amount=st.floats(0.05, 1.0))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_guarantee_sums_of_20_rounds_are_the_same_for_any_two_sets_with_the_same_sum(
    seed: int, amount: float
) -> None:
    experiment = configured()
    one, other = two_sets(seed, amount)
    first, second = sums(experiment, one), sums(experiment, other)
    assert apart(first, second) <= MEMBERS  # each is rounded by half a level, in both
    assert min(float(total.norm()) for total in first) > 1e5


@pytest.mark.parametrize(
    "broken",
    [
        {"learner.outer-steps": 2},
        {"learner.outer-clip": 0.05},
        {"privacy.clip-norm": 0.002},
        {"learner.batch-size": 16},
        {"methods": "maml", "learner.inner-steps": 2},
    ],
)
def test_without_a_condition_of_the_guarantee_two_sets_are_told_apart(
    broken: dict[str, Any],
) -> None:
    """Negative controls: two steps, an active clip of either kind, batches, a nonlinear learner."""
    experiment = configured(**{"privacy.exact": False}, **broken)
    one, other = two_sets(3, 1.0)
    assert apart(sums(experiment, one), sums(experiment, other)) > 100 * MEMBERS


@pytest.mark.usefixtures("no_dither")
def test_with_a_member_missing_two_sets_are_told_apart() -> None:
    experiment = configured()
    one, other = two_sets(3, 1.0)
    found = apart(sums(experiment, one, MEMBERS - 1), sums(experiment, other, MEMBERS - 1))
    assert found > 100 * MEMBERS


# ---------------------------------------------------------------- attacks that once succeeded


# ---------------------------------------------------------------- attacks that once succeeded
@pytest.mark.usefixtures("no_dither")
def test_weights_that_swallow_small_updates_tell_nothing() -> None:
    """A difference of weights is rounded to their last digit: weights of 520 made a threshold of
    it, and 130 sums read everybody's brightness."""
    act, weight, limit = abs(math.sin(9.0)), 520.0, 1e-6
    rate = 2.0 ** (math.floor(math.log2(weight)) - 52) / 2 / (2 * act * 0.6)
    experiment = configured(
        **{"learner.outer-rate": rate, "privacy.clip-norm": limit, "learner.outer-clip": 0.0}
    )
    model = torch.zeros(task_of().layout.size)
    named = task_of().layout.unflatten(model)
    for layer in range(2):
        named[f"layers.{layer}.bias"][:] = 0.3
    named["layers.2.weight"][0, 0::2], named["layers.2.weight"][0, 1::2] = weight, -weight
    named["layers.2.bias"][:] = -0.5
    one, other = (
        summed(trainer_of(experiment, BRIGHT[name]), model, 5)[0]
        for name in ("all alike", "spread")
    )
    assert float(one.abs().max()) > 10 * MEMBERS
    assert float((one - other).abs().max()) <= MEMBERS


def test_rounding_tells_no_second_moments() -> None:
    """1024 equal numbers of one level: their spread around the mean was sum x (1 - x) under
    stochastic rounding; dithered it is that of the dither, whoever is how bright."""
    changes = {
        "field.width": 1024, "field.depth": 1, "privacy.clip-norm": 1e6, "learner.outer-clip": 0.0,
    }  # fmt: skip
    task = task_of(**changes)
    model = torch.zeros(task.layout.size)
    named = task.layout.unflatten(model)
    named["layers.0.bias"][:] = math.pi / 60
    named["layers.1.bias"][:] = -0.5
    start = next(o for name, _, o in task.layout.entries if name == "layers.1.weight")
    level = 1e6 / int(Pieces(configured(**changes)).release.open(5, 5, 5, 5)["levels"])
    experiment = configured(**changes, **{"learner.outer-rate": level / 2})
    spreads = {
        name: float(summed(trainer_of(experiment, p), model, 5)[0][start : start + 1024].var())
        for name, p in BRIGHT.items()
    }
    expected = 5 * (4.0**2 + 1 / 12)
    for name, spread in spreads.items():  # five standard errors of a variance of 1024 numbers
        assert abs(spread - expected) < 5 * expected * math.sqrt(2 / 1024), (name, spreads)


def test_a_dithered_sum_has_room_for_its_dither() -> None:
    """All members at full length in one number, and the largest dither there can be."""
    release = Pieces(configured()).release
    public = release.open(MEMBERS, MEMBERS, MEMBERS, MEMBERS)
    reach = int(public["levels"]) + math.ceil(DITHER * LARGEST_NORMAL) + 1
    assert MEMBERS * reach <= HALF - 1


def test_a_client_whose_weight_is_no_number_is_not_counted_with_zero() -> None:
    """Under an exact sum it would be told apart by what the others add up to."""
    from strategies.types import Contribution, Payload

    trainer = trainer_of(configured(), BRIGHT["spread"])
    payload = Payload(torch.zeros(3, dtype=torch.int32), 0.0, {}, 0)
    for weight, sound in ((1.0, True), (math.nan, False), (math.inf, False)):
        given = Contribution(torch.zeros(1, 3), torch.tensor([weight]))
        if sound:
            trainer._refuse_infinite(given, payload, 1)
            continue
        with pytest.raises(ArithmeticError, match="not finite"):
            trainer._refuse_infinite(given, payload, 1)
