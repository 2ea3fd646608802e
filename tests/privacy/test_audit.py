"""The audit finds missing noise, and does not cry wolf."""

from __future__ import annotations

import math

import numpy as np
import pytest

from privacy.accounting import gaussian_epsilon
from privacy.audit import verdict
from privacy.audit.canary import judge, run_canaries
from privacy.audit.estimators import (
    log_null_tail,
    normal_epsilon,
    null_bound,
    one_run,
    one_run_bound,
    one_run_p_value,
)
from privacy.releases.central import CentralDP
from privacy.releases.distributed import DistributedDP
from privacy.releases.lattice import LatticeRelease
from privacy.settings import PrivacySettings

DELTA = 1e-5


@pytest.mark.parametrize(
    ("m", "r", "v", "epsilon", "delta", "p"),
    [
        (1000, 100, 95, 2.0, 1e-5, 0.017825),
        (1000, 100, 95, 2.5, 1e-5, 0.224259),
        (1000, 1000, 700, 0.5, 1e-5, 0.000187),
        (100, 20, 20, 2.0, 0.0, 0.078980),
    ],
)
def test_one_run_p_values(m: int, r: int, v: int, epsilon: float, delta: float, p: float) -> None:
    """Equal to jax_privacy.auditing to six digits."""
    assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(p, abs=6e-7)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "bound"),
    [
        (1000, 100, 95, 1e-5, 2.1652),
        (1000, 1000, 700, 1e-5, 0.7317),
        (100, 20, 20, 0.0, 1.8227),
        (1000, 50, 50, 1e-5, 2.7562),
    ],
)
def test_one_run_bounds(m: int, r: int, v: int, delta: float, bound: float) -> None:
    assert one_run_bound(m, r, v, delta, 0.95) == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
def test_equal_variances_give_the_gaussian_epsilon(mu: float) -> None:
    assert normal_epsilon(0.0, 2.0, 2.0 * mu, 2.0, DELTA) == pytest.approx(
        gaussian_epsilon(mu, DELTA), abs=1e-6
    )


