"""The contract every rule keeps, its reductions, and SCAFFOLD's algebra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from kit import LEARNER, Rounds, distance

from privacy.releases.plain import Plain
from privacy.releases.secagg import SecAgg
from privacy.settings import PrivacySettings
from strategies.cohort import Assignment
from strategies.rules import RULES
from strategies.rules.fedacg import FedACG
from strategies.rules.fednova import FedNova
from strategies.rules.fedprox import FedProx
from strategies.rules.scaffold import Scaffold
from strategies.settings import (
    FedACGSettings,
    FedExPSettings,
    FedNovaSettings,
    FedProxSettings,
    RuleSettings,
    ScaffoldSettings,
)
from strategies.types import Aggregate, Broadcast, LocalResult
from tasks.errors import InputError
from tasks.registry import load

TARGETS = [[1.0, 0.0, 2.0], [-3.0, 1.0, 0.5], [0.0, 4.0, -1.0], [2.0, 2.0, 2.0]]


def test_fedprox_with_mu_zero_is_fedavg(quadratic: Callable[..., Any]) -> None:
    rules = RuleSettings(server_clip=0, fedprox=FedProxSettings(mu=0.0))
    prox = Rounds(quadratic(TARGETS), "fedprox", clients=4, rules=rules).go(3)
    assert torch.equal(prox, Rounds(quadratic(TARGETS), "fedavg", clients=4).go(3))


def test_fedprox_holds_clients_back(quadratic: Callable[..., Any]) -> None:
    rules = RuleSettings(server_clip=0, fedprox=FedProxSettings(mu=5.0))
    near = Rounds(quadratic(TARGETS), "fedprox", clients=4, rules=rules).go()
    assert near.norm() < 0.95 * Rounds(quadratic(TARGETS), "fedavg", clients=4).go().norm()


def test_fedavg_weights_by_examples(quadratic: Callable[..., Any]) -> None:
    """Two clients, 3 and 1 examples: the mean update is (3 d_1 + d_2) / 4, redone here from each
    alone."""
    both = quadratic([[4.0], [-4.0]], [3, 1])
    alone = [Rounds(both, clients=2, per_round=1) for _ in range(2)]
    deltas = []
    for client, game in enumerate(alone):
        result = game.trainer.run(game.federation.broadcast(1), _order([client]))
        assert result.payload is not None
        deltas.append(result.payload.vector / result.payload.weight)
    torch.testing.assert_close(Rounds(both, clients=2).go(), (3 * deltas[0] + deltas[1]) / 4)


def test_one_step_of_everyone_is_centralised_descent(quadratic: Callable[..., Any]) -> None:
    """FedAvg, one outer step: the mean of the gradients at the same point."""
    settings = LEARNER.model_copy(update={"outer_steps": 1, "outer_clip": 0.0})
    task = quadratic(TARGETS)
    model = Rounds(task, clients=4, settings=settings).go()
    episode = task.episodes(
        task.points, [("batches", 0, 1, c) for c in range(4)], 1, 0, 4, torch.device("cpu")
    )(0)
    gradient = task.derivatives.gradient(torch.zeros(4, 3, dtype=torch.float64), episode.query)[1]
    torch.testing.assert_close(model, -0.1 * gradient.mean(0))


def _order(clients: list[int]) -> Any:
    from strategies.cohort import Assignment

    return Assignment(1, 0, tuple(clients), tuple(0 for _ in clients))


class TestScaffold:
    def test_first_round_equals_uniform_fedavg(self, quadratic: Callable[..., Any]) -> None:
        scaffold = Rounds(quadratic(TARGETS, [5, 1, 2, 1]), "scaffold", clients=4).go()
        assert torch.equal(scaffold, Rounds(quadratic(TARGETS), "fedavg", clients=4).go())

    def test_differs_from_fedavg_on_heterogeneous_clients(
        self, quadratic: Callable[..., Any]
    ) -> None:
        """The published release of FedMeNF has a SCAFFOLD that is bit-identical to FedAvg."""
        scaffold = Rounds(quadratic(TARGETS), "scaffold", clients=4).go(3)
        assert distance(scaffold, Rounds(quadratic(TARGETS), "fedavg", clients=4).go(3)) > 1e-3

    @pytest.mark.parametrize("per_round", [0, 2])
    def test_server_variate_is_the_mean_of_the_clients(
        self, quadratic: Callable[..., Any], per_round: int
    ) -> None:
        game = Rounds(quadratic(TARGETS), "scaffold", clients=4, per_round=per_round)
        game.go(5)
        accepted = game.federation.accepted
        variates = [game.store.versions[c, accepted[c]]["control"] for c in accepted]
        torch.testing.assert_close(
            game.federation.state["control"], torch.stack(variates).sum(0) / 4
        )

    @pytest.mark.falls_back
    def test_a_lost_reply_does_not_break_the_invariant(self, quadratic: Callable[..., Any]) -> None:
        """The node trained and saved its new variate, but the server never counted it."""
        game = Rounds(quadratic(TARGETS), "scaffold", clients=4, failing=True)
        game.go(2)
        game.trainer.run(game.federation.broadcast(3), _lost(game, [0, 1]))
        game.trainer.task.poison = {0: "raise", 1: "raise"}  # type: ignore[attr-defined]
        game.go(1)
        accepted = game.federation.accepted
        assert accepted[0] == 2 and accepted[2] == 3
        variates = [game.store.versions[c, accepted[c]]["control"] for c in range(4)]
        torch.testing.assert_close(game.federation.state["control"], torch.stack(variates).mean(0))

    def test_new_variate_is_the_mean_of_the_steps_taken(
        self, quadratic: Callable[..., Any]
    ) -> None:
        """c_i+ = -delta / (E lambda) + c_i - c: with c = c_i = 0 the average of the gradients
        applied."""
        game = Rounds(quadratic(TARGETS), "scaffold", clients=4)
        game.go()
        payload = game.results[0].payload
        assert payload is not None
        delta_sum, change_sum = payload.vector.chunk(2)
        torch.testing.assert_close(
            change_sum, -delta_sum / (LEARNER.outer_steps * LEARNER.outer_rate)
        )

    def test_a_step_and_a_new_variate_by_hand(self) -> None:
        """g = 5, c_i = 2, c = 1: the step is 5 - 2 + 1. Moved by -8 in 4 steps of 0.5: c_i+ = 2 - 1
        + 8 / 2."""
        rule = Scaffold(RuleSettings(server_clip=0, scaffold=ScaffoldSettings(scale=2.0)))
        received, memory = (
            rule.broadcast(torch.zeros(1), {"control": torch.ones(1)}, 3),
            {"control": torch.tensor([[2.0]])},
        )
        assert (
            rule.correct(torch.tensor([[5.0]]), torch.zeros(1, 1), received, memory).item() == 4.0
        )
        result = LocalResult(torch.tensor([[-8.0]]), torch.tensor([4.0]), 0.5, torch.ones(1))
        contribution, renewed = rule.contribute(result, received, memory)
        assert renewed["control"].item() == 5.0  # a change of 3, sent in units of the scale
        assert contribution.vector.tolist() == [[-8.0, 6.0]]
        aggregate = Aggregate(torch.tensor([-8.0, 6.0]), 1.0, {}, 1)
        model, state = rule.apply(torch.zeros(1), {"control": torch.ones(1)}, aggregate, 4)
        assert model.item() == -8.0 and state["control"].item() == 1.0 + 3.0 / 4
        half = rule.after_clip(memory, renewed, torch.tensor([[0.5]]))
        assert half["control"].item() == 2.0 + 1.5  # a clip let through half of the change

    def test_the_invariant_survives_a_clip(self, quadratic: Callable[..., Any]) -> None:
        """Every update is clipped, and clients remember what was let through: c = mean c_i up to
        the quantum."""
        game = Rounds(quadratic(TARGETS), "scaffold", clients=4, rules=SCALED)
        release = SecAgg(PrivacySettings(clip_norm=0.05), game.rule.size(3))
        game.trainer.release = release
        for number in (1, 2, 3):
            public = release.open(4, 4, 4, 3)
            result = game.trainer.run(
                game.federation.broadcast(number),
                Assignment(number, 0, (0, 1, 2, 3), (number - 1,) * 4, public),
            )
            assert result.payload is not None and not result.failures
            result.payload.count = 4
            game.federation.apply(release.decode(result.payload, public), [0, 1, 2, 3], number)
        variates = torch.stack([game.store.versions[client, 3]["control"] for client in range(4)])
        torch.testing.assert_close(
            game.federation.state["control"], variates.mean(0), atol=1e-6, rtol=1e-5
        )
        assert (
            float(variates.norm(dim=1).min()) > 0.01 and float(game.federation.model.norm()) > 0.03
        )

    def test_a_clip_takes_as_much_of_the_model_as_of_the_variates(
        self, quadratic: Callable[..., Any]
    ) -> None:
        """In the first round both halves of what is sent are alike in length."""
        game = Rounds(quadratic(TARGETS), "scaffold", clients=4, rules=SCALED)
        game.go()
        payload = game.results[0].payload
        assert payload is not None
        delta, change = payload.vector.chunk(2)
        assert float(delta.norm()) == pytest.approx(float(change.norm()), rel=1e-5)


SCALED = RuleSettings(
    server_clip=0, scaffold=ScaffoldSettings(scale=LEARNER.outer_steps * LEARNER.outer_rate)
)


def _lost(game: Rounds, clients: list[int]) -> Any:
    from strategies.cohort import Assignment

    return Assignment(3, 0, tuple(clients), tuple(game.federation.accepted[c] for c in clients))


class TestFedNova:
    def test_with_equal_steps_it_is_fedavg(self, quadratic: Callable[..., Any]) -> None:
        nova = Rounds(quadratic(TARGETS, [5, 1, 2, 1]), "fednova", clients=4).go(3)
        torch.testing.assert_close(
            nova, Rounds(quadratic(TARGETS, [5, 1, 2, 1]), "fedavg", clients=4).go(3)
        )

    def test_more_steps_do_not_pull_harder(self, quadratic: Callable[..., Any]) -> None:
        """By hand: two clients of weights 1 and 3 take tau = 3 and 9 steps; the update is tau_eff
        times the mean of delta / tau, with tau_eff = (1 * 3 + 3 * 9) / 4 = 7.5."""
        settings = LEARNER.model_copy(update={"steps_by_examples": True})
        task = quadratic([[4.0], [-4.0]], [1, 3])
        nova = Rounds(task, "fednova", clients=2, settings=settings)
        deltas = [self.alone(task, settings, client) for client in range(2)]
        expected = 7.5 * (1 * deltas[0] / 3 + 3 * deltas[1] / 9) / 4
        torch.testing.assert_close(nova.go(), expected)
        assert distance(expected, Rounds(task, "fedavg", clients=2, settings=settings).go()) > 1e-3

    @staticmethod
    def alone(task: Any, settings: Any, client: int) -> torch.Tensor:
        """What one client does when nobody else trains (its draws do not depend on who else
        does)."""
        game = Rounds(task, "fedavg", clients=2, settings=settings)
        payload = game.trainer.run(game.federation.broadcast(1), _order([client])).payload
        assert payload is not None
        return payload.vector / payload.weight


class TestFedExP:
    def rule(self, epsilon: float = 0.0) -> Any:
        return load("rule", "fedexp", RULES)(
            RuleSettings(server_clip=0, fedexp=FedExPSettings(epsilon=epsilon))
        )

    def aggregate(self, updates: torch.Tensor) -> Any:
        rule, count = self.rule(), len(updates)
        result = LocalResult(updates, torch.ones(count), 1.0, torch.ones(count))
        contribution, _ = rule.contribute(
            result, Broadcast(torch.zeros(updates.shape[1]), {}, 1), {}
        )
        return Plain().decode(Plain().encode(contribution, {}), {})

    @pytest.mark.parametrize("count", [2, 5, 16])
    def test_extrapolation_on_orthogonal_updates(self, count: int) -> None:
        """M orthonormal updates: sum of squares M, squared mean 1/M, so eta = M / (2 M / M) = M / 2
        (at least 1).

        The published release divides once more and gets 1: there FedExP is FedAvg."""
        eta = self.rule().extrapolation(self.aggregate(torch.eye(count, 20)))
        assert eta == pytest.approx(max(1.0, count / 2))

    def test_epsilon_as_published(self) -> None:
        """5 orthonormal updates with eps = 1e-3: 5 / (2 * 5 * (1/5 + 1e-3)) = 2.4876."""
        assert self.rule(1e-3).extrapolation(self.aggregate(torch.eye(5, 9))) == pytest.approx(
            2.48756, abs=1e-5
        )

    def test_equal_updates_are_not_extrapolated(self, quadratic: Callable[..., Any]) -> None:
        assert self.rule().extrapolation(self.aggregate(torch.ones(4, 3))) == 1.0
        one = Rounds(quadratic(TARGETS[:1]), "fedexp", clients=1).go(3)
        assert torch.equal(one, Rounds(quadratic(TARGETS[:1]), "fedavg", clients=1).go(3))

    def test_what_is_judged_is_the_mean_of_the_last_two(
        self, quadratic: Callable[..., Any]
    ) -> None:
        game = Rounds(quadratic(TARGETS), "fedexp", clients=4)
        before, after = game.go(2).clone(), game.go(1)
        torch.testing.assert_close(game.federation.result, (before + after) / 2)


class TestFedACG:
    def rules(self, momentum: float, beta: float) -> RuleSettings:
        return RuleSettings(server_clip=0, fedacg=FedACGSettings(momentum=momentum, beta=beta))

    def test_without_momentum_and_pull_it_is_fedavg(self, quadratic: Callable[..., Any]) -> None:
        plain = Rounds(quadratic(TARGETS), "fedacg", clients=4, rules=self.rules(0.0, 0.0)).go(3)
        assert torch.equal(plain, Rounds(quadratic(TARGETS), "fedavg", clients=4).go(3))

    def test_the_model_is_the_mean_of_the_clients_models(
        self, quadratic: Callable[..., Any]
    ) -> None:
        """w + m = w + lambda m + mean(delta): the clients' models started at w + lambda m."""
        game = Rounds(quadratic(TARGETS), "fedacg", clients=4, rules=self.rules(0.85, 0.01))
        game.go(2)
        sent = game.federation.broadcast(3).model
        model = game.go(1)
        payload = game.results[-1].payload
        assert payload is not None and distance(sent, game.federation.model) > 1e-3
        torch.testing.assert_close(model, sent + payload.vector / payload.weight)

    def test_a_step_and_a_round_by_hand(self) -> None:
        """Sent at w + 0.5 m = 4; at 6 the pull is 0.25 * (6 - 4). A mean of 3 gives m = 0.5 * 2 +
        3, w = 3 + 4."""
        rule, state = FedACG(self.rules(0.5, 0.25)), {"momentum": torch.tensor([2.0])}
        received = rule.broadcast(torch.tensor([3.0]), state, 2)
        assert received.model.item() == 4.0
        assert (
            rule.correct(torch.tensor([[1.0]]), torch.tensor([[6.0]]), received, {}).item() == 1.5
        )
        model, after = rule.apply(
            torch.tensor([3.0]), state, Aggregate(torch.tensor([3.0]), 1.0, {}, 1), 4
        )
        assert (model.item(), after["momentum"].item()) == (7.0, 4.0)

    def test_the_clip_bounds_the_mean_and_not_the_momentum(self) -> None:
        """By hand, C = 1: m = 0.5 * 2 + clip(3) = 2 (cut together: clip(0.5 * 2 + 3) = 1), w = 3 +
        2."""
        rule = FedACG(self.rules(0.5, 0.25).model_copy(update={"server_clip": 1.0}))
        state, aggregate = (
            {"momentum": torch.tensor([2.0])},
            Aggregate(torch.tensor([3.0]), 1.0, {}, 1),
        )
        model, after = rule.apply(torch.tensor([3.0]), state, aggregate, 4)
        assert (model.item(), after["momentum"].item()) == (5.0, 2.0)

    def test_momentum_carries_on(self, quadratic: Callable[..., Any]) -> None:
        moved = [
            Rounds(quadratic(TARGETS), "fedacg", clients=4, rules=self.rules(m, 0.0)).go(4)
            for m in (0.0, 0.85)
        ]
        assert moved[1].norm() > 1.1 * moved[0].norm()


