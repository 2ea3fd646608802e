"""One folder, one run: not two at once, not another's, not with other settings; and memories are
one run's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from device_kit import Town
from flwr.app import Context, RecordDict
from safetensors.torch import load_file

from fedapp.cli.runs import prepare, reopen
from fedapp.node.device import Device
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from sim.simulated import simulating
from strategies.federation import Federation
from strategies.rules.fedavg import FedAvg
from strategies.settings import RuleSettings
from strategies.types import Aggregate
from tasks.errors import InputError

Run = Callable[..., RunFolder]
SHORT = {"methods": "maml", "learner.outer-steps": 1, "evaluation.uploads": False}


def model(folder: RunFolder) -> torch.Tensor:
    return load_file(list_checkpoints(folder.checkpoints)[-1])["maml-0/model"]


def test_a_second_run_does_not_enter_the_folder_of_the_first(run: Run, tmp_path: Path) -> None:
    changes = {**SHORT, "run-dir": str(tmp_path / "one"), "rounds": 3}
    folder = run(**changes)
    before = {
        file.name: file.read_bytes()
        for file in [*list_checkpoints(folder.checkpoints), folder.result_file]
    }
    with pytest.raises(InputError, match="already holds a run"):
        run(**{**changes, "rounds": 1, "learner.outer-rate": 0.5})
    assert {name: next(folder.path.rglob(name)).read_bytes() for name in before} == before
    assert folder.status["state"] == "finished"


@pytest.mark.parametrize(
    "change", [{"learner.outer-rate": 0.5}, {"data.size": 9}, {"learner.inner-steps": 3}]
)
def test_a_run_goes_on_with_the_settings_it_was_started_with(
    run: Run, tmp_path: Path, change: dict[str, Any]
) -> None:
    changes = {**SHORT, "run-dir": str(tmp_path / "one"), "rounds": 2}
    run(**changes)
    with pytest.raises(InputError, match="the run was started with") as caught:
        run(**{**changes, **change, "rounds": 3, "resume": True})
    assert caught.value.key == next(iter(change))
    assert (
        len(list(run(**{**changes, "rounds": 3, "resume": True}).events())) > 0
    )  # longer is allowed


def test_a_folder_is_run_by_one_process_at_a_time(run: Run, tmp_path: Path) -> None:
    folder = run(**SHORT, **{"run-dir": str(tmp_path / "one"), "rounds": 1})
    with folder.locked():
        with pytest.raises(InputError, match="running in another process"):
            run(**SHORT, **{"run-dir": str(folder.path), "rounds": 2, "resume": True})
        folder.set_status("running")
        with pytest.raises(InputError, match="running in another process"):
            reopen(folder.path, "in-process")


def test_two_starts_cannot_share_a_folder(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a").create({}, {})
    with pytest.raises(InputError, match="already holds a run"):
        RunFolder(tmp_path / "a").create({}, {})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="run-dir"):
        RunFolder(tmp_path / "file").create({}, {})


def test_the_command_line_resolves_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert prepare("smoke", ["run-dir=here"], tmp_path, "in-process")[1].path == tmp_path / "here"
    assert (
        prepare("smoke", ["run-dir=~/there"], tmp_path, "in-process")[1].path
        == tmp_path / "home" / "there"
    )


def test_memories_of_another_run_are_not_gone_on_from(run: Run, tmp_path: Path) -> None:
    """A node's state-dir outlives runs: A for two rounds, B beside it, then A again, as if B had
    never been."""
    town = Town(tmp_path, 2)
    changes = {**SHORT, "rule": "scaffold", "nodes": 2, "clients.total": 2, "grid": town.grid()}
    unbroken = run(**changes, rounds=3, **{"run-dir": str(tmp_path / "whole")})
    run(**changes, rounds=2, **{"run-dir": str(tmp_path / "a")})
    run(**changes, rounds=2, **{"run-dir": str(tmp_path / "b"), "learner.outer-rate": 0.05})
    resumed = run(**changes, rounds=3, resume=True, **{"run-dir": str(tmp_path / "a")})
    assert torch.equal(model(unbroken), model(resumed))


def node(**told: Any) -> Device:
    context = Context(1, 1, told, RecordDict(), {})
    return Device(context)


def test_only_a_simulation_on_this_side_makes_a_node_a_simulated_one() -> None:
    """Flower's tutorials start real nodes with ``num-partitions`` too."""
    tutorial: dict[str, Any] = {"partition-id": 0, "num-partitions": 2}
    assert not node(**tutorial).simulated
    with simulating():
        assert node(**tutorial).simulated
        assert not node(**{"partition-id": 0}).simulated
        for key in ("data-path", "clients", "roster", "backbone", "state-dir"):
            assert not node(**tutorial, **{key: "x"}).simulated
    assert not node(**tutorial).simulated


def test_a_rule_may_keep_its_state_in_place_and_one_tensor_under_two_names(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is checkpointed is what the round left, whatever the next one writes into the same
    memory."""

    def init(self: FedAvg, model: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"start": model, "total": torch.zeros_like(model)}

    def apply(
        self: FedAvg, model: torch.Tensor, state: Any, aggregate: Aggregate, population: int
    ) -> Any:
        state["total"].mul_(0.5).add_(aggregate.mean)
        return model + 0.5 * state["total"], state

    monkeypatch.setattr(FedAvg, "init", init)
    monkeypatch.setattr(FedAvg, "apply", apply)
    unbroken = run(**SHORT, **{"run-dir": str(tmp_path / "whole"), "rounds": 4})
    run(**SHORT, **{"run-dir": str(tmp_path / "cut"), "rounds": 2})
    resumed = run(**SHORT, **{"run-dir": str(tmp_path / "cut"), "rounds": 4, "resume": True})
    assert torch.equal(model(unbroken), model(resumed))


def test_what_is_frozen_in_a_round_does_not_move_however_the_sum_is_noised() -> None:
    """Alternating adapters: in odd rounds the first half rests."""
    half = torch.tensor([True, True, False, False])
    federation = Federation.start(FedAvg(RuleSettings(server_clip=0.0)), 2, torch.zeros(4))
    federation.frozen = lambda number: half if number % 2 else ~half
    federation.apply(Aggregate(torch.ones(4), 2.0, {}, 2), [0, 1], 1)
    assert federation.model.tolist() == [0, 0, 1, 1]
    federation.apply(Aggregate(torch.ones(4), 2.0, {}, 2), [0, 1], 2)
    assert federation.model.tolist() == [1, 1, 1, 1]