def test_unequal_variances_by_quadrature() -> None:
    """delta(eps) of N(0,1) against N(1, 1.3^2), integrated on a grid."""
    epsilon = normal_epsilon(0.0, 1.0, 1.0, 1.3, 1e-3)
    y = np.linspace(-15, 25, 2_000_001)

    def density(mean: float, std: float) -> np.ndarray:
        return np.exp(-(((y - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))

    p, q = density(0.0, 1.0), density(1.0, 1.3)
    step = y[1] - y[0]
    worst = max(np.maximum(a - math.exp(epsilon) * b, 0).sum() * step for a, b in ((p, q), (q, p)))
    assert worst == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("dimension", [50, 5000])
def test_the_null_is_the_cosine_of_random_directions(dimension: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4000, dimension))
    cosines = vectors[:, 0] / np.linalg.norm(vectors, axis=1)
    at = 2.0 / math.sqrt(dimension)
    expected = math.exp(log_null_tail(at, dimension))
    assert (cosines >= at).mean() == pytest.approx(expected, abs=5 * math.sqrt(expected / 4000))


# ---------------------------------------------------------------- confidence is shared
def test_the_null_bound_pays_for_every_threshold_it_tries() -> None:
    """Ten canaries, all with the same cosine c at 5 deviations: none is missed at any of the 20
    thresholds.

    No miss among n leaves a miss rate of 1 - a^(1/n) at level a (Clopper-Pearson), so epsilon is
    log(a^(1/n) - delta) - log Phi(-c sqrt(d)); a is a 20th of what is left of the confidence.
    """
    level, tail = 0.05 / 20, math.erfc(5 / math.sqrt(2)) / 2
    expected = math.log(level ** (1 / 10) - DELTA) - math.log(tail)
    assert null_bound(np.full(10, 0.1), 2500, DELTA, 0.95, thresholds=20) == pytest.approx(
        expected, rel=1e-9
    )


def test_the_one_run_bound_pays_for_every_number_of_guesses_it_tries() -> None:
    """Forty coins, all guessed: p^40 = a with p = e^eps/(1 + e^eps), a a third of 5 %; fewer
    guesses bound less."""
    included = np.arange(40) >= 20
    right = (0.05 / 3) ** (1 / 40)
    found = one_run(np.arange(40.0), included, 0.0, 0.95, shares=(0.1, 0.3, 1.0))
    assert found == pytest.approx(math.log(right / (1 - right)), abs=1e-5)


def test_both_bounds_of_an_audit_together_hold_with_95_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import privacy.audit.canary as canary

    asked: list[float] = []
    for name in ("null_bound", "one_run"):
        monkeypatch.setattr(canary, name, lambda *arguments: asked.append(arguments[3]) or 0.0)
    rng = np.random.default_rng(0)
    judge(
        canary.Canaries(rng.normal(size=40), np.arange(40) >= 20, np.ones(40, np.int64), 100),
        1.0,
        DELTA,
    )
    assert asked == pytest.approx([0.975, 0.975])


def release(multiplier: float, size: int, kind: type[LatticeRelease] = CentralDP) -> LatticeRelease:
    return kind(PrivacySettings(noise_multiplier=multiplier), size)


def test_a_run_whose_noise_was_forgotten_is_rejected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test doubles that claim z = 3 and add nothing, centrally and on the nodes."""
    import privacy.releases.lattice as lattice

    bounds = []
    for kind, nodes in ((CentralDP, 1), (DistributedDP, 6)):
        with monkeypatch.context() as patch:
            patch.setattr(lattice, "add_noise", lambda vector, deviation: None)
            patch.setattr(
                lattice.Entropy,
                "integer_noise",
                lambda self, count, deviation: np.zeros(count, np.int64),
            )
            rows = judge(
                run_canaries(release(3.0, 4000, kind), "round-robin", 0.2, 20, 4000, 300, nodes),
                3.0,
                DELTA,
            )
        assert verdict(rows) == "FAIL"
        bounds.append((rows[0]["claimed"], rows[1]["lower_bound"], rows[2]["lower_bound"]))
    with capsys.disabled():
        print(f"\nnoise switched off: (claim, null bound, one-run bound) = {bounds}")  # noqa: T201


def test_half_the_noise_is_noticed_by_the_estimate() -> None:
    rows = judge(run_canaries(release(1.0, 4000), "fixed", 1.0, 4, 4000, 400, 1), 2.0, DELTA)
    assert verdict(rows) in ("WARN", "FAIL")


def test_fifty_correct_runs_raise_few_alarms(capsys: pytest.CaptureFixture[str]) -> None:
    """At 95 % confidence 2.5 false alarms are expected at most; more than 7 has probability 0.4
    %."""
    alarms, estimates = 0, []
    for _ in range(50):
        rows = judge(
            run_canaries(release(2.0, 1500), "round-robin", 0.5, 6, 1500, 200, 1), 2.0, DELTA
        )
        alarms += verdict(rows) == "FAIL"
        estimates.append(float(rows[0]["estimate"]))  # type: ignore[arg-type]
    claimed = gaussian_epsilon(math.sqrt(3) / 2.0, DELTA)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n50 correct runs: {alarms} false alarms; claimed {claimed:.2f}, mean estimate "
            f"{np.mean(estimates):.2f}"
        )
    assert alarms <= 7


def test_the_estimate_comes_close_with_many_canaries() -> None:
    """One estimate of 3000 canaries scatters by 0.46 around 3.8 (60 runs); the mean of eight by
    0.16, so that the tolerance of 1.1 is six of its deviations. A single estimate left the
    tolerance in one run of thirty."""
    claimed = gaussian_epsilon(math.sqrt(3) / 2.0, DELTA)
    runs = [
        run_canaries(release(2.0, 4000), "round-robin", 0.5, 6, 4000, 3000, 1) for _ in range(8)
    ]
    estimates = [judge(run, 2.0, DELTA)[0]["estimate"] for run in runs]
    assert np.mean(estimates) == pytest.approx(claimed, rel=0.3)  # type: ignore[arg-type]
