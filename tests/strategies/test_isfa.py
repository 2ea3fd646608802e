"""ISFA: its weights against the formula, its reductions, and that no score leaves a client."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit import Rounds, distance

from privacy.joint import JointVector
from strategies.rules.isfa import Isfa
from strategies.settings import IsfaSettings, RuleSettings
from strategies.types import Broadcast, LocalResult

TARGETS = [[1.0, 0.0, 2.0], [-3.0, 1.0, 0.5], [0.0, 4.0, -1.0], [2.0, 2.0, 2.0]]


def local(identity: list[float], stability: list[float], examples: list[float]) -> LocalResult:
    signals = {"identity": torch.tensor(identity), "stability": torch.tensor(stability)}
    return LocalResult(
        torch.ones(len(identity), 3), 1, 1.0, torch.tensor(examples), signals=signals
    )


def test_the_weight_is_the_formula() -> None:
    rule = Isfa(RuleSettings(isfa=IsfaSettings(alpha=0.7, gamma=2.0, max_examples=10)))
    found = rule.weight(local([0.9, 0.2], [0.5, 1.0], [5, 40]))
    scores = [0.7 * 0.9 + 0.3 * 0.5, 0.7 * 0.2 + 0.3 * 1.0]
    expected = [5 / 10 * math.exp(2 * (scores[0] - 1)), 1.0 * math.exp(2 * (scores[1] - 1))]
    assert found.tolist() == pytest.approx(expected)


def test_weights_are_those_of_the_published_rule_up_to_a_common_factor() -> None:
    """n e^{g s} / sum n e^{g s}, the server's normalisation, equals a / sum a."""
    rule = Isfa(RuleSettings(isfa=IsfaSettings(alpha=0.7, gamma=0.5, max_examples=100)))
    identity, stability, examples = [0.9, 0.5, 0.7], [0.3, 0.8, 0.6], [10.0, 20.0, 5.0]
    ours = rule.weight(local(identity, stability, examples))
    scores = 0.7 * np.array(identity) + 0.3 * np.array(stability)
    published = np.array(examples) * np.exp(0.5 * scores)
    assert np.allclose(ours / ours.sum(), published / published.sum(), atol=1e-6)


@given(
    st.lists(
        st.tuples(st.floats(-5, 5) | st.just(math.nan), st.floats(-5, 5)), min_size=1, max_size=6
    )
)
def test_no_signal_makes_a_weight_leave_its_range(signals: list[tuple[float, float]]) -> None:
    rule = Isfa(RuleSettings(isfa=IsfaSettings(gamma=5.0)))
    weight = rule.weight(
        local([a for a, _ in signals], [b for _, b in signals], [1.0] * len(signals))
    )
    assert ((weight > 0) & (weight <= 1)).all()


def test_equal_signals_are_fedavg(quadratic: Callable[..., Any]) -> None:
    rules = RuleSettings(server_clip=0)
    one = Rounds(quadratic(TARGETS), "isfa", clients=4, rules=rules).go(3)
    assert distance(one, Rounds(quadratic(TARGETS), "fedavg", clients=4, rules=rules).go(3)) < 1e-12


def test_gamma_zero_is_fedavg_whatever_the_signals(quadratic: Callable[..., Any]) -> None:
    rules = RuleSettings(server_clip=0, isfa=IsfaSettings(gamma=0.0))
    signals = {"0": 0.1, "1": 0.9, "2": 0.4, "3": 0.7}
    one = Rounds(quadratic(TARGETS), "isfa", clients=4, rules=rules, signals=signals).go(3)
    assert distance(one, Rounds(quadratic(TARGETS), "fedavg", clients=4, rules=rules).go(3)) < 1e-12


def test_a_reliable_client_pulls_harder(quadratic: Callable[..., Any]) -> None:
    """(d_0 + e^-2 d_1) / (1 + e^-2), with d_0 and d_1 found from FedAvg over one client and over
    both."""
    rules, task = (
        RuleSettings(server_clip=0, isfa=IsfaSettings(gamma=2.0)),
        quadratic([[4.0], [-3.0]]),
    )
    first = float(Rounds(task, "fedavg", clients=1, rules=rules).go())
    second = 2 * float(Rounds(task, "fedavg", clients=2, rules=rules).go()) - first
    moved = Rounds(task, "isfa", clients=2, rules=rules, signals={"0": 1.0, "1": 0.0}).go()
    assert float(moved) == pytest.approx(
        (first + math.exp(-2) * second) / (1 + math.exp(-2)), rel=1e-9
    )


