"""The lines of ``docs/deployment.md`` as they stand there, on loopback: a SuperLink with
certificates and two devices, each with a folder of its own. Slow: Flower starts a process for every
message, and each imports torch."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from device_kit import certify
from kit import draw_picture
from safetensors.torch import load_file

from fedapp.place import PACKAGES, ROOT
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from sim.launch import as_toml, end, free_port, script

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
HELD = 2
DEVICES = 2
PATIENCE = 240.0


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S)


class Town:
    """The page's server and devices, with this test's folders and ports for the page's own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port = free_port()
        certify(place)
        self.env = {
            **os.environ,
            "HOME": str(place / "user"),
            "PATH": f"{Path(script('flwr')).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.env.pop("FLWR_HOME", None)
        (place / "user" / ".flwr").mkdir(parents=True)
        config, self.run_toml, _ = blocks("toml")
        self.write(place / "user" / ".flwr" / "config.toml", config)
        self.server, self.submission, self.device = blocks("bash")

    def here(self, text: str, number: int = 0, app: Path = ROOT) -> str:
        for theirs, ours in (
            ("--number 0", f"--number {number}"),
            ("/home/anna/pictures", f"{self.place}/home-{number}"),
            ("/var/lib", f"{self.place}/device-{number}"),
            ("/srv", f"{self.place}/srv"),
            ("0.0.0.0 --port 8000", f"127.0.0.1 --port {self.port}"),
            ("server.example:8000", f"127.0.0.1:{self.port}"),
            ("-certfile …", f"-certfile {self.place}/server.pem"),
            ("-keyfile …", f"-keyfile {self.place}/server.key"),
            ("-ca-certfile …", f"-ca-certfile {self.place}/ca.pem"),
            ("ca.pem", f"{self.place}/ca.pem"),
            ("/path/to/fedapp", str(app)),
            ("run.toml", str(self.place / "run.toml")),
        ):
            text = text.replace(theirs, ours)
        return text.replace(f"{self.place}/{self.place}", str(self.place))

    def write(self, file: Path, text: str) -> None:
        file.write_text(self.here(text), encoding="utf-8")

    @contextmanager
    def running(self, lines: str, log: str) -> Iterator[None]:
        """A block of the page's shell, whose last line stays."""
        with open(self.place / log, "wb") as said:
            process = subprocess.Popen(
                ["bash", "-ec", lines], cwd=self.place, env=self.env, start_new_session=True,
                stdout=said, stderr=said,
            )  # fmt: skip
            try:
                yield
                assert process.poll() is None, self.log(log)
            finally:
                end(process)

    def log(self, name: str) -> str:
        return (self.place / name).read_text(encoding="utf-8", errors="replace")

    def await_server(self) -> None:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        pytest.fail(self.log("server.log"))

    def submit(self, app: Path, values: dict[str, Any]) -> str:
        """``flwr run`` to its end, with the page's settings and these."""
        kept = [line for line in self.run_toml.splitlines() if line.split(" =")[0] not in values]
        self.write(self.place / "run.toml", "\n".join(kept) + "\n" + as_toml(values))
        done = subprocess.run(
            ["bash", "-ec", self.here(self.submission, app=app)], cwd=self.place, env=self.env,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr


def with_a_spy(place: Path) -> Path:
    """The app with a line of the server's own: it leaves a file in the home of whoever runs it."""
    app = place / "spy" / "fedapp"
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        app.mkdir(parents=True, exist_ok=True)
        copy(source, app / name)
    client = app / "fedapp" / "client_app.py"
    line = "import os, pathlib\n(pathlib.Path(os.environ['FLWR_HOME']) / 'seen').touch()\n"
    client.write_text(client.read_text(encoding="utf-8") + line, encoding="utf-8")
    return app


def test_devices_of_their_own_train_what_the_simulation_does_and_run_no_other_code(
    run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """The same bits, though the server never had a private picture on its disk; no log of it names
    one; and code of the server's runs on Flower's own SuperNode, not on a device of ours."""
    changes: dict[str, Any] = {
        "methods": "maml",
        "learner.outer-steps": 2,
        "evaluation.uploads": False,
        "clients.total": DEVICES,
        "clients.min": DEVICES,
        "rounds": 1,
        "data.held-out": HELD,
        "runtime.nodes": DEVICES,
    }
    for number in range(DEVICES + HELD):
        draw_picture(tmp_path / "all" / f"{number}.png", number)
        own = f"home-{number}/holiday.png" if number < DEVICES else f"srv/public/{number}.png"
        draw_picture(tmp_path / own, number)
    together = run(nodes=DEVICES, **{**changes, "data.path": str(tmp_path / "all")})
    apart = {key: value for key, value in together.config.items() if key != "run-dir"} | changes
    for key in ("data.path", "data.hosted"):  # as the page has them
        del apart[key]

    town = Town(tmp_path)
    with ExitStack() as running:
        running.enter_context(town.running(town.here(town.server), "server.log"))
        town.await_server()
        for number in range(DEVICES):
            lines = town.here(town.device, number)
            running.enter_context(town.running(lines, f"device-{number}.log"))
        with town.running(*of_flowers_own(town)):
            spy = with_a_spy(tmp_path)
            town.submit(
                spy, {**apart, "runtime.nodes": DEVICES + 1, "run-dir": str(tmp_path / "s")}
            )
        seen = {file.parent.parent.name for file in tmp_path.glob("device-*/**/seen")}
        seen |= {file.parent.name for file in tmp_path.glob("plain/seen")}
        assert seen == {"plain"}, seen
        said = town.submit(ROOT, apart)
    for number in range(DEVICES):
        assert "'fedapp/client_app.py' of the bundle is not as installed" in town.log(
            f"device-{number}.log"
        )
    folder = RunFolder(tmp_path / "srv" / "runs" / "first")
    assert folder.status.get("state") == "finished", (
        f"{folder.status}\n{said[-3000:]}\n{town.log('device-0.log')[-3000:]}"
    )
    models = [
        load_file(list_checkpoints(each.checkpoints)[-1])["maml-0/model"]
        for each in (together, folder)
    ]
    assert torch.equal(*models)
    assert "holiday" not in said + town.log("server.log")


def of_flowers_own(town: Town) -> tuple[str, str]:
    """A SuperNode that runs what it is sent: the control."""
    lines = (
        f"export FLWR_HOME={town.place}/plain; mkdir -p $FLWR_HOME/neutral; cd $FLWR_HOME/neutral;"
        f" flower-supernode --superlink 127.0.0.1:{town.port} --port {free_port()}"
        f" --root-certificates {town.place}/ca.pem --node-config partition-id={DEVICES}"
    )
    return lines, "plain.log"
