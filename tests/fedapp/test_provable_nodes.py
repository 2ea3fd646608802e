"""Nodes of the provable mode, as messages find them: what they ask of a model, of a sum's levels,
and of their own pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from device_kit import Town
from kit import NODES, PROVABLE, SECAGG, rounds_of

from fedapp.store.runfolder import RunFolder
from privacy.secagg.groups import GroupPin
from privacy.secagg.identity import Policy
from privacy.secagg.messages import RefusalError
from tasks.errors import InputError, StoppedError

Run = Callable[..., RunFolder]


def test_a_model_at_which_a_clip_could_act_is_refused_before_data_are_read(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fedapp.running import sums as server
    from strategies.cohort import CohortTrainer
    from tasks.image import ImageTask

    read: list[int] = []
    data = CohortTrainer._data

    def noted(self: CohortTrainer, client: int) -> Any:
        read.append(client)
        return data(self, client)

    def crafted(self: ImageTask, seed: int) -> torch.Tensor:
        return torch.full((self.layout.size,), 3.0)

    monkeypatch.setattr(CohortTrainer, "_data", noted)
    changes = {**SECAGG, **PROVABLE, "rounds": 1}
    run(nodes=NODES, **changes, **{"run-dir": str(tmp_path / "honest")})
    assert len(read) == NODES
    with pytest.MonkeyPatch.context() as lie:
        lie.setattr(ImageTask, "init", crafted)
        with pytest.raises(InputError, match="every node would refuse") as refused:
            run(nodes=NODES, **changes, **{"run-dir": str(tmp_path / "clumsy")})
        assert refused.value.remedy
        lie.setattr(server, "_refuse_biting_clips", lambda pieces: None)
        read.clear()
        with pytest.raises(StoppedError):
            run(nodes=NODES, **changes, **{"run-dir": str(tmp_path / "lying")})
    (event,) = rounds_of(RunFolder(tmp_path / "lying"))
    assert all("would act on it" in reason for reason in event["failures"].values())
    assert read == []


def test_nodes_reckon_with_the_levels_of_their_sum(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever number of clients the server says the run has."""
    from fedapp.node import sums
    from privacy import exact
    from privacy.exact import Bounds
    from privacy.releases.lattice import LatticeRelease

    believed: list[Bounds] = []
    used: list[float] = []
    trainer, encode = sums._trainer.__wrapped__, LatticeRelease.encode

    def noted(*arguments: Any) -> Any:
        believed.append(arguments[-1])
        return trainer(*arguments)

    def rounded(self: LatticeRelease, contribution: Any, public: Any) -> Any:
        used.append(float(public["clip"]) / int(public["levels"]))
        return encode(self, contribution, public)

    asked, objection = [], exact.objection

    def questioned(task: Any, model: Any, step: Any, clips: Bounds) -> str:
        asked.append(clips)
        return objection(task, model, step, clips)

    monkeypatch.setattr(sums, "_trainer", noted)
    monkeypatch.setattr(LatticeRelease, "encode", rounded)
    monkeypatch.setattr(exact, "objection", questioned)  # what nodes ask, before data and after
    town = Town(tmp_path, NODES, Policy(exact=True))
    lie = {**town.changes("secagg"), "clients.total": 1_000_000, "rounds": 1}
    folder = run(nodes=NODES, grid=town.grid(), **{**SECAGG, **PROVABLE, **lie})
    assert rounds_of(folder)[0]["clients"]["ok"] == NODES and len(used) == NODES
    assert {(clips.level, clips.clients) for clips in believed} == {(used[0], NODES)}
    assert set(asked) == set(believed) and len(asked) == 2 * NODES


def test_provable_sums_are_of_the_same_pictures_for_good(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A photograph put into a member's folder is another picture of its client, and the difference
    of two sums was the difference of the two (107 dB)."""
    from fedapp.node import sums
    from fedapp.node.device import pieces_of
    from tasks.data import bundled

    town = Town(tmp_path, NODES, Policy())

    def go(name: str) -> dict[str, Any]:
        there = {**town.changes("secagg"), "rounds": 1, "run-dir": str(tmp_path / name)}
        folder = tmp_path / name
        with contextlib.suppress(StoppedError):
            run(nodes=NODES, grid=town.grid(), **{**SECAGG, **PROVABLE, **there})
        return rounds_of(RunFolder(folder))[0]

    assert go("before")["clients"]["ok"] == NODES
    assert go("again")["clients"]["ok"] == NODES
    picture = bundled.private_picture

    def changed(client: int, size: int, channels: int) -> Any:
        found = picture(client, size, channels)
        if client == 2:  # one pixel of it, the last
            found.support.stored[-1] = 255 - found.support.stored[-1]
        return found

    monkeypatch.setattr(bundled, "private_picture", changed)
    remembered = (sums._trainer, pieces_of)
    for kept in remembered:  # another process has read nothing yet
        kept.cache_clear()
    after = go("after")
    for kept in remembered:
        kept.cache_clear()
    assert after["clients"]["ok"] == 0
    assert any("not those that this node" in reason for reason in after["failures"].values())


def test_each_of_a_nodes_clients_keeps_its_picture(tmp_path: Path) -> None:
    pin = GroupPin(tmp_path)
    pin.enter({"1": [1, 2]}, "a", 1, "pictures")
    pin.same_pictures({1: "x", 2: "y"})
    pin.same_pictures({2: "y"})
    for changed in ({1: "x", 2: "z"}, {1: "z", 2: "y"}):
        with pytest.raises(RefusalError, match="not those that this node"):
            pin.same_pictures(changed)
    pin.same_pictures({1: "x", 2: "y"})


def test_another_device_under_a_members_number_is_another_member(tmp_path: Path) -> None:
    """It has no memory of the old one's pictures: old and new sums would differ by the two."""
    group = {"1": [1], "2": [2]}
    GroupPin(tmp_path, {1: b"a", 2: b"b"}).enter(group, "a", 1)
    GroupPin(tmp_path, {1: b"a", 2: b"b", 3: b"c"}).enter(group, "a", 2)
    with pytest.raises(RefusalError, match="another key"):
        GroupPin(tmp_path, {1: b"a", 2: b"x"}).enter(group, "a", 3)


@pytest.mark.parametrize("name", ["extra.model", "model2", "extra.spare"])
def test_nothing_stands_in_for_the_model_that_is_trained(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An honest vector under the name ``extra.model`` was looked at, and a matrix beside it
    trained: pixel by pixel one member's picture came out (64 dB)."""
    from privacy.flower import rounds as legs
    from strategies.flower.wire import to_array

    pack = legs.pack_broadcast

    def crafted(received: Any) -> Any:
        found = pack(received)
        rows = torch.zeros(2, received.model.numel())
        if name == "extra.model":
            found[name], found["model"] = found["model"], to_array(rows)
        else:
            found[name] = to_array(received.model)
        return found

    monkeypatch.setattr(legs, "pack_broadcast", crafted)
    with pytest.raises(StoppedError):
        run(nodes=NODES, **{**SECAGG, **PROVABLE, "rounds": 1})


def test_what_is_bounded_is_one_vector() -> None:
    from exact_kit import configured, task_of

    from privacy.exact import Bounds, objection

    task, step = task_of(), configured().learner
    model = task.init(0)
    clips = Bounds.of(9.0, 0.5, 5)
    assert objection(task, model, step, clips) == ""
    for other in (model.double(), model[None], model.expand(64, -1), model[:-1]):
        assert "not one model" in objection(task, other, step, clips)
