"""Real runs of ``flwr run`` on Ray through the command line. Slow, and few."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fedapp.place import ROOT
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from sim.launch import free_port, script

pytestmark = pytest.mark.slow
FEDAPP = [sys.executable, "-m", "fedapp.cli.main"]


def command(tmp_path: Path, *changes: str) -> list[str]:
    options = [part for change in changes for part in ("-o", change)]
    return [
        *FEDAPP,
        "run",
        "smoke",
        "--runs",
        str(tmp_path),
        "-o",
        f"run-dir={tmp_path / 'run'}",
        "--json",
        "-",
        *options,
    ]


def test_an_actor_killed_in_mid_round_comes_back_and_nothing_is_left_running(
    tmp_path: Path,
) -> None:
    """One run carries several checks because each start of Ray costs half a minute."""
    process = subprocess.Popen(
        command(
            tmp_path,
            "rounds=30",
            "methods=maml",
            "rule=scaffold",
            "learner.outer-steps=8",
            "evaluation.every=30",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    folder = RunFolder(tmp_path / "run")
    family: list[psutil.Process] = []
    killed = []

    def assassin() -> None:
        while process.poll() is None and not killed:
            if sum(event["event"] == "round" for event in folder.events()) >= 3:
                family.extend(psutil.Process(process.pid).children(recursive=True))
                actors = [
                    member
                    for member in family
                    if "ClientAppActor" in member.name() + " ".join(member.cmdline())
                ]
                os.kill(actors[0].pid, signal.SIGKILL)
                killed.append(actors[0].pid)
            time.sleep(0.02)

    thread = threading.Thread(target=assassin)
    thread.start()
    out, err = process.communicate(timeout=280)
    thread.join()
    assert process.returncode == 0, (
        err + (folder.path / "flower.log").read_text(encoding="utf-8")[-3000:]
    )
    assert killed, "no actor was found to kill"
    result = json.loads(out)
    assert result["rounds"] == 30 and result["run"] == str(folder.path)

    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert rounds[-1]["clients"] == {"ok": 4, "failed": 0}
    first_failed = next((i for i, event in enumerate(rounds) if event["clients"]["failed"]), None)
    if first_failed is not None:  # Ray usually repeats the message within the round
        assert rounds[first_failed + 1]["clients"]["failed"] == 0, (
            "its clients train again in the next round"
        )

    gone = psutil.wait_procs(family, timeout=20)[1]
    assert not gone, f"left running: {gone}"
    assert len(list_checkpoints(folder.checkpoints)) == 2
    log = (folder.path / "flower.log").read_text(encoding="utf-8")
    assert "uv sync" not in log, "no dependency installation at run time"


def test_on_ray_and_in_process_give_the_same_model(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    models = []
    for runtime in ("ray", "in-process"):
        path = tmp_path / runtime
        path.mkdir()
        done = subprocess.run(
            [*command(path, "methods=fedmenf", "rule=scaffold"), "--runtime", runtime],
            capture_output=True,
            text=True,
            check=False,
            cwd=path,
        )
        assert done.returncode == 0, done.stderr
        models.append(load_file(list_checkpoints(path / "run" / "checkpoints")[-1]))
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], rtol=1e-5, atol=1e-7)


def test_flowers_own_command_as_the_docs_have_it(tmp_path: Path) -> None:
    """The lines of ``docs/use.md``, with this test's folders and ports, and smaller."""
    page = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")
    (lines,) = [
        block for block in re.findall(r"```bash\n(.*?)```", page, re.S) if "\nflwr run" in block
    ]
    small = "rounds=1 methods='maml' clients.total=3 learner.outer-steps=1 evaluation.steps='0,1'"
    for theirs, ours in (
        ("/tmp/neutral", str(tmp_path / "neutral")),
        ("/path/to/fedapp", str(ROOT)),
        ("rounds=5", f"{small} data.size=8 data.held-out=1"),
    ):
        assert theirs in lines
        lines = lines.replace(theirs, ours)
    ports = {
        f"FLWR_LOCAL_{name}_API_PORT": str(free_port()) for name in ("SUPERLINK_HTTP", "CONTROL")
    }
    path = f"{Path(script('flwr')).parent}{os.pathsep}{os.environ['PATH']}"
    home = str(tmp_path / "home")
    try:
        done = subprocess.run(
            ["bash", "-ec", lines], cwd=tmp_path, capture_output=True, text=True, timeout=240,
            env={**os.environ, **ports, "HOME": home, "PATH": path}, check=False,
        )  # fmt: skip
    finally:  # Flower's SuperLink stays, as the page says
        for process in psutil.process_iter(["pid", "environ"]):
            if (process.info["environ"] or {}).get("HOME") == home:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
    folder = RunFolder(tmp_path / "home" / "fedapp-runs" / "mine")
    assert done.returncode == 0 and folder.status.get("state") == "finished", (
        f"{folder.status}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )


def test_a_run_whose_clients_all_fail_exits_non_zero_and_says_why(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "methods=erm", "learner.outer-rate=1e38", "learner.outer-clip=0"),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )  # a step size beyond all numbers: no update is finite
    assert done.returncode == 3 and done.stdout == ""
    assert "0 clients answered" in done.stderr and "not finite" in done.stderr
    assert RunFolder(tmp_path / "run").status["state"] == "stopped"
