"""Checkpoints: exact, atomic, no pickle, and refused when damaged or foreign."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedapp.store import checkpoint as module
from fedapp.store.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from fedapp.store.client_state import ClientState, MissingMemoryError
from tasks.atomic import write_bytes, write_json
from tasks.errors import InputError

IDENTITY = {"task": "image", "arms": ["maml-0"]}


def sample(number: int) -> Checkpoint:
    tensors = {"a/model": torch.randn(7), "a/state/c": torch.tensor([float("inf"), -0.0, 1e-40])}
    return Checkpoint(number, IDENTITY, {"a": {"accepted": {"3": 2}}}, tensors)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    saved = sample(3)
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved), IDENTITY)
    assert (loaded.round, loaded.state) == (3, saved.state)
    for name, tensor in saved.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3, 10):
        save_checkpoint(tmp_path, sample(number))
    assert [file.stem for file in list_checkpoints(tmp_path)] == ["round-000003", "round-000010"]


def test_a_kill_in_mid_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    write_bytes(target, b"old")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.atomic.os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(target, b"new" * 1000)
    assert target.read_bytes() == b"old"


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, damage: bytes | None) -> None:
    file = save_checkpoint(tmp_path, sample(1))
    file.write_bytes(file.read_bytes()[:-3] if damage is None else damage)
    with pytest.raises(InputError, match="unreadable") as caught:
        load_checkpoint(file, IDENTITY)
    assert str(file) in str(caught.value) and caught.value.remedy


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, sample(1))
    with pytest.raises(
        InputError, match=r"another experiment: its task is 'image', this run's is 'video'"
    ):
        load_checkpoint(file, {**IDENTITY, "task": "video"})


def test_a_failed_write_surfaces_at_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CheckpointWriter(tmp_path)
    monkeypatch.setattr(
        module, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    writer.save(sample(1))
    with pytest.raises(OSError, match="disk full"):
        writer.save(sample(2))
    writer.close()


def test_client_memory_is_versioned_and_pruned_behind_a_possible_resume(tmp_path: Path) -> None:
    state = ClientState(tmp_path)
    for version in (1, 2, 3, 4, 5):
        state.save(5, version, {"control": torch.tensor([float(version)])})
    for version in (
        4,
        3,
        2,
    ):  # a run may go on from either of two checkpoints, the newer of which had asked for 4
        assert state.load(5, version)["control"].item() == version
    with pytest.raises(MissingMemoryError, match="client 5 has no readable memory of round 1"):
        state.load(5, 1)
    assert state.load(5, 5)["control"].item() == 5.0
