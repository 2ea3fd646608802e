"""Law 2: a run killed at any moment and resumed ends with the same bits as an unbroken one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kill_kit import killed_and_unbroken
from safetensors.torch import load_file

from fedapp.client_app import app as client_app
from fedapp.server_app import app as server_app
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from sim.inprocess import run_in_process

CHANGES = {
    "methods": "fedmenf,maml",
    "rule": "scaffold",
    "rounds": 5,
    "clients.per-round": 3,
    "evaluation.every": 2,
}


def final(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(folder.checkpoints)[-1])


def story(folder: RunFolder) -> list[dict[str, Any]]:
    """Events without times."""
    return [
        {key: value for key, value in event.items() if key not in ("seconds", "clock")}
        for event in folder.events()
    ]


def assert_same(resumed: RunFolder, unbroken: RunFolder) -> None:
    one, two = final(resumed), final(unbroken)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), f"{name} differs"
    assert story(resumed) == story(unbroken)
    assert resumed.read("result.json")["methods"] == unbroken.read("result.json")["methods"]


class PowerCut(BaseException):
    """Stands in for the kill: nothing catches it."""


@pytest.mark.parametrize("moment", range(1, 17, 3))
def test_cut_between_any_two_events(
    run: Callable[..., RunFolder], smoke: Callable[..., dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, moment: int,
) -> None:  # fmt: skip
    unbroken = run(**CHANGES, **{"run-dir": str(tmp_path / "unbroken")})
    append, count = RunFolder.append, 0

    def cut(self: RunFolder, event: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise PowerCut
        append(self, event)

    monkeypatch.setattr(RunFolder, "append", cut)
    with pytest.raises(PowerCut):
        run(**CHANGES)
    monkeypatch.undo()
    config = smoke(**CHANGES, resume=True)
    run_in_process(server_app, client_app, config, 2)
    assert_same(RunFolder(Path(config["run-dir"])), unbroken)


@pytest.mark.falls_back
def test_resume_without_the_clients_memory_would_be_noticed(
    run: Callable[..., RunFolder],
    smoke: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control: SCAFFOLD's clients cannot silently continue from nothing."""
    import shutil

    append = RunFolder.append

    def cut(self: RunFolder, event: dict[str, Any]) -> None:
        if event["round"] == 4:
            raise PowerCut
        append(self, event)

    monkeypatch.setattr(RunFolder, "append", cut)
    with pytest.raises(PowerCut):
        run(**CHANGES)
    monkeypatch.undo()
    config = smoke(**CHANGES, resume=True)
    folder = RunFolder(Path(config["run-dir"]))
    shutil.rmtree(folder.client_state)
    from tasks.errors import StoppedError

    with pytest.raises(StoppedError, match="no readable memory"):
        run_in_process(server_app, client_app, config, 2)


@pytest.mark.slow
def test_sigkill_after_a_random_round_through_the_command_line(tmp_path: Path) -> None:
    changes = {**CHANGES, "rounds": 12, "report.page": "false"}
    assert_same(*killed_and_unbroken("smoke", changes, random.randint(2, 10), tmp_path))
