"""Private releases as whole runs: law 3 on real messages, reductions, budget stop, resume,
dropouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from kit import NODES, PRIVATE
from safetensors.torch import load_file

from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from privacy.accounting import gaussian_epsilon
from privacy.budget.ledger import read_entries
from privacy.flower.wire import OUTGOING
from privacy.releases import RELEASES
from privacy.releases.lattice import LatticeRelease
from privacy.sampling import Sampler
from sim.inprocess import InProcessGrid
from strategies.types import Public
from tasks.errors import InputError, StoppedError

Run = Callable[..., RunFolder]
UNJUDGED = {
    "evaluation.steps": "0",
    "evaluation.every": 99,
    "data.held-out": 1,
}  # where only rounds are looked at


def model(folder: RunFolder) -> torch.Tensor:
    return load_file(list_checkpoints(folder.checkpoints)[-1])["maml-0/model"]


def recording(log: list[tuple[str, Message]]) -> Callable[..., InProcessGrid]:
    """A grid that keeps what leaves the nodes."""

    class Recording(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            log.extend((message.metadata.message_type, reply) for reply in replies)
            return replies

    return Recording


def fields(reply: Message) -> dict[str, Any]:
    """``{record.field: value}`` of everything in a message."""
    found: dict[str, Any] = {}
    for record, content in reply.content.items():
        for field, value in content.items():
            found[f"{record}.{field}"] = value
    return found


# ---------------------------------------------------------------- law 3
@pytest.mark.parametrize("release", [name for name in RELEASES if name != "plain"])
def test_only_the_release_leaves(run: Run, release: str) -> None:
    """Every field of every reply is in the table; no float array, no metric, and no plaintext
    vector among them."""
    log: list[tuple[str, Message]] = []
    run(nodes=NODES, grid=recording(log), **PRIVATE, release=release)
    assert {kind for kind, _ in log} >= {"query.hello"}
    sums = []
    for _, reply in log:
        assert not reply.has_error() and not reply.content.metric_records
        for name, value in fields(reply).items():
            assert name in OUTGOING, f"{name} leaves a node and is not declared"
            if name == "sum.vector":
                assert value.dtype == "int32"
                sums.append(np.frombuffer(value.data[-4 * value.shape[0] :], np.int32))
    assert len(sums) == 2 * NODES
    for vector in sums:  # under masks the values fill the ring; in the clear they stay near zero
        assert (np.abs(vector.astype(np.float64)).mean() > 2**28) == (
            "secagg" in release or "distributed" in release
        )


def test_negative_control_the_plain_release_sends_more(run: Run) -> None:
    log: list[tuple[str, Message]] = []
    run(nodes=NODES, grid=recording(log), **PRIVATE)
    left = {name for _, reply in log for name in fields(reply)}
    assert {"sum.meta.weight", "clients.id", "clients.objective_min"} <= left - set(OUTGOING)


@pytest.mark.parametrize("release", ["secagg", "distributed-dp"])
def test_a_failing_client_is_not_named_and_its_error_stays_at_home(
    run: Run, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    """Under noise nobody learns that a client failed. Without noise the sum is spoilt, by nobody
    knows whom: counted with nothing to add, a member would be the difference between this sum and
    the next; and if it said that it fails, a server could ask at which models it does."""
    from strategies.rules.fedavg import FedAvg

    contribute = FedAvg.contribute

    def spoil(self: FedAvg, result: Any, *others: Any) -> Any:
        contribution, memory = contribute(self, result, *others)
        if len(contribution.vector) == 1:  # one client a node: let node 2's be not finite, secretly
            counter["calls"] += 1
            if counter["calls"] == 3:
                contribution.vector[0, 0] = math.nan
        return contribution, memory

    counter = {"calls": 0}
    monkeypatch.setattr(FedAvg, "contribute", spoil)
    log: list[tuple[str, Message]] = []
    changes = {**PRIVATE, "rounds": 2, "release": release}
    folder = run(nodes=NODES, grid=recording(log), **changes)
    events = [event for event in folder.events() if event["event"] == "round"]
    told = [reply.content["failure"]["reason"] for _, reply in log if "failure" in reply.content]
    if release == "secagg":
        assert [event["clients"]["ok"] for event in events] == [0, 6]
        assert "masks did not cancel" in events[0]["groups_skipped"]["0"]
        assert len(events[0]["failures"]) == 6 and len(set(events[0]["failures"].values())) == 1
        assert not events[0]["remarks"]
    else:
        assert [event["clients"] for event in events] == [{"ok": 6, "failed": 0}] * 2
    assert told == []
    assert torch.isfinite(model(folder)).all()


@pytest.mark.falls_back
def test_what_is_wrong_with_a_clients_file_stays_at_home(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A loader names the file it cannot read. No reply may, and clients of the same node go on
    without that one."""
    from tasks.image import ImageTask

    load = ImageTask.client_data

    def unreadable(self: ImageTask, client: int) -> Any:
        if client == 2:
            raise InputError(
                "data.path", "/home/alice/oncology/scan-0042.png", "cannot be decoded", "replace it"
            )
        return load(self, client)

    log: list[tuple[str, Message]] = []
    changes = {**PRIVATE, "clients.total": 12, "rounds": 1, "release": "distributed-dp"}
    monkeypatch.setattr(ImageTask, "client_data", unreadable)
    monkeypatch.setattr(ImageTask, "check", lambda *_: None)
    folder = run(nodes=NODES, grid=recording(log), **changes, **{"run-dir": str(tmp_path / "part")})
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    assert event["clients"] == {"ok": 12, "failed": 0}, "nobody may learn that a client stayed out"
    assert not any("alice" in str(reply.content) for _, reply in log)


