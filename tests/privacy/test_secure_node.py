"""A node and a server at the first legs: whose clients, whose keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict

from privacy.budget.ledger import Ledger
from privacy.flower.node import SecureNode
from privacy.flower.rounds import SecureRounds, Sessions
from privacy.flower.wire import RECORD, pack_terms
from privacy.releases.secagg import SecAgg
from privacy.secagg.graph import default_threshold
from privacy.secagg.identity import KEY_FILE, Policy, enrol_simulated, load_identity
from privacy.secagg.messages import Prekey, RefusalError, Terms
from privacy.secagg.primitives import public_bytes
from privacy.settings import PrivacySettings
from tasks.errors import ReplyError

MEMBERS = list(range(5))
Keys = Callable[[int], list[bytes]]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """``keys(member)``: that node's answer to a server that asks for prekeys."""
    enrol_simulated(tmp_path, MEMBERS, bytes(32))

    def ask(member: int, count: int = 1) -> list[bytes]:
        node = SecureNode(
            tmp_path / f"node-{member:04d}",
            member,
            tmp_path / "roster.json",
            Policy(),
            "config",
            None,
        )
        reply = node.advertise(RecordDict({RECORD: ConfigRecord({"count": count})}))
        return list(reply.config_records[RECORD]["prekeys"])  # type: ignore[arg-type]

    return ask


@pytest.mark.parametrize("asked", [[0, 1], [0, 7]])
def test_a_device_trains_only_clients_it_has(tmp_path: Path, keys: Keys, asked: list[int]) -> None:
    """It hosts 0 and 1: whoever asks it for client 7 wants to know what it says of somebody
    else."""
    release = SecAgg(PrivacySettings(), 4)
    prekeys = tuple(Prekey.from_bytes(member, keys(member)[0]) for member in MEMBERS)
    clients = {"0": asked, **{str(member): [member + 10] for member in MEMBERS[1:]}}
    public = release.open(6, 6.0, len(MEMBERS), len(MEMBERS))
    terms = Terms(
        1,
        1,
        prekeys,
        default_threshold(5),
        4,
        5,
        release.length,
        json.dumps(dict(public), sort_keys=True),
        json.dumps(
            {
                "order": {"config": "config"},
                "clients": clients,
                "versions": {member: [0] * len(named) for member, named in clients.items()},
                "ledger": None,
            }
        ),
        bytes(32),
    )
    node = SecureNode(
        tmp_path / "node-0000", 0, tmp_path / "roster.json", Policy(), "config", frozenset({0, 1})
    )
    content = RecordDict({RECORD: pack_terms(terms)})
    if 7 in asked:
        with pytest.raises(RefusalError, match=r"does not have the clients \[7\]"):
            node.share(content, "secagg", release)
    else:
        assert len(node.share(content, "secagg", release).config_records[RECORD]["boxes"]) == 4  # type: ignore[arg-type]


def test_a_node_checks_the_ledger_against_what_was_agreed_on_if_anything_was(
    tmp_path: Path,
) -> None:
    """Under a mask the terms name the ledger's state, without one the signed state stands alone."""
    ledger = Ledger(tmp_path / "server")
    enrol_simulated(tmp_path, MEMBERS, ledger.public)
    node = SecureNode(tmp_path / "node-0000", 0, tmp_path / "roster.json", Policy(), "config", None)

    def shown() -> tuple[RecordDict, list[Any]]:
        ledger.append("config", run="a")
        state = ledger.witness()
        agreed = [state["ledger"], state["seq"], state["head"]]
        return RecordDict({"ledger": ConfigRecord(dict(state))}), agreed

    with pytest.raises(RefusalError, match="without the state"):
        node.see_ledger(RecordDict({}), 1.0)
    content, agreed = shown()
    for place, other in enumerate(("0" * 64, agreed[1] + 1, "0" * 64)):
        wrong = [other if i == place else value for i, value in enumerate(agreed)]
        with pytest.raises(RefusalError, match="not the one that was agreed on"):
            node.see_ledger(content, 1.0, wrong)
    node.see_ledger(content, 1.0, agreed)  # a refusal has counted nothing: still new
    node.see_ledger(shown()[0], 1.0)
    with pytest.raises(RefusalError, match="went back"):
        node.see_ledger(content, 1.0, agreed)


def test_a_prekey_that_its_node_did_not_sign_costs_that_node_only(
    tmp_path: Path, keys: Keys
) -> None:
    """Taken into the stock it would be refused by every neighbour, and no round would come off."""
    rounds = object.__new__(SecureRounds)
    rounds.sessions = Sessions()
    folders = {member: tmp_path / f"node-{member:04d}" for member in MEMBERS}
    rounds.identities = {
        m: public_bytes(load_identity(folder / KEY_FILE)) for m, folder in folders.items()
    }
    good = keys(1)
    rounds._stock_up(1, RecordDict({RECORD: ConfigRecord({"prekeys": good})}))
    assert [key.to_bytes() for key in rounds.sessions.stock[1]] == good
    several = keys(4, 5)
    rounds._stock_up(4, RecordDict({RECORD: ConfigRecord({"prekeys": several})}))
    used = [rounds.sessions.stock[4].pop().to_bytes() for _ in range(5)]
    assert used == several, "all of them, the oldest first"
    for forged in (
        [*keys(2), *keys(3)],
        keys(3),
    ):  # node 3's keys under node 2's name, alone or among its own
        with pytest.raises(ReplyError, match="a prekey of node 2 is not signed by it"):
            rounds._stock_up(2, RecordDict({RECORD: ConfigRecord({"prekeys": forged})}))
    assert 2 not in rounds.sessions.stock
