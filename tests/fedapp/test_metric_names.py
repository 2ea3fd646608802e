"""Names of metrics: none replaces another, none passes for a value the result derives, none that
was measured goes unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_workflow
from flwr.app import Message
from kit import told_evaluation, told_round

from fedapp.config.experiment import Experiment
from fedapp.metric_names import DERIVED, UPLOADED
from fedapp.report.table import also_measured, number
from fedapp.results import summarise
from fedapp.store.runfolder import RunFolder
from privacy.attacks import render
from sim.inprocess import InProcessGrid
from strategies.release import ROUND_METRICS
from tasks.errors import InputError, StoppedError
from tasks.types import Evaluation

Run = Callable[..., RunFolder]
Told = Callable[..., RunFolder]
TOY = {
    "task": "toy_workflow:Line",
    "methods": "slow",
    "evaluation.uploads": False,
    "rounds": 1,
    "clients.total": 2,
}


def test_the_scores_of_uploads_are_the_reserved_ones() -> None:
    assert render.METRICS == UPLOADED


@pytest.mark.parametrize("learner", ["ClaimsAScore", "ClaimsAClip"])
def test_a_learner_that_declares_one_of_our_metrics_is_refused(
    smoke: Callable[..., dict[str, Any]], learner: str
) -> None:
    with pytest.raises(InputError, match="which the run measures itself"):
        Experiment.from_run_config(smoke(methods=f"outsiders:{learner}"))


@pytest.mark.parametrize("name", ROUND_METRICS)
def test_a_metric_inside_a_sum_cannot_take_the_name_of_what_every_sum_has(
    smoke: Callable[..., dict[str, Any]], name: str
) -> None:
    changes: dict[str, Any] = {
        "methods": "maml",
        "release": "central-dp",
        "evaluation.uploads": False,
        "rules.server-clip": 0.0,
        "privacy.epsilon-max": 9.0,
        "privacy.metrics": json.dumps({name: [0, 1]}),
    }
    with pytest.raises(InputError, match=r"every private sum has|no such metric") as caught:
        Experiment.from_run_config(smoke(**changes))
    assert caught.value.key == "privacy.metrics"


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("half", ["turn", "evaluate"])
def test_nothing_is_measured_under_the_name_of_a_derived_value(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, half: str
) -> None:
    """``epsilon_local`` is a promise: a plug-in's number must not pass for it."""
    honest: Any = getattr(toy_workflow.Gradients, half)

    def claiming(self: Any, *args: Any) -> Any:
        told = honest(self, *args)
        told.metrics[name] = 0.01
        return told

    monkeypatch.setattr(toy_workflow.Gradients, half, claiming)
    with pytest.raises(InputError, match="derives this value itself") as caught:
        run(**TOY)
    assert caught.value.value == name


def test_turns_and_evaluations_may_share_a_name(told: Told) -> None:
    """The evaluation keeps it, whichever seed has one; what turns measured stands beside it."""
    events = [
        told_round(1, loss=3.0, steps=4.0),
        told_evaluation(1, loss=1.0, loss_training=7.0),
    ]
    row = summarise(told(events, methods="maml"))["methods"]["maml"]
    assert row["loss"] == 1.0 and row["loss_training"] == 7.0 and row["steps"] == 4.0
    assert row["loss_training_training"] == 3.0


def test_an_arm_that_no_method_names_is_refused_before_it_trains(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = toy_workflow.build

    def more(run_facts: Any) -> Any:
        lineup = build(run_facts)
        lineup.arms.append(toy_workflow.Gradients(run_facts, "fast", 0))
        return lineup

    monkeypatch.setattr(toy_workflow, "build", more)
    with pytest.raises(InputError, match="trains fast at seed 0"):
        run(**TOY)


def test_an_early_end_tells_every_client_once(run: Run, smoke: Callable[..., Any]) -> None:
    class FailsInRoundThree(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            if message.metadata.message_type != "train":
                return replies
            late = replies[0].content.config_records["origin"]["round"] == 3
            return [] if late else replies

    with pytest.raises(StoppedError, match="0 clients answered"):
        run(grid=FailsInRoundThree, **{"methods": "maml", "rounds": 4, "runtime.timeout": 0.5})
    folder = RunFolder.open(Path(smoke()["run-dir"]))
    (told_last,) = [event for event in folder.events() if event["event"] == "clients"]
    assert told_last["round"] == 2 and not any(
        "by_client" in event for event in folder.events() if event["event"] == "round"
    )
    scores = sorted(told_last["by_client"]["psnr_p"].values())
    row = json.loads((folder.path / "result.json").read_text(encoding="utf-8"))["methods"]["maml"]
    middle = (scores[(len(scores) - 1) // 2] + scores[len(scores) // 2]) / 2
    assert row["psnr_p_quantiles"]["0.5"] == pytest.approx(middle)


def test_everything_that_was_measured_is_shown() -> None:
    """Booleans, words, lists, and an ``n`` that is no count of clients."""
    row: dict[str, Any] = {
        "settled": True,
        "verdict": "held",
        "knots": [1.0, 2.5],
        "words": ["a", "b"],
        "group": {"n": 7, "mean": 1.0},
        "over clients": {"mean": 2.0, "max": 3.0, "n": 4},
        "nothing": None,
    }
    table = also_measured({"m": row}, {"m": "M"}, set())
    assert table is not None
    assert dict(map(tuple, table.rows)) == {  # type: ignore[arg-type]
        "settled": "true",
        "verdict": "held",
        "knots": "1, 2.5",
        "words": "a, b",
        "group n": "7",
        "group mean": "1",
        "over clients mean": "2",
        "over clients max": "3",
    }
    assert number(["a", 1, True]) == "a, 1, true"


def test_an_evaluation_may_measure_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = toy_workflow.Gradients.evaluate

    def wordy(self: Any, *args: Any) -> Evaluation:
        told = honest(self, *args)
        told.metrics["verdict"] = "held"
        return told

    monkeypatch.setattr(toy_workflow.Gradients, "evaluate", wordy)
    folder = run(**TOY, **{"report.page": True})
    assert "verdict" in (folder.path / "report.html").read_text(encoding="utf-8")
