"""Values at and beyond the edge: refused by name before work starts, or answered; never a traceback
after it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fedapp.cli.main import app
from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import Pieces
from fedapp.report import write_report
from fedapp.store.runfolder import RunFolder
from privacy.accounting import Event, gaussian_epsilon, prv, rdp
from tasks.errors import InputError

Run = Callable[..., RunFolder]
CLI = CliRunner()


def experiment(**changes: Any) -> Experiment:
    named = {name.replace("__", ".").replace("_", "-"): value for name, value in changes.items()}
    return Experiment.from_run_config(known_keys() | named)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("privacy.delta", [0.999999, 0.6, 1e-16, math.nan]),
        ("privacy.epsilon-max", [1e155, 1e300, math.inf, math.nan, -1.0]),
        ("privacy.noise-multiplier", [1e-160, 1e-320, 1e-7, math.nan, math.inf]),
        ("evaluation.rates", ["nan", "inf", "0.1,nan,inf", "0", "-1"]),
        ("learner.batch-size", [100_000_000, -1]),
        ("recipe", ["../up", "a/b", "a\nb", "/", "", ".", ".hidden", "a\\b", "x" * 300]),
        ("privacy.metrics", ['{"objective_min": [0, 1e400]}', '{"loss": [-1e308, 1e308]}']),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(key: str, values: list[Any]) -> None:
    for value in values:
        changes = {key: value, "release": "central-dp", "evaluation.uploads": False}
        config = known_keys() | {"privacy.epsilon-max": 10.0} | changes
        with pytest.raises(InputError) as refused:
            Pieces(Experiment.from_run_config(config))
        assert refused.value.key == key and refused.value.remedy, value


@settings(deadline=None)
@given(
    st.floats(1e-6, 1e8), st.floats(1e-15, 0.5, exclude_min=True), st.integers(1, 1000),
    st.sampled_from([0.001, 0.3, 1.0]),
)  # fmt: skip
def test_accountants_answer_at_every_edge_that_is_allowed(
    noise: float, delta: float, steps: int, rate: float
) -> None:
    """None of them raises; where one cannot answer it says so, and another one does."""
    events = [Event(noise, rate, steps)]
    upper, _ = rdp(events, delta)
    assert upper >= 0 and not math.isnan(upper)
    assert gaussian_epsilon(math.sqrt(steps) / noise, delta) >= 0


@pytest.mark.parametrize("delta", [1.01e-15, 1e-13, 1e-5, 0.1, 0.5])
def test_a_tight_accountant_that_cannot_answer_says_so(delta: float) -> None:
    found = prv([Event(1.0, 0.1, 3)], delta)
    assert found is None or 0 <= found <= rdp([Event(1.0, 0.1, 3)], delta)[0] + 0.02


@pytest.mark.parametrize(
    "changes",
    [{"privacy__target_epsilon": 2.0}, {"privacy__adaptive_clip": True},
     {"task_options": '{"a": 1}'}, {"learner__options": '{"a": 1}'},
     {"rules__options": '{"a": 1}'}, {"data__hosted": "1,2"}],
)  # fmt: skip
def test_options_that_nothing_reads_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        Pieces(experiment(**changes)).task.check(4)
    assert refused.value.key.replace(".", "__").replace("-", "_") in changes


def test_a_limit_without_noise_is_said_to_limit_nothing(tmp_path: Path) -> None:
    command = ["run", "smoke", "--runtime", "in-process", "-o", "rounds=1", "-o", "methods=maml",
               "--runs", str(tmp_path), "-o", "privacy.epsilon-max=1"]  # fmt: skip
    done = CLI.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "promises no epsilon: privacy.epsilon-max = 1 limits nothing" in done.stderr
    assert "limits nothing" not in CLI.invoke(app, command[:-2]).stderr


@pytest.mark.parametrize(("layout", "reason"), [("lrs", "unknown"), ("lrs3", "needs a folder")])
def test_a_layout_without_a_folder_is_refused_before_any_training(
    layout: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.talking_head.model.pretrain", lambda *_: pytest.fail("trains"))
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path))
    for words in (["data", "check"], ["run", "--runtime", "in-process", "--runs", str(tmp_path)]):
        command = [*words, "talking-head", "-o", f"talking-head.layout={layout}"]
        with pytest.raises(InputError, match=rf"talking-head\.layout.*{reason}"):
            CLI.invoke(app, command, catch_exceptions=False)


def test_names_that_are_not_utf8_go_through_a_run(run: Run, tmp_path: Path) -> None:
    """Latin-1 names of an old disk: to the end, page and all."""
    place = os.fsencode(tmp_path) + b"/dir\xe9"
    os.makedirs(place)
    numbers = np.random.default_rng(0)
    for index in range(6):
        values = (numbers.random((9, 9, 3)) * 255).astype(np.uint8)
        with open(place + b"/caf\xe9%d.png" % index, "wb") as file:
            Image.fromarray(values).save(file, "png")
    path = os.fsdecode(place)
    folder = run(
        **{"methods": "maml", "rounds": 1, "data.path": path, "data.channels": 3,
           "clients.total": 4, "data.held-out": 2}
    )  # fmt: skip
    write_report(folder)
    assert "caf" not in folder.events_file.read_text(encoding="utf-8")
    assert folder.report_file.stat().st_size > 10_000
