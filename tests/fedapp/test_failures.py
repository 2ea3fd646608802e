"""Clients that raise, return NaN, wrong shapes or dtypes, or nothing: left out by name, the round
goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Message

from fedapp.store.runfolder import RunFolder
from sim.inprocess import InProcessGrid
from tasks.errors import StoppedError

NODES, BAD = 4, 1002  # one client a node; node 1002 holds client 2
Run = Callable[..., RunFolder]


def grid_that(spoil: Callable[[Message], list[Message]]) -> Callable[..., InProcessGrid]:
    """A grid that hands the bad node's train replies to ``spoil``."""

    class Spoiling(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            if message.metadata.dst_node_id == BAD and message.metadata.message_type == "train":
                return spoil(replies[0])
            return replies

    return Spoiling


def with_vector(values: np.ndarray) -> Callable[[Message], list[Message]]:
    def spoil(reply: Message) -> list[Message]:
        reply.content.array_records["sum"]["vector"] = Array(values)
        return [reply]

    return spoil


def without(record: str) -> Callable[[Message], list[Message]]:
    def spoil(reply: Message) -> list[Message]:
        del reply.content[record]
        return [reply]

    return spoil


def claiming(record: str, key: str, value: Any) -> Callable[[Message], list[Message]]:
    def spoil(reply: Message) -> list[Message]:
        reply.content[record][key] = value  # type: ignore[index]
        return [reply]

    return spoil


def size_of(smoke: Callable[..., Any]) -> int:
    from fedapp.config.experiment import Experiment
    from fedapp.config.pieces import Pieces

    return Pieces(Experiment.from_run_config(smoke())).task.layout.size


CASES: dict[str, tuple[Callable[[int], Callable[[Message], list[Message]]], str]] = {
    "nothing at all": (lambda size: lambda reply: [], "no answer within"),
    "NaN": (lambda size: with_vector(np.full(size, np.nan, np.float32)), "NaN or infinity"),
    "infinity": (lambda size: with_vector(np.full(size, np.inf, np.float32)), "NaN or infinity"),
    "wrong shape": (lambda size: with_vector(np.zeros(size + 1, np.float32)), "has shape"),
    "two dimensions": (lambda size: with_vector(np.zeros((1, size), np.float32)), "has shape"),
    "wrong dtype": (lambda size: with_vector(np.zeros(size, np.float64)), "dtype float64"),
    "no sum": (lambda size: without("sum"), "lacks the record"),
    "no client list": (lambda size: without("clients"), "lacks the record"),
    "negative weight": (lambda size: claiming("sum.meta", "weight", -1.0), "claims weight"),
    "wrong count": (lambda size: claiming("sum.meta", "count", 7), "claims weight"),
    "another round": (lambda size: claiming("origin", "round", 99), "not this one"),
    "another session": (lambda size: claiming("origin", "session", "old"), "not this one"),
    "uneven metrics": (lambda size: claiming("clients", "loss", [1.0, 2.0]), "lists 1 clients"),
    "an origin of another kind": (lambda size: without("origin"), "lacks the record"),
    "failures that do not match": (
        lambda size: claiming("failures", "ids", [1, 2, 3]),
        "malformed",
    ),
    "somebody else's client": (lambda size: claiming("clients", "id", [3]), "not asked to train"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_reply_is_left_out_with_its_reason(
    run: Run, smoke: Callable[..., Any], case: str
) -> None:
    spoil, reason = CASES[case]
    timeout = 0.5 if case == "nothing at all" else 60.0
    folder = run(
        nodes=NODES, grid=grid_that(spoil(size_of(smoke))),
        **{"methods": "maml", "rounds": 2, "runtime.timeout": timeout},
    )  # fmt: skip
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert len(rounds) == 2 and folder.status["state"] == "finished"
    for event in rounds:
        assert event["clients"] == {"ok": 3, "failed": 1}
        assert list(event["failures"]) == ["2"] and reason in event["failures"]["2"]


@pytest.mark.falls_back
def test_a_client_that_raises_shows_its_own_traceback_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.image import ImageTask

    original = ImageTask.client_data

    def broken(self: ImageTask, client: int) -> Any:
        if client == 1:
            raise OSError("disk on fire")
        return original(self, client)

    monkeypatch.setattr(ImageTask, "client_data", broken)
    folder = run(methods="maml", rounds=1)
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    assert event["clients"] == {"ok": 3, "failed": 1}
    assert (
        "OSError: disk on fire" in event["failures"]["1"] and "in broken" in event["failures"]["1"]
    )


def test_a_handler_that_raises_costs_its_node_only(run: Run) -> None:
    class Raising(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            if message.metadata.dst_node_id == BAD and message.metadata.message_type == "train":
                del message.content["order"]
            return super().deliver(message)

    folder = run(nodes=NODES, grid=Raising, methods="maml", rounds=1)
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    assert "KeyError" in event["failures"]["2"] and "client_app.py:" in event["failures"]["2"]


def test_below_min_clients_the_run_stops_and_keeps_everything(
    run: Run, smoke: Callable[..., Any]
) -> None:
    def failing_from_round_two(reply: Message) -> list[Message]:
        return [] if reply.content.config_records["origin"]["round"] == 2 else [reply]

    class AllFail(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            if message.metadata.message_type != "train":
                return replies
            return failing_from_round_two(replies[0])

    with pytest.raises(StoppedError, match="0 clients answered") as caught:
        run(nodes=2, grid=AllFail, **{"methods": "maml", "rounds": 3, "runtime.timeout": 0.5})
    assert caught.value.exit_code == 3 and "no answer within" in str(caught.value)
    folder = RunFolder.open(__import__("pathlib").Path(smoke()["run-dir"]))
    assert folder.status["state"] == "stopped" and "clients.min" in folder.status["reason"]
    assert [event["round"] for event in folder.events() if event["event"] == "round"] == [1]
    assert [file.name for file in sorted(folder.checkpoints.iterdir())] == [
        "round-000001.safetensors"
    ]


def test_foreign_code_is_refused_naming_both_paths(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Foreign(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            if message.metadata.message_type == "query.hello":
                greeting = message.content.config_records["hello"]
                greeting["fingerprint"], greeting["root"] = "0" * 64, "/somewhere/else"
            return super().deliver(message)

    with pytest.raises(StoppedError, match="/somewhere/else") as caught:
        run(grid=Foreign)
    from fedapp import ROOT

    assert str(ROOT) in str(caught.value)


def test_missing_nodes_end_the_wait(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty(InProcessGrid):
        def get_node_ids(self) -> list[int]:
            return []

    monkeypatch.setattr("fedapp.running.comparison.PATIENCE", 0.2)
    with pytest.raises(StoppedError, match="0 of 2 nodes"):
        run(grid=Empty)


def test_uploads_are_looked_at_in_the_rounds_that_were_asked_for(run: Run) -> None:
    folder = run(methods="maml", rounds=5, **{"evaluation.uploads-every": 2, "report.page": True})
    events = [event for event in folder.events() if event["event"] == "round"]
    told = ["psnr_p" in event["metrics"] for event in events]
    assert told == [False, True, True, True, True], "as last looked at; the last round is"
    assert events[1]["metrics"]["psnr_p"] == events[2]["metrics"]["psnr_p"]
    assert events[4]["metrics"]["psnr_p"] != events[3]["metrics"]["psnr_p"]
    assert folder.experiment.looks_at(4) and not folder.experiment.looks_at(3)
