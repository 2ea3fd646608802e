"""What is made of a run's events: its last word counts, and what is compared with what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kit import told_evaluation, told_round

from fedapp.results import membership_gap, merged, summarise
from fedapp.store.runfolder import RunFolder

Told = Callable[..., RunFolder]


def of_both(mean: float) -> dict[str, Any]:
    return {"mean": mean, "max": mean + 1, "n": 4}


def test_the_last_round_and_the_last_evaluation_count_and_floors_are_taken_off_each_side(
    told: Told,
) -> None:
    """Members render to 25 dB of constant colours' 12, non-members to 15 of 9: 10 dB apart, 13 over
    against 6 over is 7."""
    events = [
        told_round(1, psnr_p=of_both(20.0), psnr_floor=of_both(11.0)),
        told_evaluation(1, psnr={"0": 13.0}, psnr_floor_held_out=8.0),
        told_round(2, psnr_p=of_both(25.0), psnr_floor=of_both(12.0)),
        told_evaluation(2, psnr={"0": 15.0}, psnr_floor_held_out=9.0),
    ]
    row = summarise(told(events, methods="maml"))["methods"]["maml"]
    assert row["psnr"] == {"0": 15.0} and row["psnr_floor_held_out"] == 9.0
    assert row["psnr_p"] == {"mean": 25.0, "max": 26.0, "n": 4}
    assert row["member_minus_nonmember"] == 25.0 - 15.0
    assert (
        row["member_minus_nonmember_over_floor"]
        == pytest.approx((25.0 - 12.0) - (15.0 - 9.0))
        == 7.0
    )


def test_means_are_over_the_last_of_every_seed(told: Told) -> None:
    events = [
        event
        for seed, last in ((0, 10.0), (1, 30.0))
        for number, value in ((1, 99.0), (2, last))
        for event in (
            told_round(number, seed=seed, psnr_p=of_both(value)),
            told_evaluation(number, seed=seed, psnr={"0": value}),
        )
    ]
    row = summarise(told(events, methods="maml", seeds="0,1"))["methods"]["maml"]
    assert row["psnr"] == {"0": 20.0} and row["psnr_p"]["mean"] == 20.0


def test_a_plugins_metric_under_one_of_our_names_does_not_break_the_result() -> None:
    row = {"psnr": 30.0, "psnr_p": 1.0, "psnr_floor": None, "psnr_floor_held_out": None}
    assert set(membership_gap(row).values()) == {None}
    assert merged([{"a": {"m": 1.0}}, {"a": 1.0}]) == {"a": None}
    assert merged([{"a": [{"x": 1}]}]) == {"a": None}
    assert merged([{"a": [0.1, 0.3]}, {"a": [0.3]}]) == {"a": [0.1, 0.3]}