# ---------------------------------------------------------------- reductions
@pytest.mark.usefixtures("named_streams")
def test_secagg_is_plain_up_to_the_quantum(run: Run, tmp_path: Path) -> None:
    """One client a node, a clip nobody reaches: the same model as without protection."""
    plain = run(nodes=NODES, **PRIVATE, **{"run-dir": str(tmp_path / "plain")})
    masked = run(
        nodes=NODES,
        **PRIVATE,
        release="secagg",
        **{"privacy.clip-norm": 10.0, "run-dir": str(tmp_path / "m")},
    )
    assert float((model(plain) - model(masked)).abs().max()) < 10.0 / 2**27 * 8


@pytest.mark.usefixtures("named_streams")
@pytest.mark.parametrize("rule", ["fedprox", "scaffold"])
def test_other_rules_go_through_secure_sums(run: Run, tmp_path: Path, rule: str) -> None:
    changes = {**PRIVATE, "rule": rule, "rounds": 3}
    plain = run(nodes=NODES, **changes, **{"run-dir": str(tmp_path / "plain")})
    masked = run(
        nodes=NODES,
        **changes,
        release="secagg",
        **{"privacy.clip-norm": 1e4, "run-dir": str(tmp_path / "m")},
    )
    assert float((model(plain) - model(masked)).abs().max()) < 1e4 / 2**27 * 8


@pytest.mark.usefixtures("named_streams")
def test_packing_clients_into_fewer_nodes_changes_nothing_but_rounding(
    run: Run, tmp_path: Path
) -> None:
    changes = {**PRIVATE, "clients.total": 10, "release": "secagg", "privacy.clip-norm": 10.0}
    models = [
        model(run(nodes=n, **changes, **{"run-dir": str(tmp_path / str(n))})) for n in (5, 10)
    ]
    assert float((models[0] - models[1]).abs().max()) < 10.0 / 2**27 * 8


# ---------------------------------------------------------------- budget
def test_a_run_stops_before_its_budget_is_exceeded_and_says_so(
    run: Run, smoke: Callable[..., dict[str, Any]]
) -> None:
    limit = gaussian_epsilon(math.sqrt(2) / 4.0, 1e-5) + 1e-9  # two rounds at z = 4
    changes = {
        **PRIVATE,
        "rounds": 5,
        "release": "central-dp",
        "privacy.noise-multiplier": 4.0,
        "privacy.epsilon-max": limit,
    }
    with pytest.raises(StoppedError, match="privacy budget: round 3"):
        run(nodes=2, **changes)
    folder = RunFolder(Path(smoke()["run-dir"]))
    assert folder.status["exit_code"] == 3
    assert [event["round"] for event in folder.events() if event["event"] == "round"] == [1, 2]
    assert len(list_checkpoints(folder.checkpoints)) == 2


