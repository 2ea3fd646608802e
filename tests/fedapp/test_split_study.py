"""``fedapp attack split-nerf``, the command: a few transcripts instead of forty-six."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedapp.attacks import split
from fedapp.attacks.split_transcript import Case
from fedapp.cli.main import app
from fedapp.config.experiment import Experiment

SMALL = {
    "data.size": 8, "split.cells": "4,8", "split.exchanges": 1, "split.batches": 1,
    "split.rays": 16, "split.samples": 4, "split.train-views": 3, "split.test-views": 2,
    "clients.total": 2,
}  # fmt: skip


def test_the_study_of_split_learning_is_a_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The undefended cut and two transcripts that hold nothing: attacked, tabled, pictured; a
    second call takes them from the disk."""
    every = split.cases_of

    def three(experiment: Experiment) -> list[Case]:
        plain = [case for case in every(experiment) if case.kind == "plain"]
        real = [case for case in plain if case.design == "split" and not case.null]
        return [real[0], *[case for case in plain if case.null][:2]]

    monkeypatch.setattr(split, "cases_of", three)
    told = tmp_path / "told.json"
    words = ["attack", "split-nerf", "--steps", "10", "--runs", str(tmp_path), "--json", str(told)]
    for key, value in SMALL.items():
        words += ["-o", f"{key}={value}"]
    for turn in range(2):
        told.unlink(missing_ok=True)  # what is there is not written over
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert ("3 of 3 transcripts are on disk" in done.output) == (turn == 1)
    found = json.loads(told.read_text(encoding="utf-8"))
    assert found["steps"] == 10 and found["rows"] and "one_holder" in found
    assert {row["release"] for row in found["rows"]} == {"split, K = 1"}
    pictures = {file.name for file in (tmp_path / "split-nerf-attack" / "pictures").iterdir()}
    assert {"attack-sheet.png", "attack-frontier.png"} <= pictures
