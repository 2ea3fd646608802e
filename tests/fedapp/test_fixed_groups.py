"""Sums without noise are of the same members, all of them or none: kept by the nodes."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_kit import Town
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st
from kit import NODES, PROVABLE, SECAGG, rounds_of
from safetensors.torch import load_file

from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from privacy.secagg.groups import FILE, GroupPin, group_of, groups
from privacy.secagg.identity import Policy
from privacy.secagg.messages import RefusalError
from sim.inprocess import InProcessGrid
from strategies.types import Broadcast
from tasks.errors import InputError, StoppedError, UnusableDataError

Run = Callable[..., RunFolder]


def model(folder: RunFolder) -> torch.Tensor:
    return load_file(list_checkpoints(folder.checkpoints)[-1])["maml-0/model"]


def without(leg: str, nodes: set[int], sums: set[int]) -> type[InProcessGrid]:
    """A grid in which nodes do not answer a leg of the run's sums with these numbers."""
    shares = dict.fromkeys(range(100), 0)

    class Losing(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            node = message.metadata.dst_node_id - 1000
            if message.metadata.message_type == "query.share":
                shares[node] += 1
            gone = node in nodes and shares[node] in sums
            if gone and message.metadata.message_type == leg:
                return []
            return super().deliver(message)

    return Losing


# ---------------------------------------------------------------- groups
@given(st.sets(st.integers(0, 1000), min_size=5, max_size=60), st.integers(0, 20))
def test_groups_are_all_members_once_and_none_is_smaller_than_asked(
    members: set[int], size: int
) -> None:
    found = groups(sorted(members), size)
    assert sorted(itertools.chain(*found)) == sorted(members)
    if size == 0 or len(members) < size:
        assert len(found) == 1
    else:
        assert min(map(len, found)) >= size and max(map(len, found)) - min(map(len, found)) <= 1


def test_one_missing_node_costs_one_groups_round(run: Run) -> None:
    grid = without("train.masked", {1}, {2})
    changes = {"rounds": 3, "privacy.group-size": 5, "clients.total": 10, "runtime.timeout": 2.0}
    folder = run(nodes=10, grid=grid, **{**SECAGG, **changes})
    first, second, third = rounds_of(folder)
    assert [event["clients"]["ok"] for event in (first, second, third)] == [10, 5, 10]
    assert list(second["groups_skipped"]) == ["0"] and second["skipped"] is None
    assert set(second["failures"]) == {"0", "1", "2", "3", "4"}
    result = folder.read("result.json")
    assert (result["rounds_skipped"], result["groups_skipped"]) == (0, 1)


@pytest.mark.usefixtures("named_streams")
def test_the_mean_of_several_groups_is_that_of_one(run: Run, tmp_path: Path) -> None:
    changes = {**SECAGG, "clients.total": 11, "rounds": 1}
    one = run(nodes=11, **changes, **{"run-dir": str(tmp_path / "one")})
    two = run(nodes=11, **changes, **{"privacy.group-size": 5, "run-dir": str(tmp_path / "two")})
    assert float((model(one) - model(two)).abs().max()) < 10.0 / 2**27 * 16


def test_a_run_in_which_no_round_counts_is_not_finished(run: Run, tmp_path: Path) -> None:
    grid = without("train.masked", {1}, {1, 2})
    with pytest.raises(StoppedError, match="none of the 2 rounds of maml-0 counted"):
        run(nodes=NODES, grid=grid, **SECAGG, **{"runtime.timeout": 1.0, "report.page": True})
    folder = RunFolder(tmp_path / "run")
    assert folder.read("status.json")["state"] == "stopped"
    assert folder.read("status.json")["exit_code"] == 3
    assert folder.read("result.json")["rounds_skipped"] == 2
    page = folder.report_file.read_text(encoding="utf-8")
    assert "2 rounds were skipped: the model stayed" in page and "stopped" in page


# ---------------------------------------------------------------- nodes
def test_a_node_enters_sums_of_one_group_and_answers_a_round_once(tmp_path: Path) -> None:
    pin = GroupPin(tmp_path)
    whole = group_of({"2": [4], "10": [1, 0], "1": [3]})
    assert list(whole) == ["1", "2", "10"] and whole["10"] == [0, 1]
    assert pin.objection(whole) == ""
    pin.enter(whole, "run maml 0", 1)
    pin.enter(whole, "run maml 0", 3)
    pin.enter(whole, "run erm 0", 1)
    for number in (1, 2, 3):
        with pytest.raises(RefusalError, match="answered before"):
            pin.enter(whole, "run maml 0", number)
    smaller = {"1": [3], "2": [4]}
    assert "without 10" in pin.objection(smaller)
    assert "with 7" in pin.objection({**whole, "7": [9]})
    assert "of other clients" in pin.objection({**whole, "2": [5]})
    with pytest.raises(RefusalError, match="the same members"):
        GroupPin(tmp_path).enter(smaller, "another run", 1)
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_of_two_processes_at_once_one_answers_a_round(tmp_path: Path) -> None:
    refused: list[str] = []

    def ask() -> None:
        try:
            GroupPin(tmp_path).enter({"1": [1]}, "run", 1)
        except RefusalError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7


LIES = {
    "fewer are enough": "of all 6 members or of none",
    "one member less": "this one is node without 0",
    "other clients": "this one is of other clients",
    "a round again": "answered before",
}


@pytest.mark.parametrize("lie", list(LIES))
def test_a_server_that_changes_members_or_repeats_a_round_gets_no_second_sum(
    run: Run, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    """A server that lies to all nodes alike, with terms that fit together: in its second round it
    lets one be missing, names another group, or asks for the first round anew."""
    from privacy.flower import rounds as secure
    from privacy.flower.exact_rounds import ExactRounds

    orders, graph = ExactRounds._orders, secure.graph_of
    asked = {"rounds": 0, "vectors": 0}

    def lying(self: Any, number: int, *others: Any) -> Any:
        asked["rounds"] += 1
        found = orders(self, number, *others)
        if number == 1:
            return found
        if lie == "one member less":
            self.groups = [group[1:] for group in self.groups]
        told = []
        for (node, order), (_, other) in zip(found, [*found[1:], found[0]], strict=True):
            work = order.assignment
            if lie == "a round again":
                work = replace(work, round=1, versions=(0,))
            if lie == "other clients":
                work = replace(work, clients=other.assignment.clients)
            told.append((node, replace(order, assignment=work)))
        return told

    def fewer(nodes: int, *others: Any) -> Any:
        found = graph(nodes, *others)
        return found._replace(least=5) if asked["rounds"] > 1 else found

    monkeypatch.setattr(ExactRounds, "_orders", lying)
    if lie == "fewer are enough":
        monkeypatch.setattr(secure, "graph_of", fewer)

    class Counting(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            asked["vectors"] += "sum" in replies[0].content
            return replies

    folder = run(nodes=NODES, grid=Counting, **SECAGG)
    first, second = rounds_of(folder)
    assert first["clients"]["ok"] == NODES and asked["vectors"] == NODES
    assert second["clients"]["ok"] == 0 and second["skipped"]
    told = set(second["failures"].values())
    assert any(LIES[lie] in reason for reason in told), told


def test_a_round_that_was_summed_before_a_kill_is_lost_and_not_summed_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between unmasking and the checkpoint: the nodes answered round 2, and do not again,
    whoever is there then."""
    from fedapp.store.checkpoint import CheckpointWriter

    save = CheckpointWriter.save
    stopped: list[int] = []

    def killed(self: CheckpointWriter, checkpoint: Any) -> None:
        if checkpoint.round == 2 and not stopped:
            stopped.append(2)
            raise KeyboardInterrupt
        save(self, checkpoint)

    monkeypatch.setattr(CheckpointWriter, "save", killed)
    changes = {**SECAGG, "rounds": 3}
    with pytest.raises(KeyboardInterrupt):
        run(nodes=NODES, **changes)
    folder = run(nodes=NODES, **changes, resume=True)
    again = [event for event in rounds_of(folder) if event["round"] == 2][-1]
    assert again["skipped"] and "answered before" in json.dumps(again["failures"])
    assert rounds_of(folder)[-1]["clients"]["ok"] == NODES


@pytest.mark.parametrize("shape", ["a model for each client", "double precision", "something else"])
def test_a_broadcast_that_is_not_one_model_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """Of a matrix every client of a chunk got a row of its own: with zeros in all but one row, a
    sum was of one client of each node."""
    from strategies.federation import Federation

    def broadcast(self: Federation, number: int) -> Broadcast:
        if shape == "double precision":
            return Broadcast(self.model.double(), {}, number)
        if shape == "something else":
            return Broadcast(self.model, {"control": self.model}, number)
        rows = torch.zeros(2, self.model.numel())
        rows[0] = self.model
        return Broadcast(rows, {}, number)

    monkeypatch.setattr(Federation, "broadcast", broadcast)
    with pytest.raises(StoppedError):
        run(nodes=NODES, **{**SECAGG, "clients.total": 2 * NODES, "rounds": 1})
    monkeypatch.undo()


def test_sums_that_the_server_noises_are_of_fixed_groups_too(smoke: Any) -> None:
    """It holds each before its noise."""
    from fedapp.config.experiment import Experiment

    changes = {**SECAGG, "release": "secagg-central-dp", "clients.total": 7, "clients.per-round": 6}
    with pytest.raises(InputError) as refused:
        Experiment.from_run_config(smoke(**changes, **{"runtime.nodes": 7}))
    assert refused.value.key == "clients.per-round"


@pytest.mark.parametrize(
    ("release", "noise", "provable", "allowed"),
    [
        ("secagg", 0.0, True, True),
        ("secagg", 0.0, False, False),
        ("plain", 0.0, False, False),
        ("central-dp", 0.0, False, False),
        ("secagg-central-dp", 0.0, False, False),
        ("distributed-dp", 0.01, False, False),
        ("distributed-dp", 1.0, False, True),
    ],
)
def test_a_node_that_wants_the_provable_mode_takes_part_in_nothing_weaker(
    release: str, noise: float, provable: bool, allowed: bool
) -> None:
    noised = release not in ("secagg", "plain")
    limits = {"exact": True, "epsilon_max": 8.0}
    said = Policy(**limits).forbids(release, noise, noised, provable)  # type: ignore[arg-type]
    assert (said == "") == (allowed and noised)  # a limit alone keeps it out of all without noise
    said = Policy(exact=True).forbids(release, noise, noised, provable)
    assert (said == "") == provable, "noise without a limit to its cost is none"
    assert (
        Policy(exact=True, min_noise=0.01, epsilon_max=8).forbids("distributed-dp", 0.01, True)
        == ""
    )


def test_members_that_may_be_hostile_do_not_hide_anybody() -> None:
    """Five members of which four may be hostile are a sum of one."""
    from fedapp.config.experiment import Experiment, known_keys
    from fedapp.config.recipes import read_recipe

    changes = {"runtime.nodes": NODES, "privacy.colluding": 4}
    values = known_keys() | read_recipe("smoke") | SECAGG | changes
    with pytest.raises(InputError) as refused:
        Experiment.from_run_config(values)
    assert refused.value.key == "privacy.colluding"


def test_real_nodes_keep_to_their_own_limits(run: Run, tmp_path: Path) -> None:
    """Policy ``exact``, hostile members, pictures of one size: as messages find them."""
    town = Town(tmp_path / "a", NODES, Policy(exact=True))

    def go(name: str, **changes: Any) -> list[dict[str, Any]]:
        place = tmp_path / name
        shutil.copytree(town.folder / "populations", place / "populations")
        values = {**SECAGG, **town.changes("secagg"), "rounds": 1, **changes}
        values["run-dir"] = str(place / "run")
        return rounds_of(run(nodes=NODES, grid=town.grid(), **values))

    with pytest.raises(StoppedError, match="the provable mode alone"):
        go("weaker")
    (event,) = go("provable", **PROVABLE)
    assert event["clients"]["ok"] == NODES
    with pytest.raises(StoppedError, match="are about task image, pictures of 16, 1 channels"):
        go("larger", **PROVABLE, **{"data.size": 20})
    town = Town(tmp_path / "b", NODES, Policy(colluding=4))
    with pytest.raises(StoppedError, match="is one of 2"):
        go("hostile", **PROVABLE)


def test_a_spoilt_sum_holds_nothing_of_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the member adds under its masks, in whose client's place nobody is, is random in every
    number and every bit: zeros with a wrong check block would leave the sum of the others."""
    from privacy.secagg.client import SecAggClient
    from strategies.cohort import CohortTrainer

    added: dict[int, np.ndarray] = {}
    mask = SecAggClient.mask

    def kept(self: SecAggClient, session: bytes, model: bytes, boxes: Any, vector: Any) -> Any:
        added[self.member] = vector.copy()
        return mask(self, session, model, boxes, vector)

    def failing(self: CohortTrainer, client: int) -> Any:
        if client == 2 and failing_now:
            raise UnusableDataError("no picture")
        return data(self, client)

    data, failing_now = CohortTrainer._data, True
    monkeypatch.setattr(SecAggClient, "mask", kept)
    monkeypatch.setattr(CohortTrainer, "_data", failing)
    with pytest.raises(StoppedError, match="masks did not cancel"):
        run(nodes=NODES, **{**SECAGG, "rounds": 1})
    spoilt = added.pop(2)
    for bit in range(32):
        assert 0.25 < ((spoilt >> np.uint32(bit)) & np.uint32(1)).mean() < 0.75, bit
    assert spoilt[-4:].any()  # the check block too: nobody may take the sum for a sound one
    for sound in added.values():  # of the others: near zero on the ring, and zeros to check by
        assert np.abs(sound.view(np.int32)[:-4] / 2**31).mean() < 0.1 and not sound[-4:].any()


def test_provable_sums_are_about_pictures_of_one_size(tmp_path: Path) -> None:
    """Resized to bytes, pictures of another size are another function of the same photographs."""
    pin = GroupPin(tmp_path)
    pin.enter({"1": [1]}, "a", 1, "pictures of 16")
    pin.enter({"1": [1]}, "b", 1)
    with pytest.raises(RefusalError, match="about pictures of 16"):
        pin.enter({"1": [1]}, "c", 1, "pictures of 32")
    assert pin.objection({"1": [1]}, "pictures of 16") == ""


def test_a_resumed_run_draws_what_it_would_have_drawn(run: Run, tmp_path: Path) -> None:
    """From the checkpoint of round 1, with the nodes' keys and the run's name: the same model, but
    for rounding; and so with clients trained one by one."""
    changes = {**SECAGG, "clients.total": 2 * NODES, "rounds": 3}
    whole = run(nodes=NODES, **changes, **{"run-dir": str(tmp_path / "whole")})
    for name, chunk in (("resumed", 0), ("one-by-one", 1)):
        again = tmp_path / name
        shutil.copytree(whole.path, again)
        for file in list_checkpoints(again / "checkpoints")[1:]:
            file.unlink()
        for seen in again.rglob(FILE):  # else the nodes refuse, as they should
            seen.unlink()
        folder = run(
            nodes=NODES, **changes, resume=True,
            **{"run-dir": str(again), "runtime.chunk": chunk},
        )  # fmt: skip
        assert [e["round"] for e in rounds_of(folder)] == [1, 2, 3]
        apart = float((model(whole) - model(folder)).abs().max())
        assert apart < 10.0 / 2**27 * 16, apart
