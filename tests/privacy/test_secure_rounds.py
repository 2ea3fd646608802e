"""Secure rounds over real messages: the plain mean of those who are counted, whoever fails when."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message
from kit import NODES, PRIVATE
from safetensors.torch import load_file

from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from sim.inprocess import InProcessGrid
from strategies.flower.wire import to_array
from tasks.errors import StoppedError

Run = Callable[..., RunFolder]
Change = Callable[[Message], None]
CLIP = 10.0  # which no update reaches
QUANTUM = CLIP / 2**27 * 8  # of a mean over six, generously
ONE_ROUND: dict[str, Any] = {
    **PRIVATE, "rounds": 1, "evaluation.steps": "0", "data.held-out": 1, "privacy.clip-norm": CLIP,
}  # fmt: skip
LEGS = ["query.share", "train.masked", "query.confirm", "query.unmask"]


def model(folder: RunFolder) -> torch.Tensor:
    return load_file(list_checkpoints(folder.checkpoints)[-1])["maml-0/model"]


def round_event(folder: RunFolder) -> dict[str, Any]:
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    return event


def failing(legs: set[str], nodes: set[int], spoil: Change | None = None) -> type[InProcessGrid]:
    """A grid in which these nodes' answers on these legs are errors, or ``spoil`` changes them."""

    class Failing(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            node = message.metadata.dst_node_id - 1000
            if message.metadata.message_type not in legs or node not in nodes:
                return super().deliver(message)
            if spoil is None:
                return [Message(Error(1, "the device went down"), reply_to=message)]
            replies = super().deliver(message)
            for reply in replies:
                spoil(reply)
            return replies

    return Failing


@pytest.mark.usefixtures("named_streams")
@pytest.mark.parametrize("leg", LEGS[2:])
def test_the_mean_is_that_of_the_nodes_whose_vectors_arrived(
    run: Run, tmp_path: Path, leg: str
) -> None:
    """Node 2 fails after its vector is there: it is in the sum all the same."""
    plain = run(nodes=NODES, **ONE_ROUND, **{"run-dir": str(tmp_path / "plain")})
    masked = run(
        nodes=NODES, grid=failing({leg}, {2}), release="secagg",
        **ONE_ROUND, **{"run-dir": str(tmp_path / "masked")},
    )  # fmt: skip
    assert float((model(plain) - model(masked)).abs().max()) < QUANTUM
    event = round_event(masked)
    assert event["clients"] == {"ok": NODES, "failed": 0} and not event["failures"]


@pytest.mark.parametrize("leg", LEGS[:2])
def test_an_exact_sum_that_lacks_a_node_is_not_made(run: Run, leg: str) -> None:
    """Node 2 fails before its vector is there: nothing is unmasked, the next round is whole."""
    legs: list[str] = []

    class FailingOnce(failing({leg}, {2})):  # type: ignore[misc]
        def deliver(self, message: Message) -> list[Message]:
            kind = message.metadata.message_type
            legs.append(kind)
            if legs.count("query.share") > NODES:
                return InProcessGrid.deliver(self, message)
            if kind == "query.unmask":
                raise AssertionError("nothing of an incomplete sum may be unmasked")
            return super().deliver(message)

    folder = run(nodes=NODES, grid=FailingOnce, release="secagg", **{**ONE_ROUND, "rounds": 2})
    first, second = (event for event in folder.events() if event["event"] == "round")
    assert first["clients"]["ok"] == 0 and "no group of nodes was whole" in first["skipped"]
    assert "the device went down" in first["failures"]["2"]
    assert second["clients"] == {"ok": NODES, "failed": 0} and not second["groups_skipped"]
    assert folder.read("result.json")["rounds_skipped"] == 1


@pytest.mark.parametrize("leg", LEGS)
def test_with_fewer_than_the_threshold_nothing_is_unmasked(
    run: Run, tmp_path: Path, leg: str
) -> None:
    """Threshold 5 of 6: two nodes too few, and the reason names them. Sums without noise give up
    after four in a row."""
    with pytest.raises(StoppedError, match="no sum was unmasked") as stopped:
        run(nodes=NODES, grid=failing({leg}, {1, 4}), release="distributed-dp", **ONE_ROUND)
    assert str(stopped.value).count("the device went down") == 2
    with pytest.raises(StoppedError, match="no group of nodes was whole 4 times in a row"):
        run(
            nodes=NODES, grid=failing({leg}, {1, 4}), release="secagg",
            **{**ONE_ROUND, "rounds": 6}, **{"run-dir": str(tmp_path / "exact")},
        )  # fmt: skip


def _other_vector(reply: Message) -> None:
    reply.content["sum"] = ArrayRecord({"vector": to_array(torch.zeros(3, dtype=torch.int32))})


def _floats(reply: Message) -> None:
    vector = reply.content.array_records["sum"]["vector"].numpy()
    reply.content["sum"] = ArrayRecord({"vector": to_array(torch.from_numpy(vector).float())})


def _other_round(reply: Message) -> None:
    origin = dict(reply.content.config_records["origin"])
    reply.content["origin"] = ConfigRecord({**origin, "round": 7})


@pytest.mark.parametrize("spoil", [_other_vector, _floats, _other_round])
def test_a_vector_that_is_not_what_was_asked_for_costs_its_node_only(
    run: Run, spoil: Change
) -> None:
    folder = run(
        nodes=NODES,
        grid=failing({"train.masked"}, {0}, spoil),
        release="distributed-dp",
        **ONE_ROUND,
    )
    event = round_event(folder)
    assert event["clients"] == {"ok": NODES - 1, "failed": 1} and list(event["failures"]) == ["0"]


def test_every_noised_round_shows_the_nodes_a_longer_ledger(run: Run, tmp_path: Path) -> None:
    """With and without masks; a node counts z = 1 twice, by itself."""
    for release in ("central-dp", "distributed-dp"):
        folder = run(
            nodes=NODES, release=release, **{**ONE_ROUND, "rounds": 2},
            **{"run-dir": str(tmp_path / release)},
        )  # fmt: skip
        seen = [
            json.loads(file.read_text(encoding="utf-8"))
            for file in folder.path.rglob("ledger-seen.json")
        ]
        assert len(seen) == NODES and len({entry["seq"] for entry in seen}) == 1
        assert all(entry["precision"] == pytest.approx(2.0) for entry in seen)
