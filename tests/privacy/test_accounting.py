"""Epsilon against published and independently computed values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import (
    Event,
    calibrate,
    calibrate_known_cohort,
    epsilon,
    gaussian_epsilon,
    gaussian_log_delta,
    gdp,
    prv,
    rdp,
)
from tasks.errors import InputError

# sample rate, noise multiplier, rounds, delta: PLD/PRV estimate, PRV upper bound, RDP (Google's PLD
# and Microsoft's prv-accountant agree with the estimate to 1e-3)
REFERENCE = [
    (0.01, 4.0, 10_000, 1e-5, 0.947, 0.957, 1.035),
    (256 / 60000, 1.1, 14_062, 1e-5, 2.382, 2.392, 2.597),
    (256 / 60000, 1.3, 3_515, 1e-5, 0.8645, 0.8745, 0.9544),
    (256 / 60000, 0.7, 10_546, 1e-5, 5.639, 5.650, 6.318),
    (1.0, 1.0, 1, 1e-5, 4.3772, 4.3874, 4.7285),
    (1.0, 5.0, 100, 1e-5, 9.9973, 10.0077, 10.7255),
    (0.1, 1.0, 100, 1e-3, 4.7844, 4.7949, 5.6405),
    (0.05, 1.0, 200, 1e-4, 3.9993, 4.0097, 4.5936),
    (0.01, 1.0, 10_000, 1e-5, 6.1877, 6.1980, 6.7127),
]


@pytest.mark.parametrize(("q", "z", "rounds", "delta", "estimate", "upper", "renyi"), REFERENCE)
def test_reference_values(
    q: float, z: float, rounds: int, delta: float, estimate: float, upper: float, renyi: float
) -> None:
    events = [Event(z, q, rounds)]
    found = prv(events, delta)
    assert found is not None and abs(found - upper) < 0.02 and found >= estimate
    assert rdp(events, delta)[0] == pytest.approx(renyi, rel=0.02)
    if q == 1.0:
        assert gaussian_epsilon(math.sqrt(rounds) / z, delta) == pytest.approx(estimate, abs=1e-3)


def test_the_exact_gaussian_inverts_its_own_delta() -> None:
    for mu in (0.01, 0.3, 1.0, 4.0, 30.0):
        for delta in (1e-3, 1e-5, 1e-10):
            found = gaussian_epsilon(mu, delta)
            assert found == 0 or gaussian_log_delta(found, mu) == pytest.approx(
                math.log(delta), rel=1e-6
            )


def test_replace_one_is_twice_the_sensitivity() -> None:
    """A3: z/2, and the value Google's PLD gives for REPLACE_ONE at z = 1, delta 1e-5."""
    assert gaussian_epsilon(2.0, 1e-5) == pytest.approx(9.997, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(q=st.floats(0.01, 1.0), z=st.floats(0.8, 5.0), rounds=st.integers(1, 60))
def test_more_rounds_or_clients_cost_more_and_more_noise_less(
    q: float, z: float, rounds: int
) -> None:
    base = rdp([Event(z, q, rounds)], 1e-5)[0]
    assert 0 <= base <= rdp([Event(z, q, rounds + 10)], 1e-5)[0]
    assert base <= rdp([Event(z, min(1.0, q * 1.5), rounds)], 1e-5)[0] + 1e-9
    assert base >= rdp([Event(z * 1.5, q, rounds)], 1e-5)[0]
    assert (
        gaussian_epsilon(math.sqrt(rounds) / z, 1e-5)
        <= rdp([Event(z, 1.0, rounds)], 1e-5)[0] + 1e-9
    )


def test_without_amplification_it_costs_more() -> None:
    assert gaussian_epsilon(math.sqrt(100) / 1.0, 1e-3) > epsilon([Event(1.0, 0.1, 100)], 1e-3)


@pytest.mark.parametrize(
    "event",
    [
        (-1.0, 0.1, 1),
        (math.nan, 0.1, 1),
        (math.inf, 0.1, 1),
        (1.0, 0.0, 1),
        (1.0, 1.5, 1),
        (1.0, 0.1, -10),
        (1.0, 0.1, 1.5),
    ],
)
def test_what_opacus_would_swallow_is_refused(event: tuple[float, float, int]) -> None:
    with pytest.raises(InputError):
        prv([Event(*event)], 1e-5)


def test_corners() -> None:
    assert prv([], 1e-5) == 0 and rdp([], 1e-5)[0] == 0 and prv([Event(1.0, 0.1, 0)], 1e-5) == 0
    assert (
        rdp([Event(0.0, 0.1, 1)], 1e-5)[0] == math.inf and prv([Event(0.0, 0.1, 1)], 1e-5) is None
    )
    assert rdp([Event(10.0, 0.01, 1)], 1e-2)[0] == 0.0  # Opacus says -0.0085
    assert prv([Event(0.3, 1.0, 100)], 1e-5) is None  # epsilon beyond 50: PRV would need gigabytes
    assert epsilon([Event(0.3, 1.0, 100)], 1e-5) > 50
    with pytest.raises(InputError):
        prv([Event(1.0, 0.1, 1)], 1e-16)


def test_equal_neighbours_are_one_row_whatever_their_order_of_arrival() -> None:
    one_by_one = prv([Event(2.0, 0.2, 1)] * 30, 1e-5)
    assert one_by_one == prv([Event(2.0, 0.2, 30)], 1e-5)


def test_the_central_limit_number_may_lie_below_the_truth() -> None:
    """Why it is only shown and never decided by."""
    shown = gdp([Event(1.0, 0.01, 1)], 1e-5)
    exact = prv([Event(1.0, 0.01, 1)], 1e-5)
    assert shown is not None and exact is not None and shown < exact


@pytest.mark.parametrize(("target", "q", "rounds"), [(8.0, 0.1, 50), (1.0, 0.05, 20)])
def test_calibration_meets_its_target_closely(target: float, q: float, rounds: int) -> None:
    z = calibrate(target, 1e-5, q, rounds)
    assert (
        epsilon([Event(z, q, rounds)], 1e-5) <= target < epsilon([Event(z * 0.99, q, rounds)], 1e-5)
    )


def test_calibration_with_known_cohorts_is_exact() -> None:
    z = calibrate_known_cohort(4.0, 1e-5, 9)
    assert gaussian_epsilon(3.0 / z, 1e-5) == pytest.approx(4.0, abs=1e-6)


@pytest.mark.parametrize("delta", [1e-13, 1e-14, 2e-15])
def test_where_one_accountant_gives_up_another_speaks(delta: float) -> None:
    events = [Event(0.5, 0.5, 5)]
    found = epsilon(events, delta)
    assert math.isfinite(found) and found <= gaussian_epsilon(math.sqrt(5) / 0.5, delta) + 1e-9


def test_so_much_noise_that_prvs_own_error_is_all_that_is_left_costs_nothing() -> None:
    assert epsilon([Event(1e6, 0.1, 10)], 1e-5) == 0.0


@pytest.mark.parametrize("target", [0.001, 0.009, 0.5])
def test_small_targets_are_reached(target: float) -> None:
    z = calibrate(target, 1e-5, 0.1, 10)
    assert epsilon([Event(z, 0.1, 10)], 1e-5) <= target


def test_everybody_in_a_million_rounds_is_closed_form() -> None:
    z = calibrate(8.0, 1e-5, 1.0, 1_000_000)
    assert gaussian_epsilon(1000 / z, 1e-5) == pytest.approx(8.0, rel=1e-6)


@pytest.mark.parametrize("target", [math.inf, math.nan, 0.0, -1.0])
def test_a_target_that_is_no_epsilon_is_refused(target: float) -> None:
    with pytest.raises(InputError):
        calibrate(target, 1e-5, 0.1, 10)
