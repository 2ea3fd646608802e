"""The guard in Flower's own loop: which runs a device takes part in, and how it ends."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from bundle_kit import CODE, FILES, OURS, packed
from flwr.cli.install import install_from_fab
from flwr.common.config import get_project_dir

from fedapp.place import ROOT
from sim.pinned import AGENT, APP, guarded, verified, watched


@dataclass
class Bundle:
    """Flower's ``Fab``."""

    content: bytes = OURS
    hash_str: str = hashlib.sha256(OURS).hexdigest()
    verifications: dict[str, str] = field(default_factory=dict)


def a_run(**changes: Any) -> SimpleNamespace:
    ours = {
        "run_id": 7, "override_config": {}, "fab_id": CODE.app,
        "fab_version": CODE.version, "primary_task_type": "flwr-serverapp",
        "fab_hash": Bundle.hash_str,
    }  # fmt: skip
    return SimpleNamespace(**(ours | changes))


def stored(bundle: Bundle, run: SimpleNamespace) -> bool:
    """Whether the guarded loop lets a bundle in, by Flower's own test (which is asked for
    signatures only where trusted entities are named, and a licence is there)."""

    def pull(*, get_run: Any, get_fab: Any, trusted_entities: Any) -> bool:
        info = get_run(7)
        fab = get_fab(info.fab_hash, 7)
        if not trusted_entities:
            return True
        assert hashlib.sha256(fab.content).hexdigest() != Bundle.hash_str, "never the server's own"
        if fab.content:
            assert info.fab_hash == fab.hash_str == hashlib.sha256(fab.content).hexdigest()
        return bool(fab.verifications.get("valid_license", "")) and verified(fab, trusted_entities)

    asked = []

    def get_run(_: int) -> SimpleNamespace:
        asked.append(run)
        return run if len(asked) == 1 else a_run()  # a server that answers twice

    with TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", home)
        return bool(
            guarded(pull, CODE)(get_run=get_run, get_fab=lambda *_: bundle, trusted_entities=None)
        )


def test_a_run_of_the_installed_code_is_taken_part_in() -> None:
    assert stored(Bundle(), a_run())


@pytest.mark.parametrize(
    "changes",
    [
        {"fab_version": "../../../../tmp/x"},
        {"fab_id": "../fedapp"},
        {"fab_id": "fedapp/other"},
        {"fab_hash": "0" * 64},
        {"primary_task_type": AGENT},
        {"run_id": 5},
        {"override_config": {"no-such-key": "x"}},
        {"override_config": None},
        {"override_config": {"run-dir": b"x"}},
        {"override_config": {"rounds": 2**63}},
        {"override_config": {"learner.outer-rate": math.nan}},
    ],
)
def test_a_run_that_would_start_something_else_is_not(changes: dict[str, Any]) -> None:
    assert not stored(Bundle(), a_run(**changes))


def test_what_a_server_says_of_a_bundle_is_not_heard() -> None:
    other = packed(FILES, ("torch.py", b""))
    digest = hashlib.sha256(other).hexdigest()
    said = {"valid_license": "the code installed here", "installed": "{}"}
    assert not stored(Bundle(other, digest, said), a_run(fab_hash=digest))
    # under the hash of an honest bundle, by which Flower keeps and finds it
    assert not stored(Bundle(other, Bundle.hash_str, said), a_run())


def test_flower_would_have_started_what_lay_there(tmp_path: Path) -> None:
    """The control of versions with ``..``: once a bundle is installed, Flower's own search leads
    from there to any folder of the disk, and starts what lies in it."""
    from flwr.common.config import get_project_config

    theirs = tmp_path / f"theirs.{'0' * 8}"
    theirs.mkdir()
    (theirs / "pyproject.toml").write_bytes(FILES["pyproject.toml"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(tmp_path / "home"))
        install_from_fab(OURS, skip_prompt=True)
        ours = get_project_dir(CODE.app, CODE.version, Bundle.hash_str)
        there = f"{CODE.version}.{Bundle.hash_str[:8]}/../../../theirs"
        found = get_project_dir(CODE.app, there, "0" * 64)
        assert ours.is_dir() and found.samefile(theirs)
        assert get_project_config(found)["project"]["name"] == "fedapp"
    assert not stored(Bundle(), a_run(fab_version=there))


@pytest.mark.parametrize("broken", ["get_run", "get_fab", "no fab"])
def test_a_server_whose_words_cannot_be_read_is_answered(broken: str) -> None:
    """Flower's main loop ends with what its own functions raise."""

    def pull(*, get_run: Any, get_fab: Any, trusted_entities: Any) -> bool:
        info = get_run(7)
        fab = get_fab(info.fab_hash, 7)
        return bool(trusted_entities) and verified(fab, trusted_entities)

    def get_run(_: int) -> Any:
        if broken == "get_run":
            raise TypeError("attribute name must be string, not 'NoneType'")
        return a_run()

    def get_fab(*_: Any) -> Any:
        if broken == "get_fab":
            raise ValueError("no bundle")
        return None if broken == "no fab" else Bundle()

    assert not guarded(pull, CODE)(get_run=get_run, get_fab=get_fab, trusted_entities=None)


def test_a_wait_without_anybody_who_could_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr("sim.pinned.end", lambda status: ended.set())
    monkeypatch.setattr("sim.pinned.WATCH", 0.05)
    watched(lambda **_: ended.wait(20), patience=0.2)()
    assert ended.is_set()
    ended.clear()
    busy = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", AGENT, APP])
    try:
        watched(lambda **_: time.sleep(1), patience=0.2)()
        assert not ended.is_set(), "somebody computes"
    finally:
        busy.kill()
        busy.wait()
    watched(lambda **_: None, patience=0.0)()
    time.sleep(0.2)
    assert not ended.is_set(), "nobody waits any more"


@pytest.mark.parametrize(
    "trouble",
    [
        "psutil.Process.children = lambda *a, **k: [Gone()]",
        "psutil.Process.children = lambda *a, **k: 1 / 0",
        "sys.stderr.close(); sys.stdout.close()",
    ],
)
def test_the_end_is_one_whatever_happens_meanwhile(trouble: str) -> None:
    """A thread of Flower's would hold the process, and the process its lock."""
    program = f"""
import os, psutil, signal, sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from sim.pinned import end
class Gone:
    def kill(self): raise psutil.NoSuchProcess(1)
threading.Thread(target=time.sleep, args=(60,)).start()
{trouble}
end(7)
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=50)
    assert done.returncode == 7 and time.monotonic() - begun < 40


def test_flower_has_the_functions_that_are_replaced() -> None:
    import inspect

    from flwr.supernode import start_client_internal as node

    taken = inspect.signature(node._pull_and_store_message).parameters
    assert {"get_run", "get_fab", "trusted_entities"} <= set(taken)
    assert "_push_messages(\n                state=state" in inspect.getsource(node)
    assert list(inspect.signature(node._verify_fab).parameters) == ["fab", "trusted_entities"]
    source = inspect.getsource(node)
    assert source.count("get_fab(") == source.count("fab = get_fab("), "one place takes bundles in"
    assert source.index("_verify_fab(fab, trusted_entities)") < source.index("state.store_fab(")
