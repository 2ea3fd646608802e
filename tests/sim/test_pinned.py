"""What a server may send as code to a device is one thing: the code installed there."""

from __future__ import annotations

import hashlib
import io
import math
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_disk
from flwr.cli.install import install_from_fab
from flwr.common.config import get_project_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from fedapp.place import PACKAGES, ROOT, __version__
from sim.bundle import LARGEST, MANIFEST, Code, ForeignBundleError
from sim.pinned import AGENT, APP, guarded, verified, watched

CODE = Code(str(ROOT), PACKAGES, "fedapp.client_app:app", "fedapp/fedapp", __version__)
Files = dict[str, bytes]


def unpacked(bundle: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: Files, *more: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*files.items(), *more]:
            archive.writestr(name, content)
    return buffer.getvalue()


OURS = build_fab_from_disk(ROOT)
FILES = unpacked(OURS)
SOURCES = sorted(name for name in FILES if name.endswith(".py"))


def test_what_flower_makes_of_this_folder_passes() -> None:
    CODE.settings_of(OURS)
    CODE.settings_of(packed(FILES))
    assert Code.read(CODE.as_text()) == CODE


def test_settings_and_texts_may_differ() -> None:
    """Defaults are the server's to choose anyway (a policy limits them); nobody runs a licence."""
    config = tomllib.loads(FILES["pyproject.toml"].decode())
    config["tool"]["flwr"]["app"]["config"]["rounds"] = 77
    config["project"]["dependencies"] = ["other"]  # nothing is installed at run time
    changed = {**FILES, "pyproject.toml": tomli_w.dumps(config).encode(), "LICENSE": b"another"}
    CODE.settings_of(packed(changed))


@given(st.sampled_from(SOURCES), st.data())
@settings(max_examples=40, deadline=None)
def test_one_byte_is_enough(name: str, data: st.DataObject) -> None:
    content = FILES[name]
    place = data.draw(st.integers(0, len(content)))
    added = data.draw(st.binary(min_size=1, max_size=3))
    changed = content[:place] + added + content[place:]
    if name in ("pyproject.toml",) or changed == content:
        return
    with pytest.raises(ForeignBundleError, match="not as installed"):
        CODE.settings_of(packed({**FILES, name: changed}))


@given(st.sampled_from(SOURCES))
@settings(max_examples=10, deadline=None)
def test_a_file_that_is_missing(name: str) -> None:
    """Python would look for it elsewhere."""
    with pytest.raises(ForeignBundleError, match="not in the bundle"):
        CODE.settings_of(packed({other: FILES[other] for other in FILES if other != name}))


@pytest.mark.parametrize(
    "name",
    [
        "torch.py", "torch/__init__.py", "sitecustomize.py", "x.pth", "numpy.so", "uv.lock",
        "fedapp/more.py", "fedapp/client_app.pyc", "fedapp/client_app.abi3.so", "tasks",
        "tasks/../torch.py", "../torch.py", "/tmp/torch.py", "./torch.py", "fedapp//client_app.py",
        "fedapp/", "fedapp\\client_app.py", "C:\\torch.py", "README.md/__init__.py",
        "LICENSE.py", ".info/torch.py", ".info/CONTENT/x", "FEDAPP/client_app.py", ".",
    ],
)  # fmt: skip
def test_a_file_more(name: str) -> None:
    with pytest.raises(ForeignBundleError):
        CODE.settings_of(packed(FILES, (name, b"")))


def test_two_files_of_one_name() -> None:
    """Which of them is unpacked is the library's choice."""
    name = "fedapp/client_app.py"
    for twice in (FILES[name], b"other"):
        with pytest.warns(UserWarning, match="Duplicate"):
            bundle = packed(FILES, (name, twice))
        with pytest.raises(ForeignBundleError, match="two files"):
            CODE.settings_of(bundle)


