"""The budget report's own numbers: what a mixed ledger promises, what is left, what mu means; and a
plan's advice."""

from __future__ import annotations

import math
from typing import Any

import pytest
from budget_kit import DELTA, charged, facts

from privacy.accounting import gaussian_epsilon
from privacy.budget.facts import weakest
from privacy.budget.plan import Plan, predict
from privacy.budget.report import build_report
from privacy.joint import CHECK
from privacy.releases.secagg import SecAgg
from privacy.settings import PrivacySettings


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


def entries_of(cohorts: list[list[int]], **reserve: Any) -> list[Any]:
    """Charged rounds with these cohorts, the first of them aborted, after one restart."""
    blank = {"type": "reserve", "rate": 0.0, "placement": "central", "masked": False, "run": "r"}
    entries: list[Any] = [{"type": "resume", "run": "r"}]
    for number, clients in enumerate(cohorts):
        entries.append({**blank, "multiplier": 2.0, **reserve})
        entries.append({"type": "cohort", "clients": clients, "run": "r"})
        last = {"type": "release", "counted": len(clients)} if number else {"type": "abort"}
        entries.append({**last, "run": "r"})
    return entries


def test_who_took_part_how_often_by_hand() -> None:
    """Four of the population of five in 3, 2, 1 and 1 of three rounds: an aborted round counts."""
    made = facts(entries_of([[0, 1], [0, 2], [0, 1, 3]]), population=5, per_round=2)
    report = build_report(made)
    assert report["sampling"]["participations"] == {
        "min": 0, "median": 1, "max": 3, "histogram": {"0": 1, "1": 2, "2": 1, "3": 1},
    }  # fmt: skip
    cohort = report["sampling"]["cohort"]
    assert cohort == {"expected": 2.0, "mean": pytest.approx(7 / 3), "min": 2, "max": 3}
    accounting = report["accounting"]
    assert [accounting[key] for key in ("charged", "released", "aborted")] == [3, 2, 1]
    assert accounting["mu"] == pytest.approx(math.sqrt(3) / 2)
    assert accounting["epsilon"] == pytest.approx(gaussian_epsilon(math.sqrt(3) / 2, DELTA))
    twice = gaussian_epsilon(math.sqrt(3), DELTA)
    assert accounting["epsilon_replace_one"] == pytest.approx(twice), "a change moves mu by 2"
    assert report["provenance"]["restarts"] == 1
    assert (report["sampling"]["rate"], report["sampling"]["rule"]) == (None, "fixed")


def test_accountants_are_named_and_compared() -> None:
    """Of known cohorts PRV and RDP bound the same event: RDP is looser, and not by a quarter."""
    found = build_report(facts(charged(4)))["accounting"]
    every = found["all_rounds"]
    known = [every[key] for key in ("prv_upper", "rdp", "pld") if every[key] is not None]
    assert every["rdp"] > every["prv_upper"] > found["epsilon"] - 1e-6
    assert found["disagreement"] == pytest.approx(max(known) - min(known))
    assert found["agree"] == (found["disagreement"] <= 0.25 * max(known))
    assert found["amplified"]["epsilon"] is None
    curve = {row["delta"]: row["epsilon"] for row in found["curve"]}
    assert curve[1e-5] == pytest.approx(found["epsilon"])
    assert list(curve.values()) == sorted(curve.values()), "a smaller delta costs more"


def test_secret_coins_amplify_for_those_who_do_not_know_the_cohort() -> None:
    """Four rounds at rate 1/10 cost less than four everybody was in; the claim stays the exact one
    of the busiest client."""
    entries = entries_of([[0], [0], [0], [0]], rate=0.1)
    made = facts(entries, sampling="poisson", population=10, per_round=1)
    found = build_report(made)
    assert found["sampling"]["rate"] == pytest.approx(0.1)
    amplified = found["accounting"]["amplified"]["epsilon"]
    assert amplified == found["accounting"]["all_rounds"]["prv_upper"]
    assert (
        0
        < amplified
        < found["accounting"]["epsilon"]
        == pytest.approx(gaussian_epsilon(1.0, DELTA))
    )


