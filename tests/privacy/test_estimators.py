"""Epsilon between two normals, and of guesses: closed forms and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from privacy.accounting import gaussian_epsilon
from privacy.audit.estimators import (
    guess,
    log_null_tail,
    normal_epsilon,
    null_bound,
    one_run_bound,
    one_run_p_value,
)

DELTA = 1e-3


@settings(max_examples=30, deadline=None)
@given(mu=st.floats(0.2, 6.0), scale=st.floats(0.1, 10.0), start=st.floats(-5.0, 5.0))
def test_equal_spreads_are_the_gaussian_mechanism(mu: float, scale: float, start: float) -> None:
    found = normal_epsilon(start, scale, start + mu * scale, scale, DELTA)
    assert found == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-5, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    gap=st.floats(-3.0, 3.0), spread=st.floats(0.5, 2.0), shift=st.floats(-4.0, 4.0),
    unit=st.floats(0.2, 5.0),
)  # fmt: skip
def test_neither_the_origin_nor_the_unit_of_scores_matters_nor_which_comes_first(
    gap: float, spread: float, shift: float, unit: float
) -> None:
    assume(abs(spread - 1) > 0.05 or abs(gap) > 0.05)
    found = normal_epsilon(0.0, 1.0, gap, spread, DELTA)
    others = (
        normal_epsilon(shift, 1.0, gap + shift, spread, DELTA),
        normal_epsilon(shift * unit, unit, (gap + shift) * unit, spread * unit, DELTA),
        normal_epsilon(gap, spread, 0.0, 1.0, DELTA),
        normal_epsilon(-shift, 1.0, -gap - shift, spread, DELTA),
    )
    assert others == pytest.approx([found] * 4, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("mean0", "std0", "mean1", "std1"),
    [(0.5, 1.0, 2.0, 1.5), (2.0, 0.7, -1.0, 1.0), (1.0, 1.0, 1.0, 2.0), (-1.0, 2.0, 1.0, 2.0)],
)
def test_at_epsilon_the_worse_direction_has_exactly_delta(
    mean0: float, std0: float, mean1: float, std1: float
) -> None:
    """By quadrature of max(p - e^eps q, 0) over the line, in both directions."""
    epsilon = normal_epsilon(mean0, std0, mean1, std1, DELTA)
    p, q = stats.norm(mean0, std0), stats.norm(mean1, std1)

    def excess(a: stats.rv_continuous, b: stats.rv_continuous) -> float:
        inside = lambda y: max(a.pdf(y) - math.exp(epsilon) * b.pdf(y), 0.0)  # noqa: E731
        return float(integrate.quad(inside, -25, 25, limit=2000, points=[mean0, mean1])[0])

    assert max(excess(p, q), excess(q, p)) == pytest.approx(DELTA, rel=1e-3)


def test_equal_normals_cost_nothing_and_constants_everything() -> None:
    assert normal_epsilon(1.0, 2.0, 1.0, 2.0, DELTA) == 0.0
    assert normal_epsilon(1.0, 0.0, 1.0, 0.0, DELTA) == 0.0
    assert normal_epsilon(1.0, 0.0, 2.0, 0.0, DELTA) == math.inf
    assert normal_epsilon(0.0, 1.0, 0.0, 0.0, DELTA) == 0.0


# ---------------------------------------------------------------- the closed-form null
@pytest.mark.parametrize("dimension", [2, 3, 10, 999, 1000, 20_000])
def test_the_null_tail_is_that_of_a_random_direction(dimension: int) -> None:
    """The cosine has the density c (1 - x^2)^((d - 3)/2); in three dimensions it is uniform."""
    for cosine in (0.0, 1.0 / math.sqrt(dimension), 2.0 / math.sqrt(dimension + 3)):
        exact = stats.beta.logsf((cosine + 1) / 2, (dimension - 1) / 2, (dimension - 1) / 2)
        assert log_null_tail(cosine, dimension) == pytest.approx(exact, rel=2e-2)
    assert log_null_tail(0.0, dimension) == pytest.approx(math.log(0.5))
    assert log_null_tail(0.5, 3) == pytest.approx(math.log(0.25))


def test_canaries_that_all_point_home_give_the_bound_of_their_number() -> None:
    """All 100 cosines are 0.5 in 400 dimensions: none missed, at level 0.05/20, so at most a share
    1 - (0.05/20)^(1/100) may be."""
    cosines = np.full(100, 0.5)
    missed = 1 - (0.05 / 20) ** (1 / 100)
    expected = math.log(1 - missed - DELTA) - log_null_tail(0.5, 400)
    assert null_bound(cosines, 400, DELTA, 0.95) == pytest.approx(expected)
    assert null_bound(-cosines, 400, DELTA, 0.95) == 0.0, "no better than chance bounds nothing"


# ---------------------------------------------------------------- guesses in one run
def test_guesses_take_the_ends_of_the_order() -> None:
    """Of eight scores four guesses: the two highest said in, the two lowest out."""
    scores = np.array([5.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0])
    included = np.array([False, False, True, True, False, False, True, True])
    assert guess(scores, included, 4) == 2  # 8 in: right, 7 in: wrong, 1 out: right, 2 out: wrong
    assert guess(scores, included, 2) == 2
    assert guess(scores, included, 8) == 2 + 2  # 8, 6 of the upper four; 1, 3 of the lower


def test_without_delta_the_p_value_is_a_binomial_tail() -> None:
    """Under epsilon = log 3 a guess is right with probability 3/4: 3 of 3 are 27/64."""
    assert one_run_p_value(10, 3, 3, math.log(3), 0.0) == pytest.approx(27 / 64)
    assert one_run_p_value(10, 3, 2, math.log(3), 0.0) == pytest.approx(54 / 64)
    assert one_run_p_value(10, 3, 0, math.log(3), 0.0) == pytest.approx(1.0)


def test_delta_adds_the_steepest_slope_of_the_tail() -> None:
    """2 m delta max_i (P[W >= 3 - i] - P[W >= 3])/i: 27/64, 54/128 and 37/192 for i = 1 to 3."""
    found = one_run_p_value(10, 3, 3, math.log(3), 1e-3)
    slopes = [(54 / 64 - 27 / 64) / 1, (63 / 64 - 27 / 64) / 2, (1 - 27 / 64) / 3]
    assert found == pytest.approx(27 / 64 + 2 * 10 * 1e-3 * max(slopes))
    assert one_run_p_value(10, 3, 3, math.log(3), 1.0) == 1.0


def test_the_bound_is_where_the_guesses_become_a_surprise() -> None:
    """All n right has probability p^n with p = e^eps/(1 + e^eps): eps = log(p/(1 - p)) at
    p = 0.05^(1/n)."""
    p = 0.05 ** (1 / 40)
    assert one_run_bound(100, 40, 40, 0.0, 0.95) == pytest.approx(math.log(p / (1 - p)), abs=1e-5)
    assert one_run_bound(100, 40, 20, 0.0, 0.95) == 0.0
    assert one_run_bound(100, 40, 38, 0.0, 0.95) < one_run_bound(100, 40, 39, 0.0, 0.95)
