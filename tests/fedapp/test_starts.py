"""Runs that start at the same moment, and ends that a reader's pipe brings about."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

import fedapp
from fedapp import place
from fedapp.cli import runs
from fedapp.store import runfolder
from tasks.errors import InputError

AT_ONCE = 6


def test_runs_that_start_in_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them look for a free name before any has taken one."""
    gate = Barrier(AT_ONCE)
    free = runfolder.new_path
    looked: list[Path] = []

    def all_look_first(base: Path, recipe: str) -> Path:
        found = free(base, recipe)
        looked.append(found)
        if len(looked) <= AT_ONCE:  # the first look of each
            gate.wait(timeout=30)
        return found

    monkeypatch.setattr(time, "strftime", lambda *_: "20300101-000000")
    monkeypatch.setattr("fedapp.running.start.new_path", all_look_first)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = list(
            pool.map(
                lambda _: runs.prepare("smoke", [], tmp_path, "in-process")[1].path, range(AT_ONCE)
            )
        )
    assert len(set(looked[:AT_ONCE])) == 1 and len(set(made)) == AT_ONCE
    assert all((path / "config.json").is_file() for path in made)
    for path in made:
        assert runfolder.RunFolder(path).config["run-dir"] == str(path)


def test_a_folder_that_was_asked_for_is_not_exchanged_for_another(tmp_path: Path) -> None:
    given = [f"run-dir={tmp_path / 'mine'}"]
    runs.prepare("smoke", given, tmp_path, "in-process")
    with pytest.raises(InputError, match="already holds a run"):
        runs.prepare("smoke", given, tmp_path, "in-process")


def test_a_server_claims_its_folder_by_making_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20300101-000000")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = list(pool.map(lambda _: runfolder.claimed(tmp_path / "a", "r"), range(40)))
    assert len(set(made)) == 40 and all(path.is_dir() for path in made)


def test_one_thread_policy_however_a_computation_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Waiting threads sleep in every process of ours, and OMP_NUM_THREADS binds all of them."""
    told = subprocess.run(
        [sys.executable, "-c", "import fedapp, os; print(os.environ['OMP_WAIT_POLICY'])"],
        env={k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"},
        capture_output=True, text=True, check=True, cwd=fedapp.ROOT,
    )  # fmt: skip
    assert told.stdout.strip() == "passive"
    before = torch.get_num_threads()
    for given, wanted in (("1", 1), ("", place.cores()), ("10000", place.cores())):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        with runs.progress_bar():
            assert torch.get_num_threads() == wanted
        assert torch.get_num_threads() == before
