"""The round strategy is a normal Flower ``Strategy``: Flower's own loop drives it to the same
model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Strategy

from fedapp import ROOT
from fedapp.client_app import app as client_app
from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.identity import fingerprint
from fedapp.metric_names import UPLOADED
from privacy.releases.secagg import SecAgg
from privacy.settings import PrivacySettings
from sim.inprocess import InProcessGrid, server_identity
from strategies.federation import Federation, participants
from strategies.flower.legs import exchange, lifetime
from strategies.flower.roster import Node, gather, spread, without_doubles
from strategies.flower.rounds import FederatedRounds, RoundReport, RoundSettings
from strategies.flower.totals import Sum
from strategies.flower.wire import from_array
from strategies.learner import OBJECTIVE
from strategies.types import Bounds, Contribution, Scalar
from tasks.errors import StoppedError


@pytest.fixture
def setting(
    smoke: Callable[..., dict[str, Any]], tmp_path: Path
) -> Callable[[], tuple[FederatedRounds, InProcessGrid]]:
    def build(rule: str = "fedavg") -> tuple[FederatedRounds, InProcessGrid]:
        config = smoke(methods="maml", rule=rule, rounds=6)
        experiment = Experiment.from_run_config(config)
        task = Pieces(experiment).task
        grid = InProcessGrid(client_app, 2, config)
        with server_identity(grid.run.run_id):
            nodes = gather(grid, 2, 5.0, fingerprint(), str(ROOT), print)
        federation = Federation.start(Pieces(experiment).rule, 4, task.init(0))
        strategy = FederatedRounds(
            federation, Pieces(experiment).release_of(federation.model.numel()), nodes,
            RoundSettings(
                0, 2, 30.0, 8, frozenset({"loss", OBJECTIVE, *UPLOADED}), str(tmp_path),
                config=experiment.digest,
            ),
            method="maml", seed=0, session="s", fingerprint=fingerprint(), root=str(ROOT),
        )  # fmt: skip
        return strategy, grid

    return build


@pytest.mark.parametrize("rule", ["fedavg", "fedexp", "fedacg"])
def test_flowers_own_loop_gives_the_same_model_as_ours(
    setting: Callable[..., Any], rule: str
) -> None:
    """Also where the model that is judged is neither the last one nor the one clients would get
    next."""
    ours, grid = setting(rule)
    with server_identity(grid.run.run_id):
        result = ours.start(grid, ArrayRecord(), num_rounds=2)
    theirs, grid = setting(rule)
    with server_identity(grid.run.run_id):
        other = Strategy.start(
            theirs, grid, ArrayRecord({"unused": result.arrays["model"]}), num_rounds=2
        )
    assert torch.equal(ours.federation.model, theirs.federation.model)
    for found in (result, other):
        assert torch.equal(from_array(found.arrays["model"]), ours.federation.result)
    assert set(result.train_metrics_clientapp) == set(other.train_metrics_clientapp) == {1, 2}
    assert result.train_metrics_clientapp[2]["psnr_p"] == other.train_metrics_clientapp[2]["psnr_p"]


def test_start_takes_an_initial_model_and_continues_from_its_own_round(
    setting: Callable[[], Any],
) -> None:
    whole, grid = setting()
    with server_identity(grid.run.run_id):
        start = whole.start(grid, ArrayRecord(), num_rounds=1)
        whole.start(grid, ArrayRecord(), num_rounds=3)
    assert whole.federation.round == 3
    both = []
    for begin in (FederatedRounds.start, Strategy.start):
        other, grid = setting()
        other.federation.model = torch.zeros_like(other.federation.model)
        with server_identity(grid.run.run_id):
            begin(other, grid, start.arrays, num_rounds=1)
        both.append(other.federation.model)
    expected, grid = setting()
    expected.federation.model = from_array(start.arrays["model"]).clone()
    with server_identity(grid.run.run_id):
        expected.start(grid, ArrayRecord(), num_rounds=1)
    assert all(torch.equal(model, expected.federation.model) for model in both)


def test_each_round_trains_the_clients_its_number_draws(setting: Callable[[], Any]) -> None:
    """Two of four: the draw depends on the round, and every method of a comparison makes it."""
    strategy, grid = setting()
    strategy.settings = replace(strategy.settings, per_round=2)
    with server_identity(grid.run.run_id):
        trained = [strategy.run_round(grid, number).clients for number in range(1, 7)]
    assert trained == [participants(0, number, 4, 2) for number in range(1, 7)]
    assert len(set(map(tuple, trained))) > 1


def test_a_round_that_was_not_opened_cannot_be_closed(setting: Callable[[], Any]) -> None:
    strategy, _ = setting()
    with pytest.raises(ValueError, match="not opened"):
        strategy.aggregate_train(1, [])


def test_flowers_loop_stops_below_min_clients_too(setting: Callable[[], Any]) -> None:
    strategy, grid = setting()
    with server_identity(grid.run.run_id):
        list(strategy.configure_train(1, ArrayRecord(), None, grid))
        with pytest.raises(StoppedError, match="0 clients answered"):
            strategy.aggregate_train(1, [])


def test_exchange_keeps_to_its_window_and_reports_the_silent() -> None:
    class Slow:
        """Answers at the next pull, except message 3: never."""

        def __init__(self) -> None:
            self.out: dict[str, int] = {}
            self.most = 0
            self.sent = 0

        def push_messages(self, messages: list[Message]) -> list[str]:
            self.sent += len(messages)
            identifier = f"m{self.sent - 1}"
            self.out[identifier] = 0
            self.most = max(self.most, len(self.out.keys() - {"m3"}))
            return [identifier]

        def pull_messages(self, identifiers: list[str]) -> list[Any]:
            from types import SimpleNamespace

            ready = [name for name in identifiers if name != "m3" and name in self.out]
            for name in ready:
                del self.out[name]
            return [
                SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=name))
                for name in ready
            ]

    grid = Slow()
    answers = dict(exchange(grid, [None] * 6, timeout=0.2, in_flight=2))  # type: ignore[arg-type, list-item]
    assert sorted(answers) == list(range(6)) and answers[3] is None
    assert grid.most <= 2


def test_nothing_runs_far_ahead_of_a_straggler_and_no_message_expires_in_the_queue() -> None:
    """Message 0 never answers: of 100, only those within four windows of it are out before it is
    given up."""

    class Straggling:
        def __init__(self) -> None:
            self.pushed: list[int] = []
            self.at_timeout = 0

        def push_messages(self, messages: list[int]) -> list[str]:
            self.pushed += messages
            return [str(messages[0])]

        def pull_messages(self, identifiers: list[str]) -> list[Any]:
            from types import SimpleNamespace

            return [
                SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=i))
                for i in identifiers
                if i != "0"
            ]

    grid = Straggling()
    for index, reply in exchange(grid, list(range(100)), timeout=0.2, in_flight=3):  # type: ignore[arg-type]
        if reply is None:
            assert index == 0 and max(grid.pushed) < 4 * 3
    assert len(grid.pushed) == 100
    assert lifetime(600.0, 100, 32) == 4 * 600.0 and lifetime(600.0, 1, 32) == 600.0


def test_spread_is_balanced_and_respects_hosts() -> None:
    anyone = [Node(10, 0, None), Node(11, 1, None), Node(12, 2, None)]
    shares = spread(list(range(10)), anyone)
    assert [len(clients) for _, clients in shares] == [3, 3, 4]
    assert sorted(client for _, clients in shares for client in clients) == list(range(10))
    deployed = [Node(1, 0, frozenset({0, 5})), Node(2, 1, frozenset({1}))]
    assert [(node.node_id, clients) for node, clients in spread([0, 1, 5, 7], deployed)] == [
        (1, [0, 5]),
        (2, [1]),
    ]


def test_two_nodes_that_claim_the_same_are_not_both_asked() -> None:
    nodes = [
        Node(1, 0, frozenset({0, 1})),
        Node(2, 1, frozenset({1, 2})),
        Node(3, 2, frozenset({3})),
        Node(4, 2, None),
    ]
    reasons: list[str] = []
    assert [node.node_id for node in without_doubles(nodes, reasons)] == [1, 3]
    assert "node 2" in reasons[0] and "clients [1]" in reasons[0] and "partition 2" in reasons[1]


def test_metrics_in_a_private_sum_are_means_over_clients_not_over_weights(
    setting: Callable[[], Any],
) -> None:
    """Two clients of half the largest weight (5 of 10 examples): the weights add up to 1, the
    losses are of two."""
    strategy, _ = setting()
    size = strategy.federation.model.numel()
    strategy.release = SecAgg(PrivacySettings(metrics='{"loss": [0, 2]}', max_examples=10), size)
    loss = Scalar(torch.tensor([0.5, 1.5]), Bounds(0.0, 2.0))
    contribution = Contribution(
        torch.zeros(2, size), torch.tensor([5.0, 5.0]), {"metric.loss": loss}
    )
    public, report = strategy.release.open(2, 2.0, 2, 2), RoundReport(1, [0, 1])
    total = strategy.release.close(strategy.release.encode(contribution, public), public)
    strategy._close([Sum(total, public)], report)
    assert report.means["loss"] == pytest.approx((0.5 + 1.5) / 2, abs=1e-5)
