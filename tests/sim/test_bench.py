"""Arithmetic of a benchmark's row: ratio, limit, fraction, and whether the target holds."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fedapp.cli import main as cli
from sim.bench import cohort
from sim.bench.rows import NEAR, Limit, Row, at_most, missed, row, shown, summary, unmeasured

KEYS = {
    *("case", "unit", "ours", "reference", "ratio", "target"),
    *("limit", "limit_is", "fraction", "holds", "by"),
}


def limited(ours: float, reference: float, target: float | None, least: float | None) -> Row:
    return row("r", "s", ours, reference, target, None if least is None else Limit(least, "work"))


def test_a_ratio_above_one_is_better_than_the_reference() -> None:
    """Seconds or bytes: two of ours against six of theirs is three times better, and six against
    two a third."""
    better = row("a", "s", 2.0, 6.0, 1.0)
    worse = row("b", "s", 6.0, 2.0, 1.0)
    assert (better["ratio"], worse["ratio"]) == (3.0, 2.0 / 6.0)
    assert row("c", "s", 2.0, None, None)["ratio"] is None
    within = at_most("d", "MB", 5.0, 10.0)
    beyond = at_most("e", "MB", 20.0, 10.0)
    assert (within["ratio"], beyond["ratio"]) == (2.0, 0.5)
    assert missed([better, worse, within, beyond]) == [worse, beyond]


@pytest.mark.parametrize(
    ("ours", "reference", "target", "least", "holds", "by"),
    [
        (2.0, 6.0, 3.0, None, True, "ratio"),
        (2.0, 6.0, 3.0, 0.1, True, "ratio"),  # far from the limit, but that was not asked
        (8.5, 11.3, 1.75, 8.1, True, "limit"),  # nothing could be 1.75 times quicker
        (10.0, 11.3, 1.75, 8.6, True, "limit"),
        (10.0, 11.3, 1.75, 8.4, False, None),  # out of reach, but there is more to gain
        (10.0, 60.0, 6.5, 9.0, False, None),  # near the limit, but 6.7 times could be had
        (10.0, 60.0, 6.5, 2.0, False, None),  # neither
        (10.0, 60.0, 6.5, None, False, None),  # no limit known
        (10.0, 60.0, None, 9.9, None, None),  # nothing asked
    ],
)
def test_a_target_holds_by_its_ratio_or_by_a_limit_that_rules_it_out(
    ours: float, reference: float, target: float | None, least: float, holds: bool, by: str
) -> None:
    found = limited(ours, reference, target, least)
    assert (found["holds"], found["by"]) == (holds, by)
    assert found["target"] == target, "the target that was asked for is never replaced in print"
    assert set(found) == KEYS
    assert found["fraction"] == (None if least is None else least / ours)
    assert (missed([found]) == [found]) == (holds is False)


def test_the_limit_counts_from_exactly_its_share() -> None:
    assert limited(1.0, 1.0, 1.5, NEAR)["by"] == "limit"
    assert limited(1.0, 1.0, 1.5, NEAR - 1e-9)["holds"] is False


def test_a_row_in_words() -> None:
    near = shown(limited(10.0, 11.3, 1.75, 8.6))
    assert "limit 8.6 (work)  fraction 0.86  holds by limit" in near
    assert "target 1.75" in near
    assert "DOES NOT HOLD" in shown(limited(10.0, 60.0, 6.5, 9.0))
    bare = shown(unmeasured("g", "s", "no GPU"))
    assert bare == "case g  unit s  note no GPU"
    methods = {"case": "m", "ours": 1.0, "other": 2.0, "shown": ["case", "other"]}
    assert shown(methods) == "case m  other 2", "rows of other kinds have no limit"


def test_the_last_line_counts_what_was_asked() -> None:
    rows = [
        limited(2.0, 6.0, 3.0, None),
        limited(10.0, 11.3, 1.75, 8.6),
        limited(10.0, 60.0, 6.5, 9.0),
        limited(10.0, 60.0, None, 9.0),
    ]
    line = summary(rows)
    assert line.startswith("3 targets: 1 held by ratio, 1 by limit") and "1 not held" in line


@pytest.mark.parametrize(("least", "status"), [(8.6, 0), (5.0, 1), (None, 1)])
def test_check_fails_where_a_target_holds_neither_way(
    least: float | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [limited(10.0, 11.3, 1.75, least)]
    monkeypatch.setattr(cohort, "measure", lambda quick: rows)
    done = CliRunner().invoke(cli.app, ["bench", "cohort", "--check"])
    assert done.exit_code == status, done.output
    assert CliRunner().invoke(cli.app, ["bench", "cohort"]).exit_code == 0
