"""A server that lies to its nodes: they refuse where they are told it, and nothing leaves them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from device_kit import Town
from flwr.app import Message
from kit import NODES, PRIVATE

from fedapp.store.runfolder import RunFolder
from privacy.accounting import gaussian_epsilon
from privacy.secagg.identity import Policy
from sim.inprocess import InProcessGrid
from tasks.errors import StoppedError

Run = Callable[..., RunFolder]


def tampering(leg: str, change: Callable[[Message, int], None]) -> Callable[..., InProcessGrid]:
    """A grid whose messages of one leg are changed on their way to the nodes."""

    class Tampering(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            if message.metadata.message_type == leg:
                change(message, message.metadata.dst_node_id)
            return super().deliver(message)

    return Tampering


def edit(record: str, key: str, change: Callable[[Any], Any]) -> Callable[[Message, int], None]:
    """Change a JSON text in a message: ``change`` gets the parsed value and returns the new one."""

    def apply(message: Message, node: int) -> None:
        config = message.content[record]
        config[key] = json.dumps(change(json.loads(str(config[key]))), sort_keys=True)  # type: ignore[index, arg-type]

    return apply


def put(record: str, key: str, value: Any, only: int = 0) -> Callable[[Message, int], None]:
    def apply(message: Message, node: int) -> None:
        if only in (0, node):
            message.content[record][key] = value  # type: ignore[index]

    return apply


TRICKS = {
    "less noise in the order": (
        "train.masked",
        edit("order", "public", lambda p: p | {"honest": 10**12}),
    ),
    "fewer levels in the order": (
        "train.masked",
        edit("order", "public", lambda p: p | {"levels": 1}),
    ),
    "less noise in the terms": (
        "query.share",
        edit("secagg", "public", lambda p: p | {"honest": 10**12}),
    ),
    "no noise in the terms": (
        "query.share",
        edit("secagg", "public", lambda p: p | {"multiplier": 0.0}),
    ),
    "one level in the terms": (
        "query.share",
        edit("secagg", "public", lambda p: p | {"levels": 1}),
    ),
    "more clients than there are": (
        "query.share",
        edit("secagg", "public", lambda p: p | {"clients": 9999}),
    ),
    "a client many times": (
        "query.share",
        edit("secagg", "work", lambda w: w | {"clients": w["clients"] | {"0": [0] * 5}}),
    ),
    "others without clients": (
        "query.share",
        edit(
            "secagg",
            "work",
            lambda w: w | {"clients": {m: [0] if m == "0" else [] for m in w["clients"]}},
        ),
    ),
    "another configuration": (
        "query.share",
        edit("secagg", "work", lambda w: w | {"order": w["order"] | {"config": "0" * 64}}),
    ),
    "a ledger entry for each": (
        "query.share",
        edit("secagg", "work", lambda w: w | {"ledger": ["a", 1, "b"]}),
    ),
    "nobody to train in the orders": ("train.masked", put("order", "clients", [])),
    "another method": ("train.masked", put("order", "method", "fedmenf")),
    "another seed": ("train.masked", put("order", "seed", 99)),
    "a lower threshold": ("query.share", put("secagg", "threshold", 2)),
    "one neighbour each": ("query.share", put("secagg", "degree", 1)),
    "a terabyte": ("query.share", put("secagg", "model", 10**12)),
    "the plain leg": (
        "train.masked",
        lambda message, node: message.metadata.__dict__.update(_message_type="train"),
    ),
}


@pytest.mark.parametrize("trick", list(TRICKS))
def test_a_lying_server_gets_no_sum(run: Run, trick: str) -> None:
    """Each lie is told to all nodes alike; every one of them refuses where it is told it, and
    nothing leaves."""
    leg, change = TRICKS[trick]
    replies: list[tuple[str, Message]] = []
    base = tampering(leg, change)

    class Recording(base):  # type: ignore[valid-type, misc]
        def deliver(self, message: Message) -> list[Message]:
            found = super().deliver(message)
            replies.extend((message.metadata.message_type, reply) for reply in found)
            return found

    with pytest.raises(StoppedError):
        run(nodes=NODES, grid=Recording, **{**PRIVATE, "rounds": 1}, release="distributed-dp")
    assert not any("sum" in reply.content for _, reply in replies), "a vector left a node"
    told = [reply for kind, reply in replies if kind == leg]
    if leg == "query.share":
        assert len(told) == NODES
        assert all(
            "failure" in reply.content and "secagg" not in reply.content for reply in told
        ), "a share left"


@pytest.mark.parametrize("release", ["central-dp", "distributed-dp"])
def test_a_server_that_forgets_its_book_is_refused_by_the_nodes(
    run: Run, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    """The same signed head shown again: the second round is refused by every node."""
    from privacy.budget.ledger import Ledger

    witness, first = Ledger.witness, []

    def stale(self: Ledger) -> dict[str, int | str]:
        first.append(witness(self))
        return first[0]

    monkeypatch.setattr(Ledger, "witness", stale)
    with pytest.raises(StoppedError, match="went back"):
        run(nodes=NODES, **{**PRIVATE, "rounds": 3}, release=release)


@pytest.mark.parametrize("release", ["central-dp", "distributed-dp"])
def test_a_node_stops_at_its_own_limit_whoever_adds_the_noise(
    run: Run, tmp_path: Path, release: str
) -> None:
    """Each node allows what two rounds at z = 4 cost; the population's own limit is far above."""
    limit = gaussian_epsilon(math.sqrt(2) / 4.0, 1e-5) + 1e-9
    folder = RunFolder(tmp_path / "run")
    for number in range(NODES):
        file = folder.client_state / f"node-{number:04d}" / "policy.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"epsilon_max": limit, "delta": 1e-5}), encoding="utf-8")
    with pytest.raises(StoppedError, match="this node allows"):
        run(
            nodes=NODES,
            **{**PRIVATE, "rounds": 3, "privacy.noise-multiplier": 4.0, "evaluation.every": 99},
            release=release,
        )
    assert [event["round"] for event in folder.events() if event["event"] == "round"] == [1, 2]


def test_a_node_keeps_its_own_policy_under_every_release(run: Run, tmp_path: Path) -> None:
    """policy.json in a node's folder: it takes part in distributed-dp with noise 1 or more, and in
    nothing else."""
    town = Town(tmp_path, NODES, Policy(releases=("distributed-dp",), min_noise=1.0))
    for release in ("plain", "central-dp"):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        with pytest.raises(StoppedError, match="not among those this node takes part in"):
            run(
                nodes=NODES,
                grid=town.grid(),
                **{
                    **PRIVATE,
                    "rounds": 1,
                    **town.changes(release),
                    "run-dir": str(tmp_path / release),
                },
            )
