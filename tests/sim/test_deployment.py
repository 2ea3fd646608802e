"""A SuperLink and two SuperNodes on loopback, each device with a folder of its own. Slow: Flower
starts a process for every message, and each imports torch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import draw_picture
from safetensors.torch import load_file

from fedapp import ROOT
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from sim.launch import _await_health, _end, _free_port, _script, as_toml, environment
from sim.settings import RuntimeSettings

pytestmark = pytest.mark.slow
HELD = 2
DEVICES = 2
PATIENCE = 300  # seconds


@contextmanager
def started(
    command: list[str], home: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own home, ended with all it started."""
    (home / "neutral").mkdir(parents=True)
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=home / "neutral",
            env={**env, "FLWR_HOME": str(home / "flower")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


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

    ports = [_free_port() for _ in range(DEVICES + 1)]
    env = environment(tmp_path, RuntimeSettings(), (ports[0], ports[0]))
    address = f"127.0.0.1:{ports[0]}"
    link = [
        *("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(ports[0])),
        *("--database", str(tmp_path / "link.db")),
    ]
    apart = RunFolder(tmp_path / "apart")
    with ExitStack() as running:
        server = running.enter_context(
            started([_script(link[0]), *link[1:]], tmp_path / "link", env)
        )
        _await_health(server, f"http://{address}/health", tmp_path / "link" / "log")
        for number in range(DEVICES):
            home = tmp_path / f"home-{number}"
            state = tmp_path / f"state-{number}"
            enrolled = [_script("fedapp"), "enrol", str(state), *["--releases", "plain"]]
            subprocess.run([*enrolled, "--epsilon-max", "0"], check=True, env=env)
            told = f"partition-id={number} clients='{number}' data-path='{home}'"
            told += f" state-dir='{state}'"
            node = [
                "--insecure",
                "--superlink",
                address,
                "--port",
                str(ports[1 + number]),
                "--node-config",
                told,
            ]
            running.enter_context(
                started([_script("flower-supernode"), *node], tmp_path / f"node-{number}", env)
            )
        user = tmp_path / "user"
        user.mkdir()
        (user / "config.toml").write_text(
            f'[superlink.here]\naddress = "{address}"\ninsecure = true\n'
        )
        server_side = {
            "run-dir": str(apart.path),
            "data.path": str(tmp_path / "public"),
            "data.hosted": "none",
        }
        settings = {**together.config, **changes, **server_side}
        (user / "run.toml").write_text(as_toml(settings))
        command = [
            _script("flwr"),
            "run",
            str(ROOT),
            "here",
            "--stream",
            "--run-config",
            str(user / "run.toml"),
        ]
        said = subprocess.run(
            command,
            cwd=user,
            env={**env, "FLWR_HOME": str(user)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
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
