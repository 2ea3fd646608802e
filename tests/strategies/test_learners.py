"""Learners: exact gradients (also while a clip is active), reductions, and the bounded
objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from privacy.meta_nsgd import MetaNsgd
from strategies.local.erm import Erm
from strategies.local.meta import (
    FedMeNF,
    FedMeNFAdaptive,
    FedMeNFFirstOrder,
    FedMeNFPublished,
    FedMeNFUnbounded,
    Fomaml,
    Maml,
    Meta,
)
from strategies.local.reptile import Reptile
from strategies.settings import FedMeNFSettings, LearnerSettings, MetaNsgdSettings
from tasks.derivatives import Autograd
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.types import Batch, Episode

FIELD = Siren(2, 2, 7, 2)
INACTIVE, ACTIVE = 1e6, 0.05  # gradient norms of the problem below are about one


def problem(clients: int = 2, inner_steps: int = 3) -> tuple[Tensor, Episode]:
    draw = torch.Generator().manual_seed(5)
    params = torch.stack([FIELD.init(draw) for _ in range(clients)]).double()

    def batch() -> Batch:
        inputs = torch.rand(clients, 9, 2, generator=draw, dtype=torch.float64) * 2 - 1
        return Batch(inputs, torch.rand(clients, 9, 2, generator=draw, dtype=torch.float64))

    return params, Episode([batch() for _ in range(inner_steps)], batch())


def objective(learner: Meta, params: Tensor, episode: Episode) -> Tensor:
    """L_pp as a function of w alone, from the definition: inner steps, clip, query, minus the
    capped shared loss."""
    point = params
    for batch in episode.support:
        _, gradient = Autograd(FIELD.loss).gradient(point, batch)
        norm = gradient.norm(dim=1, keepdim=True)
        point = point - learner.inner_rate * gradient * torch.minimum(
            torch.ones_like(norm), learner.inner_clip / norm
        )
    shared = FIELD.loss(params, episode.query)
    if learner.cap:
        shared = shared.clamp(max=learner.cap)
    return FIELD.loss(point, episode.query) - learner.gamma * shared


@pytest.mark.parametrize("clip", [INACTIVE, ACTIVE], ids=["clip inactive", "clip active"])
@pytest.mark.parametrize(("gamma", "cap"), [(0.0, 0.0), (0.75, 0.0), (1.0, 10.0), (0.75, 1e-6)])
def test_second_order_gradient_equals_finite_differences(
    clip: float, gamma: float, cap: float
) -> None:
    params, episode = problem()
    learner = Meta(3, 0.05, clip, 1.0, order=2, gamma=gamma, cap=cap)
    gradient = learner.step(SirenDerivatives(FIELD), params, episode).gradient
    draw = torch.Generator().manual_seed(1)
    for _ in range(4):
        direction = torch.randn(params.shape, generator=draw, dtype=torch.float64)
        direction /= direction.norm(dim=1, keepdim=True)
        step = 1e-5
        forward = objective(learner, params + step * direction, episode)
        backward = objective(learner, params - step * direction, episode)
        torch.testing.assert_close(
            (forward - backward) / (2 * step), (gradient * direction).sum(-1), rtol=2e-5, atol=1e-8
        )


def test_of_a_clipped_step_only_what_lies_across_the_gradient_is_differentiated() -> None:
    """By hand, with L(w) = w' H w / 2, H = diag(1, 3), w = (3, 4/3), rate 1/2 and clip C = 1.

    g = H w = (3, 4) of length 5, so c = 1/5 and phi_1 = w - (0.3, 0.4) = (2.7, 14/15), where the
    query's gradient is v = H phi_1 = (2.7, 2.8). Along g/5 = (0.6, 0.8) it is 3.86, and across
    v - 3.86 (0.6, 0.8) = (0.384, -0.288): v_0 = v - 1/2 * 1/5 * H (0.384, -0.288).
    With clip C = 4, c = 4/5 and phi_1 = w - (1.2, 1.6) = (1.8, -4/15), v = (1.8, -0.8), 0.44 along
    and (1.536, -1.152) across.
    """
    stiffness = torch.tensor([1.0, 3.0], dtype=torch.float64)

    def quadratic(params: Tensor, batch: Batch) -> Tensor:
        return (params.square() * stiffness).sum(-1) / 2

    nothing = torch.zeros(1, 1, 1, dtype=torch.float64)
    batch = Batch(nothing, nothing)
    start = torch.tensor([[3.0, 4 / 3]], dtype=torch.float64)
    for clip, expected in (
        (1.0, [2.7 - 0.1 * 0.384, 2.8 + 0.1 * 3 * 0.288]),
        (4.0, [1.8 - 0.4 * 1.536, -0.8 + 0.4 * 3 * 1.152]),
        (5.0, [1.5 - 0.5 * 1.5, -2.0 + 0.5 * 3 * 2.0]),  # as long as the clip: nothing projected
        (0.0, [1.5 - 0.5 * 1.5, -2.0 + 0.5 * 3 * 2.0]),  # no clip
    ):
        step = Meta(1, 0.5, clip, 1.0).step(Autograd(quadratic), start, Episode([batch], batch))
        torch.testing.assert_close(step.gradient, torch.tensor([expected], dtype=torch.float64))


def test_dropping_the_clip_from_the_graph_would_be_noticed() -> None:
    """The published release differentiates as if the clip were not there: a negative control for
    the test above."""
    params, episode = problem()
    learner = Meta(3, 0.05, ACTIVE, 1.0)
    exact = learner.step(SirenDerivatives(FIELD), params, episode).gradient
    detached = params.requires_grad_()
    point = detached
    for batch in episode.support:
        (gradient,) = torch.autograd.grad(FIELD.loss(point, batch).sum(), point, create_graph=True)
        scale = torch.minimum(
            torch.ones(2, 1, dtype=torch.float64),
            ACTIVE / gradient.detach().norm(dim=1, keepdim=True),
        )
        gradient.detach().mul_(scale)  # values are scaled, the graph does not know
        point = point - learner.inner_rate * gradient
    (wrong,) = torch.autograd.grad(FIELD.loss(point, episode.query).sum(), detached)
    error = (wrong - exact).norm() / exact.norm()
    assert error > 0.01, f"the release's gradient is off by {error:.1%}"


@pytest.mark.parametrize("clip", [INACTIVE, ACTIVE], ids=["clip inactive", "clip active"])
@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.75, 1.0])
def test_the_stopped_clip_is_the_releases(gamma: float, clip: float) -> None:
    """A graph built as the authors' release does: gradients with a graph, an in-place clip of a
    detached alias (values are scaled, the graph does not know), one backward pass."""
    params, episode = problem()
    learner = Meta(3, 0.05, clip, 1.0, gamma=gamma, stopped=True)
    ours = learner.step(SirenDerivatives(FIELD), params, episode)
    leaf = params.clone().requires_grad_()
    point = leaf
    for batch in episode.support:
        (gradient,) = torch.autograd.grad(FIELD.loss(point, batch).sum(), point, create_graph=True)
        norm = gradient.detach().norm(dim=1, keepdim=True)
        alias = gradient.detach()
        alias.mul_(torch.minimum(torch.ones_like(norm), clip / norm))
        point = point - learner.inner_rate * gradient
    value = FIELD.loss(point, episode.query) - gamma * FIELD.loss(leaf, episode.query)
    (theirs,) = torch.autograd.grad(value.sum(), leaf)
    torch.testing.assert_close(ours.gradient, theirs, rtol=1e-5, atol=1e-10)
    torch.testing.assert_close(ours.objective, value.detach())
    exact = replace(learner, stopped=False).step(SirenDerivatives(FIELD), params, episode)
    same = torch.allclose(ours.gradient, exact.gradient, rtol=1e-9)
    assert same == (clip == INACTIVE)


def test_published_fedmenf_has_the_releases_clip_and_no_cap() -> None:
    own = FedMeNFPublished(SETTINGS)
    assert own.stopped and own.cap == 0 and own.gamma == 0.75
    assert own.outer_rate == SETTINGS.outer_rate
    assert FedMeNFPublished(FedMeNFPublished.at_rate(SETTINGS, 0.0007)).outer_rate == 0.0007
    stopped = SETTINGS.model_copy(update={"inner_clip_derivative": "stopped"})
    assert Maml(stopped).stopped and not Maml(SETTINGS).stopped


@pytest.mark.parametrize("clip", [INACTIVE, ACTIVE])
def test_hand_written_and_automatic_derivatives_give_the_same_step(clip: float) -> None:
    params, episode = problem()
    learner = Meta(3, 0.05, clip, 1.0, gamma=0.5)
    by_hand = learner.step(SirenDerivatives(FIELD), params, episode)
    automatic = learner.step(Autograd(FIELD.loss), params, episode)
    torch.testing.assert_close(by_hand.gradient, automatic.gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(by_hand.objective, automatic.objective)


SETTINGS = LearnerSettings(inner_steps=3, inner_rate=0.05, inner_clip=ACTIVE)


def test_fedmenf_with_gamma_zero_is_maml() -> None:
    params, episode = problem()
    none = SETTINGS.model_copy(update={"fedmenf": FedMeNFSettings(gamma=0.0)})
    ours = FedMeNF(none).step(SirenDerivatives(FIELD), params, episode).gradient
    assert torch.equal(ours, Maml(SETTINGS).step(SirenDerivatives(FIELD), params, episode).gradient)


@pytest.mark.parametrize("build", [Maml, Fomaml])
def test_meta_without_inner_steps_is_erm(build: Callable[[LearnerSettings], Meta]) -> None:
    params, episode = problem(inner_steps=0)
    meta = build(SETTINGS).step(SirenDerivatives(FIELD), params, episode).gradient
    assert torch.equal(meta, Erm(SETTINGS).step(SirenDerivatives(FIELD), params, episode).gradient)


def test_fomaml_is_the_query_gradient_at_the_adapted_field() -> None:
    params, episode = problem()
    derivatives, point = SirenDerivatives(FIELD), params
    for batch in episode.support:
        _, gradient = derivatives.gradient(point, batch)
        norm = gradient.norm(dim=1, keepdim=True)
        point = point - 0.05 * gradient * (ACTIVE / norm).clamp(max=1)
    expected = derivatives.gradient(point, episode.query)[1]
    torch.testing.assert_close(
        Fomaml(SETTINGS).step(derivatives, params, episode).gradient, expected
    )
    reptile = Reptile(SETTINGS).step(derivatives, params, episode).gradient
    torch.testing.assert_close(reptile, params - point)


def test_above_the_cap_the_bounded_variant_is_maml_and_below_it_is_unbounded() -> None:
    params, episode = problem()
    derivatives = SirenDerivatives(FIELD)
    shared = FIELD.loss(params, episode.query)
    low, high = float(shared.min()), float(shared.max())
    middle = (low + high) / 2
    assert low < middle < high, "one client must lie on either side of the cap"
    bounded, free, plain = (
        Maml(SETTINGS).varied(gamma=0.75, cap=middle), FedMeNFUnbounded(SETTINGS), Maml(SETTINGS),
    )  # fmt: skip
    steps = [
        learner.step(derivatives, params, episode).gradient for learner in (bounded, free, plain)
    ]
    above = int(shared.argmax())
    assert torch.equal(steps[0][above], steps[2][above])
    torch.testing.assert_close(steps[0][1 - above], steps[1][1 - above])
    result = bounded.step(derivatives, params, episode)
    assert float(result.objective[above]) == pytest.approx(
        float(result.metrics["loss"][above]) - 0.75 * middle
    )


def test_the_cap_is_held_against_the_shared_loss_and_not_the_adapted_one() -> None:
    """A cap between the two: the shared loss is above it, so nothing is subtracted from the
    gradient."""
    params, episode = problem(clients=1)
    derivatives = SirenDerivatives(FIELD)
    plain = Meta(3, 0.05, INACTIVE, 1.0).step(derivatives, params, episode)
    adapted, shared = float(plain.objective), float(FIELD.loss(params, episode.query))
    cap = (adapted + shared) / 2
    assert adapted < cap < shared
    bounded = Meta(3, 0.05, INACTIVE, 1.0, gamma=0.75, cap=cap).step(derivatives, params, episode)
    assert torch.equal(bounded.gradient, plain.gradient)
    assert float(bounded.objective) == pytest.approx(adapted - 0.75 * cap)


def test_first_order_change_of_the_shared_loss_is_damped_by_one_minus_gamma() -> None:
    """As the inner rate goes to zero, G_pp = (1 - gamma) grad L, so the shared loss falls by that
    share less."""
    params, episode = problem()
    episode = Episode([episode.query] * 3, episode.query)
    derivatives = SirenDerivatives(FIELD)
    gradient = derivatives.gradient(params, episode.query)[1]
    for gamma in (0.25, 0.75):
        step = Meta(3, 1e-9, INACTIVE, 1.0, gamma=gamma).step(derivatives, params, episode).gradient
        torch.testing.assert_close(step, (1 - gamma) * gradient, rtol=1e-4, atol=1e-8)


def test_a_linear_loss_has_no_curvature() -> None:
    """Closed form: with L(w) = <a, w> every inner step moves by a constant and the meta-gradient is
    a."""

    def linear(params: Tensor, batch: Batch) -> Tensor:
        return (params * batch.targets[:, 0]).sum(-1)

    a = torch.tensor([[[1.0, -2.0]]])
    batch = Batch(a, a)
    step = Meta(2, 0.1, INACTIVE, 1.0).step(
        Autograd(linear), torch.zeros(1, 2), Episode([batch, batch], batch)
    )
    torch.testing.assert_close(step.gradient, a[0])
    torch.testing.assert_close(step.objective, torch.tensor([-2 * 0.1 * 5.0]))  # <a, -0.2 a>


def test_budget_driven_gamma_follows_the_formula() -> None:
    """gamma = clip(1 - zeta / (T lambda_o |g|^2), 0, 1), anew for each client and step."""
    params, episode = problem()
    derivatives = SirenDerivatives(FIELD)
    square = derivatives.gradient(params, episode.query)[1].square().sum(1)
    zeta = 0.6 * float(square.mean()) * 100 * 0.01  # T = 100 steps of size 0.01
    learner = Meta(3, 0.05, ACTIVE, 0.01, zeta=zeta, total_steps=100)
    step = learner.step(derivatives, params, episode)
    expected = (1 - 0.6 * square.mean() / square).clamp(0, 1)
    torch.testing.assert_close(step.metrics["gamma"], expected)
    for client in range(2):
        fixed = Meta(3, 0.05, ACTIVE, 0.01, gamma=float(expected[client])).step(
            derivatives, params, episode
        )
        torch.testing.assert_close(step.gradient[client], fixed.gradient[client])


def test_the_adaptive_learner_takes_its_budget_from_the_settings() -> None:
    """zeta over T steps, and no cap: a step above one would go uncounted."""
    params, episode = problem()
    derivatives = SirenDerivatives(FIELD)
    square = float(derivatives.gradient(params, episode.query)[1].square().sum(1).mean())
    budget = FedMeNFSettings(zeta=0.5 * square * 40 * 0.02, total_steps=40.0, cap=1e-6, gamma=0.9)
    settings = SETTINGS.model_copy(update={"fedmenf": budget, "outer_rate": 0.02})
    found = FedMeNFAdaptive(settings).step(derivatives, params, episode)
    same = Meta(3, 0.05, ACTIVE, 0.02, zeta=budget.zeta, total_steps=40.0)
    torch.testing.assert_close(found.gradient, same.step(derivatives, params, episode).gradient)
    assert 0.2 < float(found.metrics["gamma"].mean()) < 0.8, "the budget must matter"


@pytest.mark.parametrize("build", [Maml, Fomaml, Reptile, Erm])
def test_every_learner_tells_its_loss(build: Callable[[LearnerSettings], Any]) -> None:
    """One number a client: of the query after adaptation, of the last support batch under Reptile,
    of the shared field under ERM."""
    params, episode = problem()
    step = build(SETTINGS).step(SirenDerivatives(FIELD), params, episode)
    point = params
    before = torch.empty(0)
    for batch in episode.support:
        before, gradient = SirenDerivatives(FIELD).gradient(point, batch)
        norm = gradient.norm(dim=1, keepdim=True)
        point = point - 0.05 * gradient * (ACTIVE / norm).clamp(max=1)
    expected = {
        Reptile: before,
        Erm: FIELD.loss(params, episode.query),
    }.get(build, FIELD.loss(point, episode.query))
    torch.testing.assert_close(step.metrics["loss"], expected)
    torch.testing.assert_close(step.objective, expected)


def test_first_order_fedmenf_subtracts_from_fomaml() -> None:
    params, episode = problem()
    derivatives = SirenDerivatives(FIELD)
    free = SETTINGS.model_copy(update={"fedmenf": FedMeNFSettings(gamma=0.75, cap=0.0)})
    expected = Fomaml(SETTINGS).step(derivatives, params, episode).gradient
    expected = expected - 0.75 * derivatives.gradient(params, episode.query)[1]
    torch.testing.assert_close(
        FedMeNFFirstOrder(free).step(derivatives, params, episode).gradient, expected
    )


class TestMetaNsgd:
    def learner(self, **changes: float) -> MetaNsgd:
        return MetaNsgd(SETTINGS.model_copy(update={"meta_nsgd": MetaNsgdSettings(**changes)}))

    def test_with_hardly_any_noise_and_no_pull_it_is_clipped_reptile(self) -> None:
        params, episode = problem()
        step = self.learner(noise_multiplier=1e-9, proximal=0.0, clip=0.05).step(
            SirenDerivatives(FIELD), params, episode
        )
        back = Reptile(SETTINGS).step(SirenDerivatives(FIELD), params, episode).gradient
        norm = back.norm(dim=1, keepdim=True)
        torch.testing.assert_close(
            step.gradient, back * (0.05 / norm).clamp(max=1), rtol=1e-6, atol=1e-7
        )

    def test_the_second_step_is_pulled_back_to_where_it_started(self) -> None:
        """K = 2 without clips: phi_2 = phi_1 - rate (grad L(phi_1) + 2 mu (phi_1 - w))."""
        params, episode = problem()
        episode = Episode(episode.support[:2], episode.query)
        settings = SETTINGS.model_copy(update={"inner_steps": 2, "inner_clip": 0.0})
        quiet = {"noise_multiplier": 1e-12, "clip": 100.0}
        rate, derivatives, found = settings.inner_rate, SirenDerivatives(FIELD), []
        for pull in (0.7, 0.0):
            own = settings.model_copy(
                update={"meta_nsgd": MetaNsgdSettings(proximal=pull, **quiet)}
            )
            found.append(MetaNsgd(own).step(derivatives, params, episode).gradient)
            point = params
            for batch in episode.support:
                point = point - rate * (
                    derivatives.gradient(point, batch)[1] + 2 * pull * (point - params)
                )
            torch.testing.assert_close(found[-1], params - point, atol=1e-8, rtol=1e-5)
        assert not torch.allclose(*found, atol=1e-6)

    def test_the_noise_has_the_stated_size_and_is_fresh_for_every_client_and_step(self) -> None:
        """Deviation C sigma a number; mean square over the rows within 5 standard errors of it."""
        field = Siren(2, 2, 32, 2)
        params = field.init(torch.Generator().manual_seed(0)).double().expand(4, -1)
        batch = Batch(
            torch.zeros(4, 3, 2, dtype=torch.float64), torch.zeros(4, 3, 2, dtype=torch.float64)
        )
        learner, quiet = (
            self.learner(clip=0.5, noise_multiplier=2.0),
            self.learner(noise_multiplier=1e-12),
        )
        episode = Episode([batch], batch)
        signal = quiet.step(SirenDerivatives(field), params, episode).gradient
        draws = [
            learner.step(SirenDerivatives(field), params, episode).gradient - signal
            for _ in range(2)
        ]
        noise = torch.cat(draws)
        assert float(noise.square().mean()) == pytest.approx(
            1.0, abs=5 * (2 / noise.numel()) ** 0.5
        )
        assert float(torch.corrcoef(noise).triu(1).abs().max()) < 6 / params.shape[1] ** 0.5

    def test_it_states_no_epsilon(self) -> None:
        """Its noise is floating-point: see the class."""
        assert not [name for name in dir(self.learner()) if "epsilon" in name]