def test_runs_over_one_population_share_its_budget(run: Run, tmp_path: Path) -> None:
    changes = {
        **PRIVATE,
        "release": "central-dp",
        "privacy.noise-multiplier": 4.0,
        "privacy.population": "town",
    }
    for name in ("first", "second"):
        folder = run(nodes=2, **changes, **{"run-dir": str(tmp_path / name)})
    last = [event for event in folder.events() if event["event"] == "round"][-1]
    assert last["epsilon"] == pytest.approx(gaussian_epsilon(math.sqrt(4) / 4.0, 1e-5))
    entries = read_entries(tmp_path / "populations" / "town" / "ledger.jsonl")
    assert {entry["run"] for entry in entries if entry["type"] == "reserve"} == {"first", "second"}


def test_a_population_keeps_the_limit_it_was_opened_with(run: Run, tmp_path: Path) -> None:
    """A later run cannot grant itself more of the same people's budget."""
    changes = {
        **PRIVATE,
        **UNJUDGED,
        "release": "central-dp",
        "privacy.population": "town",
        "rounds": 1,
    }
    run(nodes=2, **{**changes, "privacy.epsilon-max": 50.0, "run-dir": str(tmp_path / "first")})
    with pytest.raises(InputError, match="opened with 50") as caught:
        run(
            nodes=2, **{**changes, "privacy.epsilon-max": 51.0, "run-dir": str(tmp_path / "second")}
        )
    assert caught.value.key == "privacy.epsilon-max"


@pytest.mark.parametrize(
    ("sampling", "clients", "per_round", "expected"),
    [("poisson", 6, 2, 2.0), ("round-robin", 7, 3, 7 / math.ceil(7 / 3))],
)
def test_sums_are_divided_by_a_public_constant_however_many_were_drawn(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    sampling: str,
    clients: int,
    per_round: int,
    expected: float,
) -> None:
    """Divided by who really came, the model would tell how many came, which nothing is charged
    for."""
    opened: list[tuple[int, float]] = []
    original = LatticeRelease.open

    def listening(self: LatticeRelease, clients: int, *others: Any) -> Public:
        public = original(self, clients, *others)
        opened.append((clients, float(public["denominator"])))
        return public

    monkeypatch.setattr(LatticeRelease, "open", listening)
    if sampling == "poisson":  # 2, 3 and 4 of 6, instead of coins
        monkeypatch.setattr(Sampler, "draw", lambda self, number: list(range(1 + number)))
    run(
        nodes=2,
        release="central-dp",
        **{
            **PRIVATE,
            **UNJUDGED,
            "rounds": 3,
            "clients.total": clients,
            "clients.per-round": per_round,
            "privacy.sampling": sampling,
        },
    )
    assert len({drawn for drawn, _ in opened}) > 1, "rounds of different sizes"
    assert {denominator for _, denominator in opened} == {expected}


@pytest.mark.parametrize("sampling", ["poisson", "round-robin"])
def test_sampled_rounds_run_and_small_draws_are_skipped_but_charged(
    run: Run, sampling: str
) -> None:
    folder = run(
        nodes=2,
        **{**PRIVATE, "rounds": 8, "clients.per-round": 2, "clients.min": 2},
        release="central-dp",
        **{"privacy.sampling": sampling, "privacy.noise-multiplier": 4.0},
    )
    rounds = [event for event in folder.events() if event["event"] == "round"]
    entries = read_entries(folder.path / "population" / "ledger.jsonl")
    assert len(rounds) == sum(entry["type"] == "reserve" for entry in entries) == 8
    skipped = [event for event in rounds if event["skipped"]]
    assert len(skipped) == sum(entry["type"] == "abort" for entry in entries)
    drawn = [len(entry["clients"]) for entry in entries if entry["type"] == "cohort"]
    assert sum(size < 2 for size in drawn) == len(skipped) and (
        sampling == "poisson" or not skipped
    )


def test_target_epsilon_is_met_exactly(run: Run) -> None:
    folder = run(
        nodes=2,
        release="central-dp",
        **{
            **PRIVATE,
            "rounds": 3,
            "privacy.noise-multiplier": 0.0,
            "privacy.target-epsilon": 5.0,
            "privacy.epsilon-max": 5.0,
        },
    )
    assert folder.read("result.json")["epsilon"] == pytest.approx(5.0, abs=1e-6)
