"""The worked example of the docs: FedAdam as a package of its own keeps the contract and runs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fedapp import ROOT
from fedapp.cli.main import app
from fedapp.contract.rule import NOT_APPLIED, check_rule
from fedapp.store.runfolder import RunFolder
from strategies.settings import RuleSettings
from strategies.types import Aggregate

EXAMPLE = ROOT / "docs" / "examples" / "fedadam"
pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="docs are not part of a bundle")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))


def test_it_keeps_the_contract() -> None:
    found = check_rule("fedadam:FedAdam")
    assert found.pop("server-clip") == NOT_APPLIED
    assert set(found.values()) == {""}, found


def test_the_command_says_so() -> None:
    done = CliRunner().invoke(app, ["check", "rule", "fedadam:FedAdam"])
    assert done.exit_code == 0, done.output
    wrong = CliRunner().invoke(app, ["check", "rule", "outsiders:Signs"])
    assert wrong.exit_code == 1


def test_a_step_by_hand() -> None:
    """From m = 0, v = tau^2 = 0.09 and a mean of 3: m = 1.5, v = 0.081 + 0.9 = 0.981, a step of 0.3
    * 1.5 / (sqrt(0.981) + 0.3)."""
    from fedadam import FedAdam

    rule = FedAdam(RuleSettings())
    state = rule.init(torch.zeros(1))
    model, state = rule.apply(torch.zeros(1), state, Aggregate(torch.tensor([3.0]), 1.0, {}, 1), 1)
    assert model.item() == pytest.approx(0.3 * 1.5 / (0.981**0.5 + 0.3), rel=1e-6)
    assert state["first"].item() == 1.5 and state["second"].item() == pytest.approx(0.981)


def test_it_runs_and_the_package_names_it(run: Callable[..., RunFolder]) -> None:
    folder = run(rule="fedadam:FedAdam", methods="maml", rounds=2)
    events: list[dict[str, Any]] = [e for e in folder.events() if e["event"] == "round"]
    assert [event["clients"]["failed"] for event in events] == [0, 0]
    project = tomllib.loads(Path(EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["fedapp.rule"] == {"fedadam": "fedadam:FedAdam"}
