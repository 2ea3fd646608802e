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
