"""Split learning on real nodes, what does not compose, and every option in a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from device_kit import Town
from flwr.app import ConfigRecord, Message
from split_kit import SMALL, Run, apart, listening, rounds

from fedapp.config.experiment import Experiment
from privacy.secagg.identity import Policy
from sim.inprocess import InProcessGrid
from strategies.flower.records import FAILURE
from tasks.errors import InputError, StoppedError


@pytest.fixture
def run(run: Run, tmp_path: Path) -> Run:  # type: ignore[no-redef]
    return apart(run, tmp_path)


# ---------------------------------------------------------------------- real nodes
def test_real_nodes_hold_each_others_shares(run: Run, tmp_path: Path) -> None:
    town = Town(tmp_path, 3, Policy())
    changes = {
        **SMALL,
        **town.changes("plain"),
        "methods": "sealed,s2nerf",
        "report.pictures": True,
    }
    grid = listening()
    folder = run(nodes=3, grid=town.grid(grid), **changes)
    assert all(event["clients"]["ok"] == 3 for event in rounds(folder))
    assert not any("pictures" in reply.content for _, reply in grid.heard)
    holds = {
        (message.metadata.dst_node_id - 1000, message.content["order"]["client"])
        for message, _ in grid.heard
        if message.content.get("leg") and message.content["leg"]["name"] == "hold"
    }
    assert holds == {(1, 0), (2, 1), (0, 2)}, "the next one in the roster"


def test_guarantee_a_server_cannot_play_the_peer(run: Run, tmp_path: Path) -> None:
    """It shows clients a key of its own as the peer's."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from privacy.node_secret import Peer
    from privacy.secagg.identity import Roster
    from privacy.secagg.primitives import public_bytes

    town = Town(tmp_path, 3, Policy())
    own = Ed25519PrivateKey.generate()
    reasons: list[str] = []

    class Playing(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            if "box" in message.content and "peer" in message.content:
                number = int(message.content["peer"]["number"])
                roster = Roster.read(town.roster)
                fake = Roster({**roster.members, number: public_bytes(own)}, roster.server)
                peer = Peer(own, number, str(message.content["order"]["run"]), fake)
                message.content["peer"] = ConfigRecord(peer.advert.packed())
            replies = super().deliver(message)
            if FAILURE in replies[0].content:
                reasons.append(str(replies[0].content[FAILURE]["reason"]))
            return replies

    with pytest.raises(StoppedError, match="not its own"):
        run(
            nodes=3,
            grid=town.grid(Playing),
            **{**SMALL, **town.changes("plain"), "methods": "sealed"},
        )
    assert reasons and all("not its own" in reason for reason in reasons)


# ---------------------------------------------------------------------- what does not compose
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"methods": "maml"}, "methods"),
        ({"methods": "sealed", "runtime.nodes": 1}, "runtime.nodes"),
        ({"methods": "split", "clients.per-round": 1}, "clients.per-round"),
        ({"methods": "split", "task": "image", "workflow": "exchanges"}, "task"),
        ({"release": "secagg"}, "release"),
        ({"split.cells": "8,x"}, "split.cells"),
    ],
)
def test_what_cannot_be_split_is_refused(
    smoke: Callable[..., dict[str, Any]], changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(InputError) as caught:
        Experiment.from_run_config(smoke(**{**SMALL, "runtime.nodes": 2, **changes}))
    assert caught.value.key == key


@pytest.mark.parametrize(
    "changes",
    [
        {"split.variant": "light"},
        {"split.cut": "features"},
        {"split.cut": "geometry"},
        {"split.hashed": 250},
        {"split.texture": "fine"},
        {"split.sealed-rate": 2.0},
        {"split.label-noise": 0.1, "split.noise-scale": 0.5, "split.noise-decay": 1.0},
    ],
)
def test_every_option_runs(run: Run, changes: dict[str, Any]) -> None:
    methods = "sealed,split,s2nerf,label-noise,private-grid"
    folder = run(**{**SMALL, "rounds": 1, "methods": methods, **changes})
    assert all(event["clients"]["ok"] == 3 for event in rounds(folder))
