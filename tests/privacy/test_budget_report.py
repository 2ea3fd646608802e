"""The budget report's own numbers: what a mixed ledger promises, what is left, what mu means; and a
plan's advice."""

from __future__ import annotations

import math

import pytest
from budget_kit import DELTA, charged, facts

from privacy.accounting import gaussian_epsilon
from privacy.budget.facts import weakest
from privacy.budget.plan import Plan, predict
from privacy.budget.report import build_report


@pytest.mark.parametrize("turned", [False, True])
def test_a_ledger_promises_what_its_weakest_round_gave(turned: bool) -> None:
    """One round with the nodes' noise under masks, one with the server's in the clear: the server
    is not kept out."""
    rounds = [charged(1, placement="distributed", masked=True), charged(1, placement="central")]
    mixed = facts([entry for entries in (rounds[::-1] if turned else rounds) for entry in entries])
    assert weakest(mixed) == ("central", False)
    report = build_report(mixed)
    assert (
        "against whoever sees the models" in report["claim"]
        and "the server included" not in report["claim"]
    )
    assert {row["who"]: row["protection"] for row in report["against"]}[
        "server, honest but curious"
    ].endswith("without noise")
    alone = facts(rounds[0])
    assert (
        weakest(alone) == ("distributed", True)
        and "the server included" in build_report(alone)["claim"]
    )
    unnoised = facts([*rounds[0], *charged(1, 0.0, "none", masked=True)])
    assert weakest(unnoised) == ("none", True)


def test_the_noise_that_would_finish_the_run_is_what_the_rest_of_the_budget_allows() -> None:
    """The limit lies at mu = 1. Four rounds at z = 4 took 4/16 of mu^2: the six that are missing
    share 3/4."""
    limit = gaussian_epsilon(1.0, DELTA)
    found = build_report(facts(charged(4, 4.0), 4.0, epsilon_max=limit))["budget"]
    assert found["rounds_missing"] == 10 - 4
    assert found["noise_multiplier_to_finish"] == pytest.approx(math.sqrt(6 / 0.75), rel=1e-5)
    assert 4 / 16 + 6 / found["noise_multiplier_to_finish"] ** 2 == pytest.approx(1.0, rel=1e-5)


def test_the_advantage_at_mu_1() -> None:
    """2 Phi(mu/2) - 1 = erf(mu / sqrt 8) = 0.3829, and at a false-positive rate of 10 % a power of
    38.9 %."""
    found = build_report(facts(charged(4, 2.0)))["meaning"]
    assert found["mu"] == pytest.approx(1.0)
    assert (
        found["max_advantage"]
        == pytest.approx(math.erf(1 / math.sqrt(8)))
        == pytest.approx(0.3829, abs=1e-4)
    )
    assert found["max_true_positive_rate"]["0.1"] == pytest.approx(0.3891, abs=1e-4)


def test_a_whole_share_of_the_rounds_is_not_lifted_by_a_rounded_fraction() -> None:
    """14 / 82 * 41 is 7.000000000000001 in floating point."""
    found = predict(Plan(4.0, 82, DELTA, participations=14))
    rounds = {row["change"]: row for row in found["advice"]}["rounds"]
    assert rounds["to"] == 41 and rounds["epsilon"] == pytest.approx(
        gaussian_epsilon(math.sqrt(7) / 4.0, DELTA)
    )


def test_half_the_rounds_may_still_hit_the_busiest_client_as_often_rounded_up() -> None:
    """Three participations in ten rounds: five rounds can hold two of them, not one and a half, and
    not one."""
    found = predict(Plan(4.0, 10, DELTA, participations=3))
    rounds = {row["change"]: row for row in found["advice"]}["rounds"]
    assert rounds["to"] == 5 and rounds["epsilon"] == pytest.approx(
        gaussian_epsilon(math.sqrt(2) / 4.0, DELTA)
    )