def test_fedprox_pulls_towards_what_was_sent() -> None:
    rule = FedProx(RuleSettings(fedprox=FedProxSettings(mu=0.5)))
    received = rule.broadcast(torch.tensor([4.0]), {}, 1)
    assert rule.correct(torch.tensor([[1.0]]), torch.tensor([[6.0]]), received, {}).item() == 2.0


def test_more_steps_than_a_secure_sum_was_told_of_are_refused_by_their_key() -> None:
    rule = FedNova(RuleSettings(fednova=FedNovaSettings(max_steps=10.0)))
    result = LocalResult(torch.ones(1, 3), torch.tensor([11.0]), 0.1, torch.ones(1))
    with pytest.raises(InputError) as caught:
        rule.contribute(result, rule.broadcast(torch.zeros(3), {}, 1), {})
    assert caught.value.key == "rules.fednova.max-steps"


def test_steps_by_examples_do_not_depend_on_packing(quadratic: Callable[..., Any]) -> None:
    settings = LEARNER.model_copy(update={"steps_by_examples": True})
    task = quadratic(TARGETS, [5, 1, 2, 1])
    together = Rounds(task, clients=4, settings=settings).go(2)
    assert (
        distance(together, Rounds(task, clients=4, settings=settings, chunk=1).go(2, nodes=4))
        < 1e-12
    )
    assert distance(together, Rounds(task, clients=4).go(2)) > 1e-3


