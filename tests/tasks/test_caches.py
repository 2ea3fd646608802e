"""Where things that can be made again are kept: movable, and tried before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.caches import cache, ready
from tasks.errors import InputError


def test_the_nearest_variable_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDAPP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache("heads") == tmp_path / ".cache" / "fedapp" / "heads"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache("heads") == tmp_path / "x" / "fedapp" / "heads"
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path / "own"))
    assert cache("heads") == tmp_path / "own" / "heads"


def test_without_a_home_the_variable_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FEDAPP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(InputError, match="set FEDAPP_CACHE"):
        cache("heads")


def test_a_place_that_cannot_be_written_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.head.remembered import remembered

    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")  # not even root makes a folder below it
    monkeypatch.setenv("FEDAPP_CACHE", str(blocked))
    with pytest.raises(InputError, match="cannot be written"):
        ready(cache("heads"))
    worked: list[int] = []

    def work() -> torch.Tensor:
        worked.append(1)
        return torch.zeros(3)

    with pytest.raises(InputError, match="cannot be written"):
        remembered("x", work)
    assert not worked
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path / "good"))
    assert torch.equal(remembered("x", work), torch.zeros(3)) and worked == [1]
    assert torch.equal(remembered("x", work), torch.zeros(3)) and worked == [1]


@pytest.mark.parametrize("late", [False, True])
def test_two_first_runs_that_make_one_backbone_go_on_with_one(
    tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Both have found none and train; whoever is second finds the first one's in its place, keeps
    it, and leaves nothing half written beside it."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    from fedapp.config.experiment import Experiment, known_keys
    from fedapp.config.recipes import read_recipe
    from tasks.talking_head import model
    from tasks.talking_head.backbone import Backbone

    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path))
    config = known_keys() | read_recipe("talking-head")
    settings = Experiment.from_run_config(config)
    folder, gate = model.backbone_folder(settings), Barrier(2)
    save, tiny = Backbone.save, Backbone.load(tiny_backbone)

    def trained(*_: object) -> Backbone:
        gate.wait(timeout=60)
        return tiny

    def saved(backbone: Backbone, where: Path) -> None:
        save(backbone, where)
        if late:  # both are whole before either takes its place
            gate.wait(timeout=60)

    monkeypatch.setattr(model, "pretrain", trained)
    monkeypatch.setattr(Backbone, "save", saved)
    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(model.make_backbone, settings) for _ in range(2)]:
            one.result(timeout=120)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert Backbone.load(folder).digest == tiny.digest
    model.make_backbone(settings)  # it is there: nobody trains again
