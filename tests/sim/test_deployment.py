"""A SuperLink and two SuperNodes on loopback, each device with a folder of its own. Slow: Flower
starts a process for every message, and each imports torch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import draw_picture
from safetensors.torch import load_file

from fedapp import ROOT
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from sim.deployed import deployed
from sim.launch import script

pytestmark = pytest.mark.slow
HELD = 2
DEVICES = 2


def test_devices_of_their_own_train_what_the_simulation_does(
    run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """The same bits, though the server never had a private picture on its disk; and no log of it
    names one."""
    changes: dict[str, Any] = {
        "methods": "maml",
        "learner.outer-steps": 2,
        "evaluation.uploads": False,
        "clients.total": DEVICES,
        "rounds": 1,
        "data.held-out": HELD,
        "runtime.nodes": DEVICES,
    }
    for number in range(DEVICES + HELD):
        draw_picture(tmp_path / "all" / f"{number}.png", number)
        own = f"home-{number}/holiday.png" if number < DEVICES else f"public/{number}.png"
        draw_picture(tmp_path / own, number)
    together = run(nodes=DEVICES, **{**changes, "data.path": str(tmp_path / "all")})

    nodes = []
    for number in range(DEVICES):
        state = tmp_path / f"state-{number}"
        enrolled = [script("fedapp"), "enrol", str(state), *["--releases", "plain"]]
        subprocess.run([*enrolled, "--epsilon-max", "0"], check=True, capture_output=True)
        home = tmp_path / f"home-{number}"
        nodes.append(
            {"partition-id": number, "clients": str(number), "data-path": str(home),
             "state-dir": str(state)}
        )  # fmt: skip
    apart = RunFolder(tmp_path / "apart")
    server_side = {
        "run-dir": str(apart.path),
        "data.path": str(tmp_path / "public"),
        "data.hosted": "none",
    }
    with deployed(tmp_path, nodes) as town:
        said = town.submit(ROOT, {**together.config, **changes, **server_side})
    logs = "\n".join(
        (place / "log").read_text(errors="replace") for place in tmp_path.glob("node-*")
    )
    assert apart.status.get("state") == "finished", (
        f"{apart.status}\n{said.stdout[-3000:]}\n{logs[-3000:]}"
    )
    models = [
        load_file(list_checkpoints(folder.checkpoints)[-1])["maml-0/model"]
        for folder in (together, apart)
    ]
    assert torch.equal(*models)
    assert "holiday" not in said.stdout + said.stderr + (tmp_path / "link" / "log").read_text(
        errors="replace"
    )
