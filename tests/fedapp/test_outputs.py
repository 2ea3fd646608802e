"""Files that commands write: never over somebody's file, whole or not at all, one sentence where
the machine refuses."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import fedapp
from fedapp.cli.main import app
from fedapp.compared import listed
from fedapp.report import write_report
from fedapp.store.runfolder import RUNNING, STARTING, STOPPED, RunFolder
from tasks.errors import InputError
from tasks.targets import NotWrittenError, new_folder, whole

Run = Callable[..., RunFolder]
CLI = CliRunner()
COMMAND = [sys.executable, "-m", "fedapp.cli.main"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("mine") / "me.png"
    Image.fromarray((np.random.default_rng(0).random((20, 20, 3)) * 255).astype(np.uint8)).save(
        file
    )
    return file


@pytest.fixture
def trained(run: Run) -> RunFolder:
    return run(**{"methods": "maml", "rounds": 1, "data.channels": 3, "evaluation.rates": "0.01"})


def entry(
    *arguments: str, room: int | None = None, redirect: str = ""
) -> subprocess.CompletedProcess[str]:
    """The command line as a shell starts it; ``room``: bytes that a file may have (a full disk's
    stand-in that needs no rights: the system itself refuses)."""

    def limit() -> None:
        if room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    line = " ".join(f"'{one}'" for one in [*COMMAND[:1], "-c", START, *arguments])
    return subprocess.run(
        ["bash", "-c", f"{line} {redirect}"], capture_output=True, text=True, preexec_fn=limit,
        timeout=240, check=False,
        env={name: value for name, value in os.environ.items() if name != UNBUFFERED},
    )  # fmt: skip


UNBUFFERED = "PYTHONUNBUFFERED"
START = "from fedapp.cli.main import entry; entry()"


# ------------------------------------------------------------------ somebody's files
def test_json_takes_nothings_place(trained: RunFolder, mine: Path, tmp_path: Path) -> None:
    before = mine.read_bytes()
    adapt = ["adapt", str(trained.path), "--picture", str(mine), "--steps", "1", "--rate", "0.01"]
    for out, target in ((tmp_path / "a.safetensors", mine), (tmp_path / "b.safetensors", None)):
        command = [*adapt, "--out", str(out), "--json", str(target or out)]
        with pytest.raises(InputError, match=r"--json.*is there already"):
            CLI.invoke(app, command, catch_exceptions=False)
        assert out.exists() is (target is None)  # of one name: what was asked for first is kept
    assert mine.read_bytes() == before
    config = trained.path / "config.json"
    kept = config.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        CLI.invoke(app, ["report", str(trained.path), "--json", str(config)],
                   catch_exceptions=False)  # fmt: skip
    assert config.read_bytes() == kept


def test_a_film_of_ones_own_is_not_spoken_over(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"mine")
    command = ["speak", str(tmp_path), "--picture", str(film), "--sound", str(film), "--out",
               str(film)]  # fmt: skip
    for force, reason in (([], "is there already"), (["--force"], "is your own data")):
        with pytest.raises(InputError, match=reason):
            CLI.invoke(app, [*command, *force], catch_exceptions=False)
    assert film.read_bytes() == b"mine"


# ------------------------------------------------------------------ no room, no right
def test_what_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old", encoding="utf-8")

    def write(error: Exception) -> None:
        with whole(target) as beside:
            beside.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(NotWrittenError, match=r"a\.txt could not be written: No space left"):
        write(OSError(28, "No space left on device"))
    with pytest.raises(ZeroDivisionError):  # faults of ours are not called the disk's
        write(ZeroDivisionError())
    assert target.read_text(encoding="utf-8") == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path):
        with pytest.raises(InputError, match=r"is not an empty folder|cannot be made"):
            new_folder("--out", path)
    for command in (
        ["compare", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "no" / "x.html")],
        ["portraits", str(tmp_path / "no" / "x.png")],
        ["made", "petface", str(tmp_path / "file" / "x")],
        ["people", str(tmp_path / "file" / "x"), "--count", "1"],
    ):
        with pytest.raises(InputError, match=r"cannot be|not a new folder"):
            CLI.invoke(app, command, catch_exceptions=False)
    with pytest.raises(InputError, match="cannot be written"):
        fedapp.compare([tmp_path, tmp_path], out=tmp_path / "no" / "x.html")


def test_a_full_disk_is_one_sentence(trained: RunFolder, mine: Path, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    commands = {
        "adapt": ["--picture", str(mine), "--steps", "1", "--rate", "0.01", "--out",
                  str(place / "a.safetensors")],
        "report": [],
    }  # fmt: skip
    for name, options in commands.items():
        done = entry(name, str(trained.path), *options, room=2000)
        assert done.returncode == 3, done.stderr
        assert "could not be written: File too large" in done.stderr
        assert "Traceback" not in done.stderr and "make room" in done.stderr
    done = entry("made", "petface", str(place / "m"), "--holders", "1", room=200)
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert list(place.iterdir()) == []
    for what in ("keys", "rules"):  # more, and less, than a buffer holds
        done = entry("list", what, redirect="> /dev/full")
        assert done.returncode == 3 and "standard output" in done.stderr, done.stderr
        assert "Exception ignored" not in done.stderr
    done = entry("list", "rules", redirect="| (sleep 5; true)")
    assert "Broken" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_run_on_a_full_disk_stops_and_goes_on(tmp_path: Path) -> None:
    options = ["-o", "methods=maml", "-o", "rounds=2", "-o", "report.pictures=false"]
    start = ["run", "smoke", "--runtime", "in-process", *options]
    full = entry(*start, "--runs", str(tmp_path / "none"), room=100)  # not even config.json
    assert full.returncode == 3 and "could not be written" in full.stderr, full.stderr
    assert not any((tmp_path / "none").iterdir())
    full = entry(*start, "--runs", str(tmp_path / "some"), room=9000)
    assert full.returncode == 3 and "Traceback" not in full.stderr, full.stderr
    assert "make room, then `fedapp resume" in full.stderr
    (folder,) = (tmp_path / "some").iterdir()
    assert RunFolder(folder).status["state"] == STOPPED
    again = entry("resume", str(folder))
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "status.json").read_text(encoding="utf-8"))["state"] == "finished"


def test_devices_and_pipes_are_written_to_by_json_alone(trained: RunFolder, tmp_path: Path) -> None:
    pipe, page = tmp_path / "pipe.html", tmp_path / "page.html"
    os.mkfifo(pipe)
    runs = ["compare", str(trained.path), str(trained.path)]
    with pytest.raises(InputError, match=r"--out.*is no file"):
        CLI.invoke(app, [*runs, "--out", str(pipe)], catch_exceptions=False)
    assert pipe.is_fifo()
    assert CLI.invoke(app, ["list", "rules", "--json", "/dev/null"]).exit_code == 0
    assert Path("/dev/null").is_char_device()
    page.write_text("old", encoding="utf-8")
    (tmp_path / "link.html").symlink_to(page)
    with whole(tmp_path / "link.html") as beside:
        beside.write_text("new", encoding="utf-8")
    assert (tmp_path / "link.html").is_symlink() and page.read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("ignored", [True, False])
def test_a_hangup_that_the_caller_ignores_stays_ignored(ignored: bool) -> None:
    """``nohup``: a closed terminal does not end the work."""
    work = "import os, signal, sys, fedapp.cli.main as m; m.app = lambda **_: ("
    work += "os.kill(os.getpid(), signal.SIGHUP), print('went on')); m.entry()"
    line = ("trap '' HUP; " if ignored else "") + f'exec "{sys.executable}" -c "{work}"'
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, "went on" in done.stdout) == ((0, True) if ignored else (129, False))


# ------------------------------------------------------------------ closed streams
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&-"])
def test_a_closed_stream_changes_nothing_of_the_work(tmp_path: Path, closed: str) -> None:
    picture = tmp_path / f"{closed.count('>')}{closed.count('2')}.png"
    done = entry("portraits", str(picture), "--count", "1", "--size", "16", redirect=closed)
    assert done.returncode == 0 and picture.exists(), done.stderr
    assert entry("list", "rules", redirect=closed).returncode == 0
    assert entry("run", "nosuch", redirect=closed).returncode == 2


# ------------------------------------------------------------------ odd run folders
def test_what_is_no_run_hides_no_run(trained: RunFolder, tmp_path: Path) -> None:
    base = tmp_path / "runs"
    base.mkdir()
    (base / "notes.txt").write_text("mine", encoding="utf-8")
    (base / "both.html").write_text("", encoding="utf-8")
    for name, text in (("a", "{}"), ("b", "not json"), ("c", "[1]")):
        (base / name).mkdir()
        (base / name / "config.json").write_text(text, encoding="utf-8")
    os.symlink(trained.path, base / "z")
    found = {row["run"]: row["state"] for row in listed(base)}
    assert found["z"] == "finished" and set(found) == {"a", "b", "c", "z"}
    assert found["b"].startswith("damaged: config.json") and found["c"].startswith("damaged")
    assert CLI.invoke(app, ["runs", str(base)]).exit_code == 0


@pytest.mark.parametrize("name", ["config.json", "status.json", "run.json"])
def test_json_of_another_shape_is_named(trained: RunFolder, name: str) -> None:
    (trained.path / name).write_text("[1]", encoding="utf-8")
    with pytest.raises(InputError, match=rf"{name}.*holds no JSON object"):
        CLI.invoke(app, ["report", str(trained.path)], catch_exceptions=False)


@pytest.mark.parametrize("line", ["{}", "null", "[]", "{", "3"])
def test_a_damaged_event_is_named_and_a_torn_last_one_is_not(trained: RunFolder, line: str) -> None:
    whole_file = trained.events_file.read_text(encoding="utf-8")
    count = len(list(trained.events()))
    trained.events_file.write_text(f"{whole_file}{line}"[:-1] + "{", encoding="utf-8")
    assert len(list(trained.events())) == count
    first, rest = whole_file.split("\n", 1)
    trained.events_file.write_text(f"{first}\n{line}\n{rest}", encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics\.jsonl = 'line 2'"):
        CLI.invoke(app, ["report", str(trained.path)], catch_exceptions=False)


def test_a_run_of_another_version_is_named_with_it(trained: RunFolder) -> None:
    config = trained.config | {"of-tomorrow": 1}
    (trained.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    about = trained.read("run.json") | {"fedapp": "9.9"}
    (trained.path / "run.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(InputError, match=r"does not read its config\.json, which fedapp 9\.9"):
        CLI.invoke(app, ["report", str(trained.path)], catch_exceptions=False)


def test_a_run_that_ended_without_a_word_is_not_called_running(trained: RunFolder) -> None:
    """Killed, or no room for its status: the lock is free, and it had its time to start."""
    trained.set_status(RUNNING)
    assert trained.fate["state"] == RUNNING  # it may just be starting
    long_ago = trained.path.stat().st_mtime - 2 * STARTING
    os.utime(trained.path / "status.json", (long_ago, long_ago))
    with trained.locked():
        assert trained.fate["state"] == RUNNING
    assert trained.fate["state"] == STOPPED and "without a word" in trained.fate["reason"]
    assert trained.status["state"] == RUNNING
    write_report(trained)
    assert "without a word" in trained.report_file.read_text(encoding="utf-8")
