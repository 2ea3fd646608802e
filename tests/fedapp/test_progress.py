"""What a run says while it works: a bar with time left, and lines in a log."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fedapp.cli import progress
from fedapp.cli.progress import ProgressDisplay
from fedapp.store.runfolder import RunFolder


def display(tmp_path: Path, terminal: bool) -> tuple[ProgressDisplay, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200)
    return ProgressDisplay(RunFolder(tmp_path), 10, console), out


def test_a_log_is_told_how_far_a_run_is_and_how_long_it_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown, out = display(tmp_path, terminal=False)
    shown.tick()
    assert out.getvalue() == ""  # nothing before half a minute
    clock[0] = 31.0
    shown.tick()
    assert out.getvalue().strip() == "0 of 10 rounds, 0:31 gone, time left not known yet"
    shown.done, clock[0] = 4, 4000.0
    shown.tick()
    shown.tick()  # said once
    assert out.getvalue().splitlines()[1:] == ["4 of 10 rounds, 1:06:40 gone, about 1:40:00 left"]


def test_a_terminal_has_its_bar_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown, out = display(tmp_path, terminal=True)
    clock[0] = 100.0
    shown.tick()
    assert "rounds" not in out.getvalue()
