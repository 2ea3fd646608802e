"""What a device takes of a server's bundle, and the one that it makes of its own files."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
from bundle_kit import CODE, FILES, OURS, SOURCES, Files, packed, unpacked
from flwr.cli.install import install_from_fab
from flwr.common.config import get_project_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.bundle import LARGEST, MANIFEST, Code, ForeignBundleError


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


def test_settings_that_take_all_memory_to_read() -> None:
    config = FILES["pyproject.toml"] + b"a." * 3000 + b"a = 1\n"
    with pytest.raises(ForeignBundleError, match="bytes"):
        CODE.settings_of(packed({**FILES, "pyproject.toml": config}))
