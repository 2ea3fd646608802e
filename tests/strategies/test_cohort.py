"""Cohorts: chunking, single failures, order of sums."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit import Rounds, distance

from strategies.cohort import Assignment
from strategies.failures import disclose
from strategies.federation import Federation, Fold, participants
from strategies.types import Payload
from tasks.errors import InputError

TARGETS = [[float(i), 1.0 - i] for i in range(7)]


@pytest.mark.parametrize(
    "learner", ["erm", "maml", "fomaml", "fedmenf", "fedmenf-unbounded", "reptile"]
)
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_nothing(quadratic: Callable[..., Any], learner: str, chunk: int) -> None:
    whole = Rounds(quadratic(TARGETS), learner=learner, clients=7).go(2)
    parts = Rounds(quadratic(TARGETS), learner=learner, clients=7, chunk=chunk).go(2)
    assert distance(whole, parts) < 1e-12


@pytest.mark.falls_back
@pytest.mark.parametrize(
    ("poison", "reason"), [("raise", "disk of client 2"), ("nan", "not finite")]
)
@pytest.mark.parametrize("chunk", [1, 4])
def test_a_failing_client_is_left_out_by_name(
    quadratic: Callable[..., Any], poison: str, reason: str, chunk: int
) -> None:
    task = quadratic(TARGETS)
    task.poison = {2: poison}
    game = Rounds(task, clients=7, chunk=chunk, failing=True)
    game.go()
    (result,) = game.results
    assert sorted(result.clients) == [0, 1, 3, 4, 5, 6] and list(result.failures) == [2]
    assert reason in result.failures[2] and ".py:" in result.failures[2]
    alone = Rounds(quadratic(TARGETS), clients=7, chunk=1)
    whole = alone.trainer.run(
        alone.federation.broadcast(1), Assignment(1, 0, (0, 1, 3, 4, 5, 6), (0,) * 6)
    )
    assert result.payload is not None and whole.payload is not None and result.payload.count == 6
    torch.testing.assert_close(result.payload.vector, whole.payload.vector)


@pytest.mark.falls_back
def test_metrics_stay_with_their_clients(quadratic: Callable[..., Any]) -> None:
    task = quadratic(TARGETS)
    task.poison = {0: "raise"}
    game = Rounds(task, clients=7, chunk=2, failing=True)
    game.go()
    (result,) = game.results
    alone = Rounds(quadratic(TARGETS), clients=7, chunk=1)
    alone.go()
    expected = dict(zip(alone.results[0].clients, alone.results[0].metrics["loss"], strict=True))
    for client, loss in zip(result.clients, result.metrics["loss"], strict=True):
        assert loss == pytest.approx(expected[client])


def test_participants_depend_on_seed_and_round_alone() -> None:
    draws = [participants(0, r, 50, 5) for r in range(20)]
    assert draws == [participants(0, r, 50, 5) for r in range(20)]
    assert all(len(set(draw)) == 5 and draw == sorted(draw) for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 15 and participants(1, 3, 50, 5) != draws[3]
    assert participants(0, 1, 4, 0) == [0, 1, 2, 3]


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_fold_gives_the_same_bits_in_any_order_of_arrival(
    order: list[int], missing: set[int]
) -> None:
    draw = torch.Generator().manual_seed(0)
    vectors = [torch.randn(5, generator=draw) * 10.0**i for i in range(6)]

    def folded(arrival: list[int]) -> Fold:
        fold = Fold()
        for slot in arrival:
            part = Payload(vectors[slot].clone(), 1.0, {"s": float(slot)}, 1)
            fold.put(slot, None if slot in missing else part)
        return fold

    here, there = folded(order).total, folded(list(range(6))).total
    if len(missing) == 6:
        assert here is None and there is None
    else:
        assert here is not None and there is not None
        assert torch.equal(here.vector, there.vector) and here.count == 6 - len(missing)
        assert here.scalars["s"] == sum(set(range(6)) - missing)


def test_rounds_only_move_forward_by_one(quadratic: Callable[..., Any]) -> None:
    game = Rounds(quadratic(TARGETS), clients=7)
    game.go(2)
    result = game.trainer.run(game.federation.broadcast(3), Assignment(3, 0, (0,), (0,)))
    assert result.payload is not None
    from privacy.releases.plain import Plain

    for stale in (1, 2, 4):
        with pytest.raises(ValueError, match="only move forward"):
            game.federation.apply(Plain().decode(result.payload, {}), [0], stale)


def test_a_rule_with_memory_needs_a_store(quadratic: Callable[..., Any]) -> None:
    game = Rounds(quadratic(TARGETS), "scaffold", clients=7)
    from strategies.cohort import CohortTrainer

    with pytest.raises(ValueError, match="memory store"):
        CohortTrainer(
            game.trainer.task,
            game.trainer.learner,
            game.rule,
            game.trainer.release,
            game.trainer.settings,
        )
    assert isinstance(game.federation, Federation)


@pytest.mark.parametrize(
    ("rule", "signals"), [("scaffold", None), ("isfa", {"0": 1.0, "1": 0.1, "2": 0.6})]
)
def test_a_simulated_round_is_what_a_run_sums_and_leaves_nothing(
    quadratic: Callable[..., Any], rule: str, signals: dict[str, float] | None
) -> None:
    game = Rounds(quadratic(TARGETS), rule, clients=7, signals=signals)
    game.go(2)
    received = game.federation.broadcast(3)
    order = Assignment(
        3, 0, (0, 2, 5), tuple(game.federation.accepted[client] for client in (0, 2, 5))
    )
    before = {
        key: {name: row.clone() for name, row in kept.items()}
        for key, kept in game.store.versions.items()
    }
    local, contribution = game.trainer.simulate_round(received, order)
    assert game.store.versions.keys() == before.keys()
    for key, kept in before.items():
        assert all(torch.equal(game.store.versions[key][name], row) for name, row in kept.items())
    payload = game.trainer.run(received, order).payload
    assert payload is not None and payload.count == len(local.delta) == 3
    weight = contribution.weight.to(contribution.vector)
    torch.testing.assert_close(payload.vector, (weight[:, None] * contribution.vector).sum(0))
    assert payload.weight == pytest.approx(float(weight.sum()))
    assert contribution.vector.norm(dim=1).min() > 1e-3, "everybody trains something"


def test_a_device_tells_the_kind_and_the_place_of_an_error_and_no_more() -> None:
    """Messages and absolute paths name files, folders and people; a config key does not."""

    def caught(error: Exception) -> BaseException:
        try:
            raise error
        except Exception as found:
            return found

    wrong = InputError("data.path", "/home/ann/photographs", "no such folder", "give another")
    for error, named in ((wrong, "InputError about data.path"), (OSError("/home/ann"), "OSError")):
        told = disclose(caught(error))
        place = r"\(strategies/test_cohort\.py:\d+ in caught\)"
        assert re.fullmatch(rf"{named} {place}; the node's own log says more", told)
        assert "ann" not in told
    assert disclose(OSError("never raised")) == "OSError; the node's own log says more"


@pytest.mark.falls_back
def test_looking_and_a_failed_write_cost_no_other_client_its_place(
    quadratic: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads cannot be looked at and one memory cannot be written: one client is left out, and no
    more looks are reported than clients were asked for."""
    game = Rounds(quadratic(TARGETS[:4]), "scaffold", clients=4, failing=True)
    game.trainer.inspect = lambda *_: {}["no"]
    save = game.store.save

    def full(client: int, version: int, memory: Any) -> None:
        if client == 1:
            raise OSError("disk full")
        save(client, version, memory)

    monkeypatch.setattr(game.store, "save", full)
    game.go()
    (result,) = game.results
    assert sorted(result.clients) == [0, 2, 3] and list(result.failures) == [1]
    assert result.payload is not None and result.payload.count == 3 >= len(result.unseen)