def test_a_masked_vector_holds_the_weighted_update_and_the_weight() -> None:
    """Inside the joint vector: a pi_C(delta) / C and rho a, for a weight that is not a count."""
    rule = Isfa(RuleSettings(isfa=IsfaSettings(gamma=1.0)))
    result = local([1.0, 0.5], [1.0, 0.5], [3.0, 9.0])
    contribution, kept = rule.contribute(result, Broadcast(torch.zeros(3), {}, 1), {})
    assert kept == {} and contribution.largest == 1.0
    rows = JointVector(3, rho_weight=1.0).pack(contribution, clip=10.0)
    weights = np.array([1.0, math.exp(-0.5)])
    assert np.allclose(rows[:, :3], weights[:, None] / 10.0, atol=1e-6) and np.allclose(
        rows[:, 3], weights, atol=1e-6
    )


def test_negative_control_a_weight_beyond_its_bound_is_cut() -> None:
    rule = Isfa(RuleSettings())
    contribution, _ = rule.contribute(
        local([1.0], [1.0], [1.0]), Broadcast(torch.zeros(3), {}, 1), {}
    )
    contribution.weight.fill_(50.0)
    assert JointVector(3, rho_weight=1.0).pack(contribution, clip=10.0)[0, 3] == pytest.approx(1.0)


def test_who_did_well_stays_away_more_often_and_counts_more() -> None:
    """E[coin a q / p] = a q for every score, by the formula and by drawing."""
    rule = Isfa(RuleSettings(isfa=IsfaSettings(attendance=0.25)))
    memory = {"score": torch.tensor([[0.0], [0.5], [1.0]])}
    chance = rule.attendance(memory)
    assert chance.tolist() == pytest.approx([1.0, 0.625, 0.25])
    contribution, kept = rule.contribute(
        local([1.0] * 3, [1.0] * 3, [1.0] * 3), Broadcast(torch.zeros(3), {}, 1), memory
    )
    assert (contribution.weight * chance).tolist() == pytest.approx(
        [0.25] * 3
    ) and contribution.weight.max() <= 1
    assert kept["score"].tolist() == [[1.0]] * 3


def test_staying_away_adds_zero_and_keeps_the_memory(quadratic: Callable[..., Any]) -> None:
    """At score 1 they come with chance 0.3: 200 coins give 60 on average, with a deviation of
    6.5."""
    rules = RuleSettings(server_clip=0, isfa=IsfaSettings(attendance=0.3))
    people = [str(number) for number in range(20)]
    game = Rounds(
        quadratic([[1.0]] * 20), "isfa", clients=20, rules=rules, signals=dict.fromkeys(people, 1.0)
    )
    game.go(11)
    trained = [len(result.clients) for result in game.results]
    assert trained[0] == 20, "nobody has a score yet"
    assert abs(sum(trained[1:]) - 60) < 5 * 6.5
    away = [why for result in game.results for why in result.failures.values()]
    assert len(away) == 11 * 20 - sum(trained) and all("stayed away" in why for why in away)


def test_who_stays_away_is_drawn_anew_every_round(quadratic: Callable[..., Any]) -> None:
    """Twenty coins of chance 0.3 fall alike in two rounds with chance (0.3^2 + 0.7^2)^20 = 2e-5;
    and by the seed."""
    rules = RuleSettings(server_clip=0, isfa=IsfaSettings(attendance=0.3))
    perfect = dict.fromkeys((str(number) for number in range(20)), 1.0)
    present = {}
    for seed in (0, 1):
        game = Rounds(
            quadratic([[1.0]] * 20), "isfa", clients=20, rules=rules, signals=perfect, seed=seed
        )
        game.go(6)
        present |= {
            (seed, number): tuple(result.clients) for number, result in enumerate(game.results[1:])
        }
    assert len(set(present.values())) == len(present) == 2 * 5
