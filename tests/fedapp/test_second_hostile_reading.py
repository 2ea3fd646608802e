"""What a second hostile reading broke: each attack as it was made, and what comes of it now."""

from __future__ import annotations

import json
import math
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from device_kit import Town
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from kit import PRIVATE

from fedapp import ROOT
from fedapp.client_app import app
from fedapp.config.experiment import known_keys
from fedapp.identity import fingerprint
from fedapp.store.runfolder import RunFolder
from privacy.secagg.identity import POLICY_FILE, Policy
from privacy.secagg.repair import blamed
from privacy.secagg.shamir import SHARE_BYTES
from sim.inprocess import InProcessGrid, server_identity
from tasks.errors import InputError, StoppedError

Run = Callable[..., RunFolder]
BAD = 1002  # the node that misbehaves
ODD = [f"mischief:{rest}" for rest in ("a:b", "a-b", "a b", "")]
ODD += ["mis-chief:Thing", "2chief:Thing"]


def rounds(folder: RunFolder) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["event"] == "round"]


def lying(leg: str, change: Callable[[RecordDict], Any], node: int = BAD) -> type[InProcessGrid]:
    class Lying(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            here = message.metadata.dst_node_id == node
            if here and message.metadata.message_type == leg:
                change(replies[0].content)
            return replies

    return Lying


# ---------------------------------------------------------------------- references
@pytest.mark.parametrize("print_", ["wrong", "right"])
@pytest.mark.parametrize("key", ["task", "rule", "release", "workflow", "methods"])
@pytest.mark.parametrize("name", ODD)
def test_what_the_allow_list_does_not_see_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str, print_: str
) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    for module in ("mischief", "mis-chief", "2chief"):
        (folder / f"{module}.py").write_text("class Thing: ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    module = name.split(":")[0]
    sys.modules.pop(module, None)
    town = Town(tmp_path, 1)
    said = fingerprint() if print_ == "right" else print_
    code = ConfigRecord(
        {"fingerprint": said, "root": str(ROOT), "state-dir": "", "challenge": "c", "name": "x"}
    )
    for leg in ("query.hello", "train", "query.advertise", "train.leg"):
        with server_identity(7):
            content = RecordDict(dict.fromkeys(("hello", "order", "at", "leg"), code))
            message = Message(content, 1, leg)
            message.metadata.__dict__["_message_id"] = "m"
            config = {**known_keys(), key: name}
            reply = app(message, Context(7, 1, town.told(0), RecordDict(), config))
        assert "failure" in reply.content or key == "methods"
        assert module not in sys.modules


# ---------------------------------------------------------------------- work
@pytest.mark.parametrize("alias", ["01", "+1", " 1", "1_"])
def test_a_member_has_one_spelling(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alias: str
) -> None:
    """Client 0 has data on two nodes; a server that names it twice, under two spellings of member
    1, had it trained twice where once was counted."""
    import privacy.flower.rounds as sums

    class Twice(Town):
        def told(self, number: int) -> dict[str, Any]:
            return super().told(number) | ({"clients": "1,0"} if number == 1 else {})

    town = Twice(tmp_path, 6)
    monkeypatch.setattr(
        "fedapp.running.protection.Protection.vouch", None
    )  # the server's own affair

    def narrow(content: RecordDict) -> None:
        content["hello"]["hosts"] = "1"

    pack_work, pack_order = sums.pack_work, sums.pack_order

    def work(orders: Any, ledger: Any) -> str:
        told = json.loads(pack_work(orders, ledger))
        told["clients"]["1"], told["clients"][alias] = [0], [1]
        return json.dumps(told)

    def order(given: Any, *rest: Any) -> Any:
        if given.assignment.clients == (1,):
            given = replace(given, assignment=replace(given.assignment, clients=(0,)))
        return pack_order(given, *rest)

    monkeypatch.setattr(sums, "pack_work", work)
    monkeypatch.setattr(sums, "pack_order", order)
    changes = {**PRIVATE, **town.changes("distributed-dp"), "rounds": 1}
    with pytest.raises(StoppedError, match="not lists of whole numbers"):
        run(nodes=6, grid=town.grid(lying("query.hello", narrow, 1001)), **changes)


# ---------------------------------------------------------------------- blame
def test_one_liar_is_part_of_all_its_faults() -> None:
    """Bad boxes to two members and a false accusation: one name explains all three."""
    assert list(blamed([(2, 0), (2, 1), (5, 2)], "d", "h")) == [2]
    assert list(blamed([(2, 0), (5, 2)], "d", "h")) == [2]
    assert sorted(blamed([(2, 0)], "d", "h")) == [0, 2], "which of the two cannot be told"
    two = [(2, 0), (2, 1), (4, 0), (4, 3), (4, 5)]
    assert sorted(blamed(two, "d", "h")) == [2, 4]


class Framing(InProcessGrid):
    """Member 2 changes its vector and reveals one wrong share, of member 4."""

    def deliver(self, message: Message) -> list[Message]:
        replies = super().deliver(message)
        if message.metadata.dst_node_id == BAD and message.metadata.group_id in ("1", "3"):
            content = replies[0].content
            if message.metadata.message_type == "train.masked":
                content["sum"]["vector"] = Array(content["sum"]["vector"].numpy() + 1)
            if message.metadata.message_type == "query.unmask":
                shares = list(content["secagg"]["shares"])
                shares[content["secagg"]["members"].index(4)] = secrets.token_bytes(SHARE_BYTES)
                content["secagg"]["shares"] = shares
        return replies


def test_one_wrong_share_frames_nobody(run: Run) -> None:
    changes = {
        **PRIVATE, "clients.total": 6, "release": "distributed-dp", "clients.min": 5, "rounds": 4,
    }  # fmt: skip
    told = rounds(run(nodes=6, grid=Framing, **changes))
    assert [bool(event["skipped"]) for event in told] == [True, False, True, False]
    assert all("4" not in event["remarks"] and "4" not in event["failures"] for event in told)
    assert [event["clients"]["ok"] for event in told] == [0, 6, 0, 6]


class OnceBad(InProcessGrid):
    """Member 2, in round 1 alone: a bad box for node 0, and no vector."""

    def deliver(self, message: Message) -> list[Message]:
        replies = super().deliver(message)
        if message.metadata.dst_node_id == BAD and message.metadata.group_id == "1":
            content = replies[0].content
            if message.metadata.message_type == "query.share":
                boxes = list(content["secagg"]["boxes"])
                boxes[0] = secrets.token_bytes(len(boxes[0]))
                content["secagg"]["boxes"] = boxes
            if message.metadata.message_type == "train.masked":
                del content["sum"]
        return replies


def test_a_bad_round_does_not_end_all_sums(run: Run) -> None:
    """Two of six were left out, too few remained for a sum, and absence is counted in sums."""
    changes = {
        **PRIVATE, "clients.total": 6, "release": "distributed-dp", "clients.min": 5, "rounds": 4,
    }  # fmt: skip
    told = rounds(run(nodes=6, grid=OnceBad, **changes))
    assert told[0]["skipped"]
    assert [event["clients"]["ok"] for event in told[1:]] == [6, 6, 6]


# ---------------------------------------------------------------------- greeting
CLAIMS: dict[str, dict[str, Any]] = {
    "everybody's clients": {"partition": 0, "hosts": "0,1,2,3,4,5,6"},
    "another's clients": {"hosts": "4"},
    "another's number": {"partition": 4, "hosts": "5"},
    "a number below zero": {"partition": -1, "hosts": "4"},
    "a billion partitions": {"partitions": 10**9},
    "no number": {"partition": math.inf},
}


@pytest.mark.parametrize("claim", list(CLAIMS))
def test_a_greeting_is_believed_by_its_signature(run: Run, tmp_path: Path, claim: str) -> None:
    town = Town(tmp_path, 7)

    def change(content: RecordDict) -> None:
        content["hello"].update(CLAIMS[claim])

    changes = {**PRIVATE, **town.changes("distributed-dp"), "rounds": 1, "clients.min": 5}
    told = rounds(run(nodes=7, grid=town.grid(lying("query.hello", change)), **changes))
    assert told[0]["clients"]["ok"] == 6, "all but the one that lied"


# ---------------------------------------------------------------------- replies, words, files
@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["clients"].__setitem__("id", [math.inf]),
        lambda c: c["failures"].__setitem__("ids", [math.inf]),
        lambda c: c["sum.meta"].__setitem__("count", math.inf),
        lambda c: c.__setitem__("failure", ConfigRecord({})),
        lambda c: c.__setitem__("failure", ConfigRecord({"reason": [1, 2]})),
    ],
)
def test_no_reply_ends_a_run(run: Run, change: Callable[[RecordDict], Any]) -> None:
    folder = run(
        nodes=4, grid=lying("train", change), methods="maml", rounds=1, **{"clients.total": 4}
    )
    assert rounds(folder)[0]["clients"] == {"ok": 3, "failed": 1}


def test_a_nodes_words_are_one_line(run: Run) -> None:
    words = "timeout\nepsilon = 0.05 spent\x1b[2J" + "A" * 5000
    said = ConfigRecord({"reason": words})
    folder = run(
        nodes=4, methods="maml", rounds=1, **{"clients.total": 4},
        grid=lying("train", lambda content: content.__setitem__("failure", said)),
    )  # fmt: skip
    (reason,) = rounds(folder)[0]["failures"].values()
    assert reason.isprintable() and len(reason) <= 600


@pytest.mark.parametrize(
    "text", ['{"epsilon_max": 1, "epsilon_max": 0}', '{"min_noise": Infinity}', '{"delta": NaN}']
)
def test_a_policy_says_one_thing(tmp_path: Path, text: str) -> None:
    (tmp_path / POLICY_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="not a policy"):
        Policy.read(tmp_path / POLICY_FILE)