def test_what_is_left_of_the_budget_by_hand() -> None:
    """The limit is at mu^2 = 4; five rounds at z = 2 took 5/4, and 11/4 are left: 11 rounds, or 22
    where nobody takes part twice in two. Of twice ten planned rounds fifteen are missing."""
    limit = gaussian_epsilon(2.0, DELTA)
    for separation, left in ((1, 11), (2, 22)):
        made = facts(charged(5), epsilon_max=limit, separation=separation, arms=2)
        found = build_report(made)["budget"]
        assert (found["rounds_left"], found["rounds_missing"]) == (left, 15)
        assert found["spent"] + found["remaining"] == pytest.approx(limit)
        # each arm: ceil(7.5 / separation) rounds of its busiest client
        most = 2 * math.ceil(7.5 / separation)
        needed = math.sqrt(most / (11 / 4))
        assert found["noise_multiplier_to_finish"] == pytest.approx(needed, rel=1e-4)
        assert found["exhausted"] is False
    stopped = facts([*charged(5), {"type": "stop", "run": "r"}], epsilon_max=limit)
    assert build_report(stopped)["budget"]["exhausted"] is True
    over = build_report(facts(charged(17), epsilon_max=limit, planned_rounds=17))["budget"]
    assert (over["remaining"], over["rounds_left"]) == (0.0, 0)
    assert over["noise_multiplier_to_finish"] is None


def test_every_question_has_an_answer() -> None:
    """Also of releases without noise, where nothing is claimed."""
    for entries in (charged(2), charged(2, 0.0, "none", masked=True)):
        rows = build_report(facts(entries))["checklist"]
        assert len({row["question"] for row in rows}) == len(rows) == 12
        assert all(set(row) == {"question", "answer"} and row["answer"] for row in rows)


def test_the_worst_audit_is_the_verdict() -> None:
    for verdicts, expected in (
        ([], "not audited"),
        (["PASS"], "PASS"),
        (["PASS", "WARN"], "WARN"),
        (["FAIL", "WARN", "PASS"], "FAIL"),
    ):
        made = facts(charged(1), audit=[{"verdict": verdict} for verdict in verdicts])
        report = build_report(made)
        assert report["audit"]["verdict"] == expected
        assert {"question": "Was it tested empirically?", "answer": expected} in report["checklist"]


def test_the_mechanism_by_hand() -> None:
    """Ten numbers under central-dp; a release without noise divides by weights and adds none."""
    rows = [{"clip": 1.0, "update_norm": 0.5}, {"clip": 0.8}, {"update_norm": None}]
    report = build_report(facts(charged(2), provenance={"flwr": "1.41"}, realised=rows))
    mechanism = report["mechanism"]
    expected = {
        "release": "central-dp", "placement": "central", "secure_aggregation": False,
        "noise_multiplier": 2.0, "sensitivity": 1.0, "clip_norm_start": 1.0,
        "adaptive_clip": False, "clip_norms": [1.0, 0.8], "ring_bits": 32,
        "blocks": {"weight": 0.0, "clip_bit": 0.0, "scalar": 0.0, "metrics": []},
        "coordinates": 10 + CHECK,
    }  # fmt: skip
    assert {key: mechanism[key] for key in expected} == expected
    assert "public constant" in mechanism["denominator"] and "AES" in mechanism["noise_source"]
    assert mechanism["delta_slack"] == pytest.approx((10 + CHECK) * 2.0**-64)
    assert report["utility"]["update_norms"] == [0.5]
    ratio = 2.0 * math.sqrt(10) / 2.0  # z S sqrt(d) / m
    assert report["utility"]["noise_to_signal"] == pytest.approx(ratio)
    provenance = report["provenance"]
    assert [provenance[key] for key in ("flwr", "ledger", "ledger_seq", "restarts")] == [
        "1.41", "ledger", 0, 0,
    ]  # fmt: skip
    assert provenance["ledger_head"] == "0" * 64 and "system" in provenance["noise_seed"]
    assert "public seed" in report["sampling"]["statement"]

    masked = SecAgg(PrivacySettings(), 10)
    bare = build_report(facts(charged(2, 0.0, "none", masked=True), release=masked))
    assert bare["mechanism"]["denominator"] == "the sum of weights"
    assert bare["mechanism"]["noise_source"] is None is bare["mechanism"]["delta_slack"]
    assert bare["mechanism"]["secure_aggregation"] is True and bare["budget"] is None
    assert bare["utility"]["noise_to_signal"] is None is bare["meaning"]
