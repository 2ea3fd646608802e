"""What there is, beside each other, and who would hold what; made-up data in published layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from fedapp.cli.main import app
from fedapp.compared import differences, names
from fedapp.store.runfolder import RunFolder
from tasks.data.layouts import detect, open_layout
from tasks.errors import InputError

Run = Callable[..., RunFolder]
CLI = CliRunner()


def test_runs_are_listed_and_compared(run: Run, tmp_path: Path) -> None:
    base = {"methods": "maml", "rounds": 1}
    one = run(**base, **{"run-dir": str(tmp_path / "runs" / "one")})
    two = run(**base, **{"run-dir": str(tmp_path / "runs" / "two"), "learner.outer-rate": 0.02})
    (tmp_path / "runs" / "no run").mkdir()
    listed = CLI.invoke(app, ["runs", str(tmp_path / "runs")])
    assert listed.exit_code == 0
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["two", "one"] and "finished" in lines[0]
    assert differences([one, two]) == {"learner.outer-rate": [0.006, 0.02]}
    page, told = tmp_path / "page.html", tmp_path / "told.json"
    done = CLI.invoke(
        app, ["compare", str(one.path), str(two.path), "--out", str(page), "--json", str(told)]
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(told.read_text(encoding="utf-8"))["rows"]
    assert [(row["run"], row["method"]) for row in rows] == [("one", "maml"), ("two", "maml")]
    (key,) = (name for name in rows[0] if name.startswith("PSNR@"))
    assert rows[0][key] != rows[1][key]
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") >= 2 and "one, maml" in text and "learner.outer-rate" in text
    with pytest.raises(InputError, match="not a run folder"):
        CLI.invoke(app, ["compare", str(one.path), str(tmp_path)], catch_exceptions=False)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / place / "run") for place in ("a", "b")]
    assert names(folders) == ["a/run", "b/run"]


def test_data_are_looked_at_before_a_run(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    done = CLI.invoke(app, ["data", "check", "smoke", "--json", str(told)])
    assert done.exit_code == 0, done.output
    found = json.loads(told.read_text(encoding="utf-8"))
    assert len(found["clients"]) == 4 and found["wrong"] == {}
    assert found["clients"][0]["shape"].startswith("16×16")
    bad = tmp_path / "pictures"
    bad.mkdir()
    for number in range(9):
        Image.new("RGB", (20, 20), (number * 20, 0, 0)).save(bad / f"{number}.png")
    (bad / "3.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(InputError, match=r"3\.png"):
        CLI.invoke(
            app, ["data", "check", "smoke", "-o", f"data.path={bad}"], catch_exceptions=False
        )


@pytest.mark.parametrize("layout", ["petface", "golfdb"])
def test_made_data_are_what_the_layout_says(tmp_path: Path, layout: str) -> None:
    out = tmp_path / layout
    done = CLI.invoke(app, ["made", layout, str(out), "--holders", "2"])
    assert done.exit_code == 0, done.output
    assert detect(out) == layout
    holders = open_layout(layout).holders(out)
    assert len(holders) == 2 and all(len(holder.items) == 2 for holder in holders)
    loaded: Any = open_layout(layout)
    for holder in holders:
        item = holder.items[0]
        if layout == "petface":
            assert loaded.load_pictures(item, 0, 3).shape == (112, 112, 3)
        else:
            assert loaded.load_video(item, 48, 3, 0).shape == (8, 48, 48, 3)
    again = tmp_path / "again"
    CLI.invoke(app, ["made", layout, str(again), "--holders", "2"])
    for file in out.rglob("*.png"):
        assert file.read_bytes() == (again / file.relative_to(out)).read_bytes()
    with pytest.raises(InputError, match="not a new folder"):
        CLI.invoke(app, ["made", layout, str(out)], catch_exceptions=False)


def test_the_version_is_said() -> None:
    import fedapp

    done = CLI.invoke(app, ["--version"])
    assert done.exit_code == 0 and done.stdout.strip() == f"fedapp {fedapp.__version__}"
    pinned = (Path(fedapp.ROOT) / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{fedapp.__version__}"' in pinned


def test_answers_are_on_standard_output() -> None:
    """``fedapp list keys | wc -l`` counts them."""
    done = CLI.invoke(app, ["list", "keys"])
    lines = done.stdout.splitlines()
    assert len(lines) > 100 and any(line.startswith("learner.outer-rates\t") for line in lines)


def test_answers_come_in_a_locale_without_our_letters() -> None:
    import os
    import subprocess
    import sys

    told = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "fedapp.cli.main", "list", "recipes"]
    done = subprocess.run(command, env=told, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"quickstart\t" in done.stdout