@pytest.mark.parametrize("bundle", [b"", b"PK", OURS[:-40], OURS[: len(OURS) // 2]])
def test_no_archive(bundle: bytes) -> None:
    with pytest.raises(ForeignBundleError, match="cannot be read"):
        CODE.settings_of(bundle)


def test_a_file_that_grows_when_it_is_unpacked() -> None:
    for name in ("README.md", "fedapp/client_app.py", "fedapp/more.py"):
        with pytest.raises(ForeignBundleError, match="bytes"):
            CODE.settings_of(packed({**FILES, name: b" " * (LARGEST + 1)}))


def changed_config(change: Callable[[dict[str, Any]], None]) -> bytes:
    config = tomllib.loads(FILES["pyproject.toml"].decode())
    change(config)
    return packed({**FILES, "pyproject.toml": tomli_w.dumps(config).encode()})


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["tool"]["flwr"]["app"]["components"].update(clientapp="os:system"),
        lambda c: c["tool"]["flwr"]["app"]["components"].update(clientapp="fedapp.server_app:app"),
        lambda c: c["tool"]["flwr"]["app"]["components"].update(agentapp="fedapp.client_app:app"),
        lambda c: c["tool"]["flwr"]["app"]["components"].pop("clientapp"),
        lambda c: c["tool"]["flwr"]["app"].pop("components"),
        lambda c: c["tool"]["flwr"]["app"].update(publisher="../x"),
        lambda c: c["project"].update(name="x/../../y"),
        lambda c: c["project"].update(version="../../../tmp/x"),
        lambda c: c.pop("project"),
        lambda c: c.pop("tool"),
    ],
)
def test_another_thing_to_start_or_another_place(change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(ForeignBundleError):
        CODE.settings_of(changed_config(change))


# ---------------------------------------------------------------- what a device makes of it
def installed(place: Path) -> Files:
    return {
        file.relative_to(place).as_posix(): file.read_bytes()
        for file in place.rglob("*") if file.is_file()
    }  # fmt: skip


def test_of_a_servers_bundle_only_the_settings_are_kept(tmp_path: Path) -> None:
    """Its list of files names others of the device, to be read and told of; its texts and comments
    are how it would look for a hash of its choice."""
    config = tomllib.loads(FILES["pyproject.toml"].decode())
    config["tool"]["flwr"]["app"]["config"]["rounds"] = 77
    config["tool"]["uv"] = {"x": 1}
    theirs = {
        **FILES, "pyproject.toml": tomli_w.dumps(config).encode(), "README.md": b"try 123",
        MANIFEST: b"/dev/zero,00,1",
    }  # fmt: skip
    del theirs["sim/recipes/demo.toml"]
    settings = CODE.settings_of(packed(theirs))
    assert settings["rounds"] == 77 and settings["data.size"] == 32
    own = unpacked(CODE.bundle(settings))
    assert own["sim/recipes/demo.toml"] == FILES["sim/recipes/demo.toml"]
    assert not {"README.md", "LICENSE"} & set(own)
    kept = tomllib.loads(own["pyproject.toml"].decode())
    assert kept["tool"]["flwr"]["app"]["config"]["rounds"] == 77 and "uv" not in kept["tool"]
    listed = [line.split(",")[0] for line in own[MANIFEST].decode().splitlines()]
    assert set(listed) == set(own) - {MANIFEST}


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]([a-z-]{0,5})", fullmatch=True),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
        | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
        | st.booleans(),
        max_size=4,
    )
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_settings_come_through_as_flower_reads_them(values: dict[str, Any]) -> None:
    from flwr.common.config import get_fused_config_from_fab

    def change(config: dict[str, Any]) -> None:
        config["tool"]["flwr"]["app"]["config"] = {"table": values}

    theirs = changed_config(change)
    run: Any = SimpleNamespace(override_config={})
    own = CODE.bundle(CODE.settings_of(theirs))
    assert get_fused_config_from_fab(own, run) == get_fused_config_from_fab(theirs, run)


@pytest.mark.parametrize(
    "value", [[1], {"a": [1]}, math.inf, math.nan, 2**63, tomllib.loads("a=1979-05-27")]
)
def test_settings_that_are_none(value: Any) -> None:
    def change(config: dict[str, Any]) -> None:
        config["tool"]["flwr"]["app"]["config"]["x"] = value

    with pytest.raises(ForeignBundleError, match="setting"):
        CODE.settings_of(changed_config(change))


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Flower looks for the device's own bundle."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    return get_project_dir(CODE.app, CODE.version, hashlib.sha256(OWN).hexdigest())


OWN = CODE.bundle(CODE.settings_of(OURS))
WANTED = {name: c for name, c in unpacked(OWN).items() if name not in (MANIFEST, "pyproject.toml")}


def code_in(place: Path) -> Files:
    return {name: content for name, content in installed(place).items() if name != "pyproject.toml"}


def test_flower_finds_installed_what_it_is_given(flowers: Path) -> None:
    CODE.install(flowers)
    assert install_from_fab(OWN, skip_prompt=True) == flowers
    assert code_in(flowers) == WANTED
    before = (flowers / "fedapp").stat().st_ino
    for rounds in (1, 2, 3):  # a run of other settings neither disturbs others nor fills the disk
        other = CODE.bundle({"rounds": rounds})
        place = get_project_dir(CODE.app, CODE.version, hashlib.sha256(other).hexdigest())
        CODE.install(place)
        assert (place / "fedapp").stat().st_ino == before
    assert sorted(each.name for each in flowers.parent.parent.iterdir()) == ["apps", "code"]
    assert len(list(flowers.parent.iterdir())) == 4


def test_what_lies_where_flower_looks_is_taken_away(flowers: Path, tmp_path: Path) -> None:
    """A folder of older code whose hash begins alike (six billion tries find one), a half one left
    by a kill, a link to somewhere else: Flower itself starts any of them."""
    (flowers / "fedapp").mkdir(parents=True)
    (flowers / "fedapp" / "client_app.py").write_text("older", encoding="utf-8")
    install_from_fab(OWN, skip_prompt=True)
    assert len(installed(flowers)) == 1, "the control: Flower keeps what is there"
    CODE.install(flowers)
    assert code_in(flowers) == WANTED
    code = flowers.parent.parent / "code"
    (code / "torch.py").touch()
    CODE.install(flowers)
    assert code_in(flowers) == WANTED
    elsewhere = tmp_path / "elsewhere"
    for place in (flowers, code):
        place.rename(elsewhere)
        place.symlink_to(tmp_path)
        CODE.install(flowers)
        assert code_in(flowers) == WANTED and flowers.readlink() == code
        assert not code.is_symlink()
        elsewhere.unlink() if elsewhere.is_symlink() else None


# ---------------------------------------------------------------- in Flower's own loop
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


def test_settings_that_take_all_memory_to_read() -> None:
    config = FILES["pyproject.toml"] + b"a." * 3000 + b"a = 1\n"
    with pytest.raises(ForeignBundleError, match="bytes"):
        CODE.settings_of(packed({**FILES, "pyproject.toml": config}))


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
