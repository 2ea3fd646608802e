"""Nodes that break the protocol, through whole runs: the run goes on, and it is they who are
named."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Array, ConfigRecord, Message
from kit import PRIVATE

from fedapp.store.runfolder import RunFolder
from privacy.secagg.client import SecAggClient
from privacy.secagg.messages import Prekey
from sim.inprocess import InProcessGrid
from tasks.errors import StoppedError

Run = Callable[..., RunFolder]
NODES, BAD = 7, 1002  # one client a node
CHANGES = {
    **PRIVATE,
    "clients.total": NODES,
    "rounds": 3,
    "release": "distributed-dp",
    "clients.min": 5,
}


def spoiling(leg: str, record: str, key: str, change: Callable[[Any], Any]) -> Any:
    """A grid in which one node's replies to a leg are another's idea."""

    class Spoiling(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            if message.metadata.dst_node_id == BAD and message.metadata.message_type == leg:
                part = replies[0].content[record]
                part[key] = change(part[key])  # type: ignore[index]
            return replies

    return Spoiling


def garbage(values: list[bytes]) -> list[bytes]:
    return [secrets.token_bytes(len(value)) for value in values]


def rounds(folder: RunFolder) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["event"] == "round"]


def test_wrong_shares_are_named_and_the_sum_is_made(run: Run) -> None:
    folder = run(nodes=NODES, grid=spoiling("query.unmask", "secagg", "shares", garbage), **CHANGES)
    for event in rounds(folder):
        assert event["clients"] == {"ok": NODES, "failed": 0} and event["skipped"] is None
        assert list(event["remarks"]) == ["2"] and "wrong shares" in event["remarks"]["2"]


def test_one_bad_box_evicts_nobody(run: Run) -> None:
    folder = run(
        nodes=NODES,
        grid=spoiling("query.share", "secagg", "boxes", lambda v: [*garbage(v[:1]), *v[1:]]),
        **CHANGES,
    )
    for event in rounds(folder):
        assert event["clients"]["ok"] == NODES and set(event["remarks"]) == {"0", "2"}


def test_bad_boxes_cost_their_sender_its_place_and_nobody_else(run: Run) -> None:
    """No honest node's client fails; the sum after a prevented one is made without the sender, and
    the next time so are the two after."""
    grid = spoiling("query.share", "secagg", "boxes", garbage)
    folder = run(nodes=NODES, grid=grid, **{**CHANGES, "rounds": 6})
    events = rounds(folder)
    prevented = [event["round"] for event in events if event["skipped"]]
    assert prevented == [1, 3, 6]
    for event in events:
        if event["skipped"]:
            assert not event["failures"] and list(event["remarks"]) == ["2"]
        else:
            assert event["clients"]["ok"] == NODES - 1 and list(event["failures"]) == ["2"]
            assert "node 2 is left out" in event["failures"]["2"]


def test_a_member_that_spoils_every_sum_ends_the_run_after_four_and_names_nobody(run: Run) -> None:
    def junk(array: Array) -> Array:
        return Array(array.numpy() + 1)

    with pytest.raises(StoppedError, match="masks did not cancel"):
        run(
            nodes=NODES,
            grid=spoiling("train.masked", "sum", "vector", junk),
            **{**CHANGES, "rounds": 6},
        )


@pytest.mark.parametrize("key", ["transport", "mask"])
def test_keys_of_small_order_cost_their_node_its_place(run: Run, key: str) -> None:
    """Signed by the node itself: the server does not put them in stock."""
    honest = SecAggClient.advertise

    def weak(self: SecAggClient, count: int) -> list[Prekey]:
        keys = honest(self, count)
        if self.member != 2:
            return keys
        bare = [replace(one, **{key: bytes(32)}) for one in keys]
        return [replace(one, signature=self.identity.sign(one.text)) for one in bare]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SecAggClient, "advertise", weak)
        folder = run(nodes=NODES, **CHANGES)
    for event in rounds(folder):
        assert event["clients"]["ok"] == NODES - 1
        assert "has small order" in event["failures"]["2"]


@pytest.mark.parametrize(
    ("name", "value"), [("epsilon", 0.05), ("event", 1.0), ("round", 9.0), ("epsilon_local", 0.1)]
)
def test_a_node_cannot_write_a_claim_into_a_report(run: Run, name: str, value: float) -> None:
    """Names that nobody declared: neither ``epsilon``, nor what would make a round vanish."""

    class Claiming(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            bad = message.metadata.dst_node_id == BAD
            if bad and message.metadata.message_type == "train":
                replies[0].content["clients"][name] = [value]  # type: ignore[index]
            return replies

    changes = {"methods": "maml", "clients.total": NODES, "rounds": 1}
    folder = run(nodes=NODES, grid=Claiming, **changes)
    (event,) = rounds(folder)
    assert list(event["failures"]) == ["2"] and "declared are" in event["failures"]["2"]
    assert event["epsilon"] is None and name not in event["metrics"]
    result = json.loads((folder.path / "result.json").read_text(encoding="utf-8"))
    assert result["epsilon"] is None and name not in result["methods"]["maml"]
    assert result["rounds"] == 1


def test_a_reply_with_ten_thousand_metrics_is_refused(run: Run) -> None:
    class Many(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            bad = message.metadata.dst_node_id == BAD
            if bad and message.metadata.message_type == "train":
                told = replies[0].content["clients"]
                assert not isinstance(told, ConfigRecord)
                for number in range(10_000):
                    told[f"m{number}"] = [0.0]  # type: ignore[index]
            return replies

    folder = run(nodes=NODES, grid=Many, methods="maml", rounds=1, **{"clients.total": NODES})
    (event,) = rounds(folder)
    assert list(event["failures"]) == ["2"] and len(event["failures"]["2"]) < 400
