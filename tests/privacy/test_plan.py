"""Plans in round numbers: what a run costs, how loud its noise is, and what one change would do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from privacy.accounting import gaussian_epsilon
from privacy.budget.plan import Plan, advice, multiplier_for, noise_to_signal, predict

DELTA = 1e-5
PLAN = Plan(2.0, 100, DELTA, participations=16, clients=50.0, parameters=40_000, sensitivity=1.25)


def test_noise_to_signal_by_hand() -> None:
    """z S sqrt(d) / m = 2 * 1.25 * 200 / 50."""
    assert noise_to_signal(PLAN) == pytest.approx(10.0)
    assert noise_to_signal(replace(PLAN, clients=None)) is None
    assert noise_to_signal(replace(PLAN, parameters=None)) is None


def test_each_change_alone_does_what_it_says() -> None:
    """Half the rounds hit the busiest client half as often, twice the noise halves mu; 500 clients
    or (50/2.5)^2 = 400 numbers bring the noise down to the signal at the same epsilon."""
    rows = {row["change"]: row for row in advice(PLAN, noise_to_signal(PLAN))}
    expected = {
        "rounds": (50, math.sqrt(8) / 2, 10.0),
        "noise multiplier": (4.0, math.sqrt(16) / 4, 20.0),
        "clients a round": (500, math.sqrt(16) / 2, 1.0),
        "numbers shared (smaller field, lower rank)": (400, math.sqrt(16) / 2, 1.0),
    }
    assert list(rows) == list(expected)
    for change, (to, mu, ratio) in expected.items():
        assert rows[change]["to"] == pytest.approx(to)
        assert rows[change]["epsilon"] == pytest.approx(gaussian_epsilon(mu, DELTA))
        assert rows[change]["noise_to_signal"] == pytest.approx(ratio)


def test_rounds_are_halved_for_every_arm_and_not_below_one() -> None:
    """30 rounds are three arms of ten: five each, 15 in all, half of the 6 participations."""
    plan = replace(PLAN, rounds=30, arms=3, participations=6)
    (row,) = [row for row in advice(plan, None) if row["change"] == "rounds"]
    assert row["to"] == 5
    assert row["epsilon"] == pytest.approx(gaussian_epsilon(math.sqrt(3) / 2, DELTA))
    assert [row["change"] for row in advice(replace(plan, rounds=3), None)] == ["noise multiplier"]


def test_where_the_noise_is_no_larger_than_the_signal_nothing_is_advised_against_it() -> None:
    quiet = replace(PLAN, clients=500.0)  # exactly as large
    assert noise_to_signal(quiet) == pytest.approx(1.0)
    assert len(advice(quiet, 1.0)) == 2 and len(advice(PLAN, 1.01)) == 4
    few = replace(PLAN, clients=1.0)  # (1/2.5)^2 is less than one number
    assert advice(few, noise_to_signal(few))[-1]["to"] == 1


def test_a_prediction_holds_known_cohorts_against_the_limit() -> None:
    """16 rounds at z = 2 are mu = 2, whatever the sample rate would amplify."""
    known = gaussian_epsilon(2.0, DELTA)
    found = predict(replace(PLAN, rate=0.1, limit=known + 1e-6))
    assert found["epsilon_known_cohort"] == pytest.approx(known) and found["within_budget"] is True
    assert predict(replace(PLAN, limit=known - 1e-6))["within_budget"] is False
    assert predict(PLAN)["within_budget"] is None
    assert found["participations"] == 16 and found["noise_to_signal"] == pytest.approx(10.0)
    assert found["epsilon"] < gaussian_epsilon(math.sqrt(100) / 2, DELTA)
    everybody = predict(replace(PLAN, participations=None))
    assert everybody["participations"] == 100
    assert everybody["epsilon_known_cohort"] == pytest.approx(gaussian_epsilon(5.0, DELTA))


def test_without_noise_nothing_is_promised_and_nobody_who_stays_away_pays() -> None:
    silent = predict(replace(PLAN, multiplier=0.0, participations=None))
    assert silent["epsilon"] is None and silent["epsilon_known_cohort"] is None
    assert silent["accountants"]["prv_upper"] is None
    absent = predict(replace(PLAN, participations=0))
    assert absent["epsilon_known_cohort"] == 0.0


def test_the_noise_for_a_target_is_exact_with_known_cohorts_and_close_with_a_rate() -> None:
    target = gaussian_epsilon(2.0, DELTA)
    assert multiplier_for(target, PLAN) == pytest.approx(2.0, rel=1e-6)
    drawn = Plan(1.0, 100, DELTA, rate=0.05)
    found = multiplier_for(4.0, drawn)
    assert predict(replace(drawn, multiplier=found))["epsilon"] == pytest.approx(4.0, rel=5e-3)
