"""Small runs of split learning for tests, and a network that keeps what it carried."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from safetensors.torch import load_file

from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from fedapp.workflows import EXCHANGES
from sim.inprocess import InProcessGrid

Run = Callable[..., RunFolder]
SMALL: dict[str, Any] = {
    **{key: value for key, value in EXCHANGES.smallest.items() if key not in ("methods", "rounds")},
    "clients.total": 3,
    "clients.min": 1,
    "split.metrics": True,
    "report.pictures": False,
    "evaluation.every": 99,
}


def apart(run: Run, place: Path) -> Run:
    """``run`` with two rounds, in a folder of its own each time, unless a test says otherwise."""

    def go(**changes: Any) -> RunFolder:
        folder = str(place / f"run-{len(list(place.glob('run-*')))}")
        return run(**{"rounds": 2, "run-dir": folder, **changes})

    return go


def rounds(folder: RunFolder) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["event"] == "round"]


def state(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(folder.checkpoints)[-1])


class Listening(InProcessGrid):
    """Keeps every message and its answer."""

    heard: list[tuple[Message, Message]]

    def deliver(self, message: Message) -> list[Message]:
        kept = copy.deepcopy(message)
        replies = super().deliver(message)
        type(self).heard.append((kept, replies[0]))
        return replies


def listening() -> type[Listening]:
    class Here(Listening):
        heard: list[tuple[Message, Message]] = []  # noqa: RUF012

    return Here
