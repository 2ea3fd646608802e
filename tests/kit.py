"""Rounds without transport, and events written by hand, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fedapp.contract.play import LEARNER, MemoryInRam, Reliable, Rounds, distance
from fedapp.store.runfolder import RunFolder

__all__ = ["LEARNER", "MemoryInRam", "Reliable", "Rounds", "distance"]

NODES = 6  # of a private run, one client each
PRIVATE = {
    "methods": "maml",
    "clients.total": NODES,
    "evaluation.uploads": False,
    "privacy.epsilon-max": 1000.0,
    "learner.outer-steps": 1,
    "rounds": 2,
    "rules.server-clip": 0.0,
}
SECAGG: dict[str, Any] = {**PRIVATE, "release": "secagg", "privacy.clip-norm": 10.0}
PROVABLE: dict[str, Any] = {
    "methods": "erm", "privacy.exact": True, "learner.batch-size": 0, "learner.outer-clip": 9.0,
    "data.channels": 1,
}  # fmt: skip


def rounds_of(folder: RunFolder) -> list[dict[str, Any]]:
    """The events of a run's rounds."""
    return [event for event in folder.events() if event["event"] == "round"]


def told_round(number: int, **values: Any) -> dict[str, Any]:
    """A round's event as a run writes it, for ``told``."""
    blank = {
        "event": "round",
        "round": number,
        "method": "maml",
        "seed": 0,
        "clients": {"ok": 4, "failed": 0},
        "failures": {},
        "bytes_up": 0,
        "bytes_down": 0,
        "seconds": 1.0,
        "epsilon": None,
        "skipped": None,
        "fallbacks": [],
        "unseen": [],
    }
    return blank | {"metrics": {}} | _split(values, blank)


def told_evaluation(number: int, **values: Any) -> dict[str, Any]:
    """The same of an evaluation."""
    blank = {
        "event": "evaluation",
        "round": number,
        "method": "maml",
        "seed": 0,
        "final": False,
        "seconds": 1.0,
    }
    return blank | {"metrics": {}} | _split(values, blank)


def _split(values: dict[str, Any], blank: dict[str, Any]) -> dict[str, Any]:
    """An event's own fields as they are, everything else as metrics."""
    own = {name: value for name, value in values.items() if name in (*blank, "by_client")}
    return own | {"metrics": {name: v for name, v in values.items() if name not in own}}


def draw_picture(file: Path, number: int) -> None:
    """A picture of noise, the same for the same number, as a file."""
    draw = torch.Generator().manual_seed(number)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.rand(16, 16, 3, generator=draw) * 255).byte().numpy()).save(file)
