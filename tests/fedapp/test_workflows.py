"""A plug-in's workflow through whole runs: trained, evaluated, reported, checkpointed, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.node.shapes import Shapes
from fedapp.report.families import Shown, tables_of
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from fedapp.workflows import SUMS, kind_of
from strategies.types import Bounds
from tasks.errors import InputError

Run = Callable[..., RunFolder]
TOY = {
    "task": "toy_workflow:Line", "methods": "slow,fast", "evaluation.uploads": False,
    "rounds": 6, "clients.total": 5, "evaluation.every": 2, "report.page": True,
}  # fmt: skip


def models(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(folder.checkpoints)[-1])


def test_a_workflow_of_anybodys_trains_is_judged_and_reported(run: Run) -> None:
    folder = run(**TOY)
    events = list(folder.events())
    rounds = [event for event in events if event["event"] == "round"]
    assert [event["clients"]["ok"] for event in rounds] == [5] * 12
    judged = [e for e in events if e["event"] == "evaluation" and e["method"] == "fast"]
    assert [event["round"] for event in judged] == [2, 4, 6]
    losses = [event["metrics"]["mse"] for event in judged]
    assert losses[0] > losses[1] > losses[2]
    result = json.loads((folder.path / "result.json").read_text(encoding="utf-8"))
    assert result["workflow"] == "toy_workflow:GRADIENTS"
    assert result["methods"]["fast"]["mse"] == losses[-1] < result["methods"]["slow"]["mse"]
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert f"{losses[-1]:.4f}" in page and "gradient norm" in page
    assert "with the rule" not in page, "neither rule nor release applies"
    tables = tables_of(Shown.of(Pieces.of(folder), result))
    shown = [cell for table in tables for row in table.rows for cell in row]
    assert f"{result['methods']['slow']['gradient norm']:.4f}" in shown


def test_it_resumes_with_the_same_bits(run: Run, tmp_path: Path) -> None:
    whole = run(**TOY, **{"run-dir": str(tmp_path / "whole")})
    run(**{**TOY, "rounds": 3, "run-dir": str(tmp_path / "cut")})
    resumed = run(**TOY, **{"run-dir": str(tmp_path / "cut"), "resume": True})
    one, two = models(whole), models(resumed)
    assert one.keys() == two.keys() == {"slow-0/model", "fast-0/model"}
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_node_that_fails_is_named_and_others_go_on(run: Run, monkeypatch: Any) -> None:
    import toy_workflow

    leg = toy_workflow.GradientNode.leg

    def failing(self: Any, name: str, content: Any) -> Any:
        if 4 in content["clients"]["ids"]:
            raise RuntimeError("the disk is gone")
        return leg(self, name, content)

    monkeypatch.setattr(toy_workflow.GradientNode, "leg", failing)
    folder = run(**{**TOY, "rounds": 1})
    event = next(event for event in folder.events() if event["event"] == "round")
    assert event["clients"]["ok"] + event["clients"]["failed"] == 5 > event["clients"]["ok"]
    assert "the disk is gone" in event["failures"]["4"]


def test_a_workflow_says_which_methods_there_are(smoke: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="no such rate"):
        Experiment.from_run_config(smoke(**{**TOY, "methods": "maml"}))
    with pytest.raises(InputError) as caught:
        Experiment.from_run_config(smoke(workflow="sum"))
    assert caught.value.key == "workflow" and "sums" in caught.value.remedy


def test_a_release_that_would_protect_nothing_is_refused(
    smoke: Callable[..., dict[str, Any]],
) -> None:
    """Else a node whose policy asks for secagg would take part in whatever another one sends."""
    with pytest.raises(InputError, match="makes no sums") as caught:
        Experiment.from_run_config(smoke(**{**TOY, "release": "secagg"}))
    assert caught.value.key == "release"


def test_shapes_that_cannot_be_read_count_as_unknown(tmp_path: Path) -> None:
    shapes = Shapes(tmp_path / "shapes.json")
    for text in ("", "[]", '{"d": 5}', '{"d": {"size": 3}}', '{"d": {"size": "x", "scalars": {}}}'):
        shapes.file.write_text(text, encoding="utf-8")
        assert shapes.get("d") is None
    bounds = {"steps": Bounds(0.0, 9.0, weighted=True)}
    assert shapes.put("d", 7, bounds) == shapes.get("d") == (7, bounds)


def test_workflows_have_a_registry() -> None:
    assert kind_of("sums") is SUMS
    assert callable(SUMS.part("server")) and callable(SUMS.part("check"))
