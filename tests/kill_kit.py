"""A run through the command line that is killed after a round, and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fedapp.store.runfolder import RunFolder

COMMAND = [sys.executable, "-m", "fedapp.cli.main"]
PATIENCE = 120.0


def killed_and_unbroken(
    recipe: str, changes: dict[str, Any], target: int, place: Path
) -> tuple[RunFolder, RunFolder]:
    """(a run that was sent SIGKILL after round ``target`` and resumed, one that was not)."""
    command = [*COMMAND, "run", recipe, "--runtime", "in-process", "--runs", str(place)]
    for key, value in changes.items():
        command += ["-o", f"{key}={value}"]
    folders = [place / name for name in ("unbroken", "killed")]
    unbroken, killed = ([*command, "-o", f"run-dir={folder}"] for folder in folders)
    subprocess.run(unbroken, check=True, capture_output=True)

    victim = subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and victim.poll() is None:
        if any(event.get("round", 0) >= target for event in RunFolder(folders[1]).events()):
            break
        time.sleep(0.005)
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL, "the run must be killed while it is still going"

    resumed = subprocess.run(
        [*COMMAND, "resume", str(folders[1])], check=False, capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert not (folders[1] / "flower.log").exists(), "resumed on the runtime it was started on"
    return RunFolder(folders[1]), RunFolder(folders[0])