@pytest.mark.parametrize("name", ["fednova", "fedexp"])
def test_scalars_inside_a_secure_sum_give_the_clear_result(name: str) -> None:
    """Packed, clipped at a norm nothing reaches, summed on the lattice and unpacked: equal up to
    the quantum."""
    rule = load("rule", name, RULES)(RuleSettings(server_clip=0))
    draw = torch.Generator().manual_seed(0)
    deltas, steps = (
        torch.randn(6, 5, generator=draw) / 10,
        torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    )
    result = LocalResult(deltas, steps, 0.1, torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0, 3.0]))
    contribution, _ = rule.contribute(result, Broadcast(torch.zeros(5), {}, 1), {})
    clear = Plain().decode(Plain().encode(contribution, {}), {})
    release = SecAgg(PrivacySettings(clip_norm=2.0, max_examples=3), 5, rule.scalars)
    public = release.open(7, 7.0, 7, 7)
    payload = release.encode(contribution, public)
    lost, _ = rule.contribute(
        replace(result, delta=deltas * torch.nan), Broadcast(torch.zeros(5), {}, 1), {}
    )
    payload.add(
        release.encode(lost, public)
    )  # whose training failed abstains: it adds nothing to any block
    closed = release.close(payload, public)
    assert closed is not None
    masked = release.decode(closed, public)
    state = rule.init(torch.zeros(5))
    expected, found = (rule.apply(torch.zeros(5), state, sums, 6)[0] for sums in (clear, masked))
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-5)
