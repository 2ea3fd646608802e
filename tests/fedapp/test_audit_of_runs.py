"""``fedapp audit`` on whole runs: it looks at what the run's nodes did, and does not cry wolf."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import NODES, PRIVATE
from typer.testing import CliRunner

import privacy.releases.lattice as lattice
from fedapp.audit import audit_run
from fedapp.cli.main import app
from fedapp.store.runfolder import RunFolder
from privacy.audit.floor import LEVEL, Released, judge_floor

Run = Callable[..., RunFolder]
CHANGES: dict[str, Any] = {**PRIVATE, "evaluation.every": 99, "evaluation.steps": "0"}


# ---------------------------------------------------------------------- the test itself
def test_a_norm_of_the_noise_alone_has_the_p_value_it_should() -> None:
    """Norms of pure noise: p-values are uniform, so a tenth lies below 0.1."""
    draw = np.random.default_rng(0)
    norms = np.linalg.norm(draw.normal(size=(4000, 50)) * 3.0, axis=1)
    values = np.array([Released(float(norm), 3.0, 50, 0.0).p_value for norm in norms])
    for level in (0.1, 0.5):
        assert (values < level).mean() == pytest.approx(level, abs=4 * math.sqrt(level / 4000))


def test_a_signal_only_makes_norms_longer() -> None:
    draw = np.random.default_rng(1)
    noise = draw.normal(size=(2000, 50))
    signal = np.linalg.norm(noise + 1.0, axis=1)
    alarms = [judge_floor("", [Released(float(n), 1.0, 50, 9.0)])["verdict"] for n in signal]
    assert "FAIL" not in alarms


def test_a_sum_whose_signal_could_hide_the_missing_noise_is_not_called_tested() -> None:
    """The clip allows a signal of 10; the noise has norm 7."""
    row = judge_floor("", [Released(9.0, 1.0, 50, 10.0)])
    assert row["verdict"] == "NOT TESTED"
    assert judge_floor("", [])["verdict"] == "NOT TESTED"
    assert judge_floor("", [Released(7.0, 1.0, 50, 1.0)])["verdict"] == "PASS"


# ---------------------------------------------------------------------- runs
@pytest.mark.parametrize("release", ["central-dp", "distributed-dp"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_run_without_its_noise_fails_though_its_canaries_pass(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    release: str, share: float,
) -> None:  # fmt: skip
    """The nodes (or the server) add none of the noise, or half of it; the release is honest again
    when it is audited."""
    with monkeypatch.context() as patch:
        deviation = lattice.LatticeRelease._deviation
        patch.setattr(
            lattice.LatticeRelease,
            "_deviation",
            lambda self, public: share * deviation(self, public),
        )
        folder = run(nodes=NODES, **{**CHANGES, "release": release})
    result = audit_run(folder, 60)
    own = {row["test"]: row for row in result["noise"]}
    shortest = own["the run's own sums"]["ratio"]
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{release} with {share:g} of its noise: {result['verdict']}, shortest sum "
            f"{shortest:.3f} of its noise"
        )
    assert result["verdict"] == "FAIL"
    assert own["the run's own sums"]["verdict"] == "FAIL"
    assert own["sums of canaries"]["verdict"] == "PASS"
    said = CliRunner().invoke(app, ["audit", str(folder.path), "--canaries", "60"])
    assert said.exit_code == 1


def test_fifty_honest_runs_raise_few_alarms(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bounds on epsilon fail with 5 % at most, norms with two times 0.1 %: 2.6 of 50 are expected
    at most; more than 7 would have probability 0.6 %."""
    alarms, ratios = 0, []
    for number in range(50):
        folder = run(
            nodes=NODES,
            **{**CHANGES, "release": "distributed-dp", "rounds": 1},
            **{"run-dir": str(tmp_path / f"run-{number}")},
        )
        result = audit_run(folder, 60)
        alarms += result["verdict"] == "FAIL"
        ratios += [row["ratio"] for row in result["noise"]]
    with capsys.disabled():
        print(  # noqa: T201
            f"\n50 honest runs: {alarms} false alarms, at most {50 * (0.05 + 2 * LEVEL):.1f} "
            f"expected; shortest norms {min(ratios):.3f} to {max(ratios):.3f} of the noise alone"
        )
    assert alarms <= 7


def test_the_report_says_what_the_canaries_do_not_test(run: Run) -> None:
    folder = run(nodes=NODES, **{**CHANGES, "release": "distributed-dp", "report.page": True})
    said = CliRunner().invoke(app, ["audit", str(folder.path), "--canaries", "60"])
    assert "not what the run's nodes did" in " ".join(said.stderr.split())
    assert json.loads((folder.path / "audit.json").read_text(encoding="utf-8"))["noise"]
    for page in ("report.html", "privacy_report.html"):
        assert "shortest over its noise" in (folder.path / page).read_text(encoding="utf-8")
