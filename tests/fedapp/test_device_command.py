"""``fedapp device``: what it is told becomes Flower's own words, or is refused before a server is
asked for anything. What it then runs: ``tests/sim/test_deployment.py``, ``test_pinned.py``."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from device_kit import certify
from typer.testing import CliRunner

from fedapp.cli.main import app
from fedapp.place import ROOT
from privacy.secagg.identity import KEY_FILE, POLICY_FILE, Policy, load_identity
from tasks.errors import FedappError, InputError


class BecameError(Exception):
    """In place of the process the command becomes."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    Policy(releases=("plain",)).write(tmp_path / "state" / POLICY_FILE)
    (tmp_path / "anna's «pictures»").mkdir()
    (tmp_path / "anna's «pictures»" / "1.png").touch()
    (tmp_path / "bad\udcff").mkdir()
    (tmp_path / "bad\udcff" / "1.png").touch()
    load_identity(tmp_path / "state" / KEY_FILE, create=True)
    certify(tmp_path)
    (tmp_path / "empty.pem").touch()
    return tmp_path


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    became: list[Any] = []

    def execve(*given: Any) -> None:
        became.extend([*given, Path.cwd()])
        raise BecameError

    monkeypatch.setattr(os, "execve", execve)
    return became


GOOD = {
    "--number": "1", "--data": "anna's «pictures»", "--superlink": "127.0.0.1:1",
    "--root-certificates": "ca.pem",
}  # fmt: skip


def call(changes: dict[str, str | None], *more: str, state: str = "state") -> Any:
    words = ["device", state]
    for option, value in (GOOD | changes).items():
        if value is not None:
            words += [option, value] if value else [option]
    return CliRunner().invoke(app, [*words, *more])


def test_what_it_is_told_reaches_the_node_whole(place: Path, become: list[Any]) -> None:
    """An apostrophe in a folder's name ends a value of Flower's own ``--node-config``."""
    done = call({"--clients": "3,7"}, "-o", "layout=auto", "-o", "objects=2")
    assert isinstance(done.exception, BecameError), done.output
    _, command, env, folder = become
    told = tomllib.loads((place / "state" / "node.toml").read_text(encoding="utf-8"))
    assert told == {
        "partition-id": 1, "clients": "3,7", "layout": "auto", "objects": "2",
        "data-path": str(place / "anna's «pictures»"), "state-dir": str(place / "state"),
    }  # fmt: skip
    flags = dict(zip(command[4::2], command[5::2], strict=True))
    assert flags["--node-config"] == str(place / "state" / "node.toml")
    assert flags["--superlink"] == "127.0.0.1:1" and "--insecure" not in command
    assert flags["--root-certificates"] == str(place / "ca.pem")
    assert folder == place / "state" / "neutral" and not list(folder.iterdir())
    assert env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert env["FLWR_HOME"] == str(place / "state" / "flower")
    assert env["PYTHONPATH"] == str(ROOT)
    assert "1 files" in done.output and "takes part in plain without a limit" in done.output


def test_flower_reads_that_file(place: Path, become: list[Any]) -> None:
    from flwr.common.config import parse_config_args

    call({}, "-o", "facing-neutral=true")
    told = parse_config_args([str(place / "state" / "node.toml")])
    assert told["data-path"] == str(place / "anna's «pictures»")
    assert told["facing-neutral"] == "true" and told["partition-id"] == 1


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        ({"--data": "nowhere"}, (), "no such folder"),
        ({"--superlink": "[::1]:1"}, (), ""),
        ({"--clients": "3,x"}, (), "whole numbers"),
        ({"--root-certificates": None}, (), "TLS"),
        ({"--insecure": ""}, (), "TLS"),
        ({"--root-certificates": "none.pem"}, (), "no such file"),
        ({"--root-certificates": "empty.pem"}, (), "no certificate"),
        ({"--root-certificates": "state/identity.key"}, (), "no certificate"),
        ({"--auth-key": "none.pem"}, (), "no such file"),
        ({"--auth-key": "ca.pem"}, (), "key of OpenSSH"),
        ({"--superlink": "foo"}, (), "HOST:PORT"),
        ({"--superlink": "http://foo:1"}, (), "HOST:PORT"),
        ({"--superlink": "foo:99999"}, (), "HOST:PORT"),
        ({"--superlink": ":1"}, (), "HOST:PORT"),
        ({"--clients": "²"}, (), "whole numbers"),
        ({"--data": "."}, (), "keep them apart"),
        ({"--data": "bad\udcff"}, (), "UTF-8"),
        ({}, ("-o", "data-paht=x"), "no such key"),
        ({}, ("-o", "data-path=x"), "no such key"),
        ({}, ("-o", "num-partitions=2"), "no such key"),
        ({}, ("-o", "layout="), "says nothing"),
        ({}, ("-o", "objects=two"), "whole numbers"),
        ({}, ("-o", "backbone=nowhere"), "no such file or folder"),
    ],
)
def test_bad_words(
    changes: dict[str, str | None], more: tuple[str, ...], says: str, place: Path, become: list[Any]
) -> None:
    done = call(changes, *more)
    if not says:  # a control: the good one among them
        assert isinstance(done.exception, BecameError)
        return
    assert isinstance(done.exception, InputError) and says in str(done.exception), done.output
    assert not become and not (place / "state" / "node.toml").exists()


def test_a_folder_without_limits_and_an_empty_one_of_data(place: Path, become: list[Any]) -> None:
    (place / "empty").mkdir()
    done = call({"--data": "empty"})
    assert isinstance(done.exception, InputError) and "holds no file" in str(done.exception)
    for name in (KEY_FILE, POLICY_FILE):
        (place / "state" / name).unlink()
        done = call({})
        assert isinstance(done.exception, InputError) and f"holds no {name}" in str(done.exception)
    done = call({}, state="nowhere")
    assert isinstance(done.exception, InputError) and "enrol" in str(done.exception)
    assert not become


@pytest.mark.parametrize(("name", "folder"), [("node.toml", True), ("neutral", False)])
def test_what_lies_where_it_writes(name: str, folder: bool, place: Path, become: list[Any]) -> None:
    lies = place / "state" / name
    lies.mkdir() if folder else lies.touch()
    done = call({})
    assert isinstance(done.exception, FedappError), done.exception
    assert f"{name}" in str(done.exception) and " be written" in str(done.exception)


def test_what_flower_kept_of_another_start_is_taken_away(place: Path, become: list[Any]) -> None:
    """It starts what lies under the first eight digits of a hash."""
    old = place / "state" / "flower" / "apps" / "fedapp.fedapp.0.1.0.01234567"
    old.mkdir(parents=True)
    assert isinstance(call({}).exception, BecameError)
    assert not (place / "state" / "flower").exists()


def test_one_folder_is_one_device(place: Path, become: list[Any]) -> None:
    assert isinstance(call({}).exception, BecameError)  # holds its lock, as the process would
    bundled = {"--data": "bundled", "--root-certificates": None, "--insecure": ""}
    again = call(bundled, state=str(place / "state"))  # this process has moved
    assert isinstance(again.exception, InputError) and "running already" in str(again.exception)
