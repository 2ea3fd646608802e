"""What a client says does not depend on what never leaves it: no encoding of it can be hidden in a
reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import Message

from fedapp.store.client_state import ClientState
from fedapp.store.runfolder import RunFolder
from sim.inprocess import InProcessGrid
from strategies.local.adapters import AdapterFit
from strategies.types import LocalResult

Run = Callable[..., RunFolder]
CHANGES = {
    "clients.total": 2,
    "clients.min": 2,
    "rounds": 2,
    "privacy.epsilon-max": 1000.0,
    "release": "plain",
}
FIELDS = {
    "sum.vector",
    "sum.meta.weight",
    "sum.meta.count",
    "clients.id",
    "clients.loss",
    "failures.ids",
    "failures.reasons",
    "origin.round",
    "failures.fallbacks",
    "failures.unseen",
}


def replies_of_round_two(run: Run, changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Every field of the train replies to the second order, by node."""
    found: list[tuple[int, dict[str, Any]]] = []

    class Listening(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            if message.metadata.message_type == "train" and message.metadata.group_id == "2":
                content = replies[0].content
                fields = {
                    f"{record}.{name}": value.data if hasattr(value, "data") else value
                    for record, part in content.items()
                    for name, value in part.items()
                    if (record, name)
                    != ("origin", "session")  # the server's own, new for every run
                }
                found.append((message.metadata.dst_node_id, fields))
            return replies

    run(nodes=2, grid=Listening, **changes)
    assert len(found) == 2, "both nodes trained in round 2"
    return [fields for _, fields in sorted(found, key=lambda pair: pair[0])]


@pytest.mark.parametrize(("rule", "leaks"), [("fedavg", False), ("isfa", False), ("fedavg", True)])
def test_replies_are_the_same_bytes_whatever_the_personal_adapters_are(
    run: Run,
    head: dict[str, Any],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    leaks: bool,
) -> None:
    """The control, a learner that tells the length of its personal adapter among its metrics, is
    found out."""
    if leaks:
        fit = AdapterFit.fit

        def telling(self: AdapterFit, *arguments: Any) -> LocalResult:
            result = fit(self, *arguments)
            return replace(
                result, metrics={**result.metrics, "loss": result.kept["personal"].norm(dim=1)}
            )

        monkeypatch.setattr(AdapterFit, "fit", telling)
    changes = {**head, **CHANGES, "rule": rule}
    usual = replies_of_round_two(run, {**changes, "run-dir": str(tmp_path / "one")})
    load = ClientState.load

    def other(self: ClientState, client: int, version: int) -> dict[str, torch.Tensor]:
        return {name: -3 * tensor + 0.01 for name, tensor in load(self, client, version).items()}

    monkeypatch.setattr(ClientState, "load", other)
    changed = replies_of_round_two(run, {**changes, "run-dir": str(tmp_path / "two")})
    assert (usual == changed) is not leaks
    assert all(set(fields) == FIELDS for fields in changed)
