"""Private runs cut off, resumed, with nodes lost, with metrics inside the sum."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from kit import NODES, PRIVATE
from safetensors.torch import load_file

from fedapp.client_app import app as client_app
from fedapp.server_app import app as server_app
from fedapp.store.checkpoint import list_checkpoints, load_checkpoint
from fedapp.store.runfolder import RunFolder
from privacy.accounting import gaussian_epsilon
from privacy.budget.ledger import read_entries
from sim.inprocess import InProcessGrid, run_in_process
from tasks.errors import InputError, StoppedError

Run = Callable[..., RunFolder]
UNJUDGED = {
    "evaluation.steps": "0",
    "evaluation.every": 99,
    "data.held-out": 1,
}  # where only rounds are looked at


def model(folder: RunFolder) -> torch.Tensor:
    return load_file(list_checkpoints(folder.checkpoints)[-1])["maml-0/model"]


class PowerCut(BaseException):
    """Stands in for the kill."""


def test_resume_charges_the_lost_round_and_refuses_a_shorter_ledger(
    run: Run, smoke: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**PRIVATE, "rounds": 4, "release": "central-dp", "privacy.noise-multiplier": 4.0}
    append = RunFolder.append

    def cut(self: RunFolder, event: dict[str, Any]) -> None:
        if event["event"] == "round" and event["round"] == 3:
            raise PowerCut
        append(self, event)

    monkeypatch.setattr(RunFolder, "append", cut)
    with pytest.raises(PowerCut):
        run(nodes=2, **changes)
    monkeypatch.undo()
    config = smoke(**changes, **{"runtime.nodes": 2}) | {"resume": True}
    folder = RunFolder(Path(config["run-dir"]))
    ledger = folder.path / "population" / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    with pytest.raises(InputError, match="ends at entry"):
        run_in_process(server_app, client_app, config, 2)
    ledger.write_bytes(whole)
    run_in_process(server_app, client_app, config, 2)
    reserves = [entry for entry in read_entries(ledger) if entry["type"] == "reserve"]
    assert [entry["round"] for entry in reserves] == [1, 2, 3, 3, 4]  # the lost round counts
    assert folder.read("result.json")["epsilon"] == pytest.approx(
        gaussian_epsilon(math.sqrt(5) / 4.0, 1e-5)
    )


def test_a_resumed_run_goes_on_with_the_clip_it_had_adapted_to(run: Run) -> None:
    """The noise drives the share to its ends; at the median two such steps, exp(0.1) and exp(-0.1),
    could cancel."""
    changes = {**PRIVATE, **UNJUDGED, "release": "central-dp"}
    changes |= {"privacy.adaptive-clip": True, "privacy.clip-quantile": 0.9}
    folder = run(nodes=2, **changes)
    adapted = load_checkpoint(list_checkpoints(folder.checkpoints)[-1], {}).state["maml-0"][
        "release"
    ]["clip"]
    assert adapted != 1.0
    folder = run(nodes=2, **{**changes, "rounds": 3, "resume": True})
    clips = {
        event["round"]: event["metrics"]["clip"]
        for event in folder.events()
        if event["event"] == "round"
    }
    assert clips[1] == 1.0 and clips[3] == adapted != clips[2]


# ---------------------------------------------------------------- dropouts in messages
@pytest.mark.parametrize("leg", ["query.share", "train.masked", "query.confirm", "query.unmask"])
@pytest.mark.parametrize("lost", [1, 2])
def test_lost_nodes_are_survived_at_every_leg_or_the_round_aborts(
    run: Run, leg: str, lost: int
) -> None:
    """6 nodes, threshold 5: one may vanish, two may not."""

    class Losing(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            if message.metadata.message_type == leg and message.metadata.dst_node_id < 1000 + lost:
                return []
            return super().deliver(message)

    changes = {**PRIVATE, "rounds": 1, "release": "distributed-dp", "runtime.timeout": 2.0}
    if lost == 2:
        with pytest.raises(StoppedError, match="no sum was unmasked"):
            run(nodes=NODES, grid=Losing, **changes)
        return
    folder = run(nodes=NODES, grid=Losing, **changes)
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    counted = 6 if leg in ("query.confirm", "query.unmask") else 5
    assert event["clients"]["ok"] == counted and torch.isfinite(model(folder)).all()


def test_two_methods_share_nodes_and_keys(run: Run) -> None:
    folder = run(
        nodes=NODES, **{**PRIVATE, "methods": "maml,fedmenf", "rounds": 3}, release="secagg"
    )
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert len(rounds) == 6 and all(event["clients"] == {"ok": 6, "failed": 0} for event in rounds)


def test_a_metric_that_does_not_exist_is_said_before_anything_starts(run: Run) -> None:
    with pytest.raises(InputError, match="no such metric"):
        run(nodes=NODES, **{**PRIVATE, "privacy.metrics": '{"nonsense": [0, 1]}'}, release="secagg")


def test_metrics_arrive_inside_the_sum(run: Run) -> None:
    folder = run(
        nodes=NODES, **{**PRIVATE, "privacy.metrics": '{"objective_min": [0, 1]}'}, release="secagg"
    )
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert all(0 < event["metrics"]["objective_min"] < 1 for event in rounds)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"evaluation.uploads": True}, "evaluation.uploads"),
        ({"runtime.nodes": 4, "release": "secagg"}, "runtime.nodes"),
        ({"privacy.epsilon-max": 0.0}, "privacy.epsilon-max"),
        ({"privacy.noise-multiplier": 0.0}, "privacy.noise-multiplier"),
        ({"privacy.target-epsilon": 3.0}, "privacy.noise-multiplier"),
        ({"privacy.sampling": "poisson"}, "clients.per-round"),
        (
            {"privacy.sampling": "poisson", "release": "plain", "clients.per-round": 2},
            "privacy.sampling",
        ),
        (
            {"privacy.sampling": "poisson", "release": "secagg", "clients.per-round": 5},
            "privacy.sampling",
        ),
        ({"privacy.metrics": json.dumps({"objective": [2, 1]})}, "privacy.metrics"),
    ],
)
def test_what_does_not_go_together_is_refused(
    smoke: Callable[..., dict[str, Any]], changes: dict[str, Any], key: str
) -> None:
    from fedapp.config.experiment import Experiment

    base = {**PRIVATE, "release": "central-dp", "runtime.nodes": 6}
    with pytest.raises(InputError) as caught:
        Experiment.from_run_config(smoke(**{**base, **changes}))
    assert caught.value.key == key and caught.value.reason and caught.value.remedy
