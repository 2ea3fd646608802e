r"""Meta-learners through K inner steps: MAML, FOMAML and FedMeNF are one class with (order, gamma,
cap).

*Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*, C. Finn, P. Abbeel, S. Levine,
ICML 2017, https://arxiv.org/abs/1703.03400 (MAML, and FOMAML in its section 5.2).

*Privacy-Preserving Federated Meta-Learning for Neural Fields*, J. Yun, M. Hong, G. Kim, ICCV 2025,
https://arxiv.org/abs/2508.06301 (FedMeNF).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.settings import LearnerSettings
from strategies.types import Step
from tasks.errors import InputError
from tasks.params import clip_factor, norms
from tasks.types import Derivatives, Episode


@dataclass(frozen=True)
class Meta:
    r"""Gradient of the (privacy-preserving) meta-objective at the current local meta-learner w.

    .. math::
        \phi_0 = w, \quad \phi_{k+1} = \phi_k - \lambda\, c_k g_k, \quad
        g_k = \nabla L(\phi_k, B_k), \quad c_k = \frac{C}{\max(C, \lVert g_k \rVert)}

    .. math:: L_{pp}(w) = L(\phi_K, B_Q) - \gamma \min(L(w, B_Q), \tau)

    ``order = 2`` differentiates through the inner steps, clip included: with :math:`v_K = \nabla
    L(\phi_K, B_Q)`

    .. math:: v_k = v_{k+1} - \lambda\, H_k u_k, \qquad
        u_k = c_k \big(v_{k+1} - [c_k < 1]\, \hat g_k \hat g_k^\top v_{k+1}\big), \quad
        \hat g_k = g_k / \lVert g_k \rVert

    so each inner step costs one Hessian-vector product at the point it started from, and no graph
    is kept. (The authors' release scales a detached alias of :math:`g_k`, which drops :math:`c_k`
    and the projection from this recursion; where the clip acts its steps differ from ours, and its
    unbounded variant does not collapse as ours can.) ``order = 1`` takes :math:`v_0 = v_K`
    (FOMAML). ``gamma = 0`` is MAML. ``cap`` is :math:`\tau`; 0 means unbounded: the objective has
    no lower limit, and with this exact derivative of the clip, once :math:`L(w)` can grow faster
    than K inner steps undo, the shared field leaves the data range. Above the cap the subtracted
    term has no gradient.

    ``zeta > 0`` lets a budget drive gamma instead, anew in every step: so that T outer steps of a
    client may change its shared loss by :math:`\zeta` to first order, :math:`|\Delta L| \approx
    \lambda_o (1 - \gamma) \lVert g \rVert^2`,

    .. math:: \gamma(\zeta) = \mathrm{clip}\Big(1 - \frac{\zeta}{T \lambda_o \lVert g\rVert^2},\ 0,\ 1\Big), \qquad
        g = \nabla L(w, B_Q), \quad T = \frac{R\,E\,M}{N}

    (the paper's :math:`\zeta` is a budget of loss, not of differential privacy).
    """

    inner_steps: int
    inner_rate: float
    inner_clip: float
    outer_rate: float
    order: int = 2
    gamma: float = 0.0
    cap: float = 0.0
    zeta: float = 0.0
    total_steps: float = 0.0

    def __post_init__(self) -> None:
        if self.zeta and self.total_steps <= 0:
            raise InputError(
                "learner.fedmenf.total-steps", self.total_steps, "a budget is spread over a known number of steps",
                "give the outer steps a client takes in the whole run",
            )  # fmt: skip

    @classmethod
    def of(
        cls,
        settings: LearnerSettings,
        order: int,
        gamma: float = 0.0,
        cap: float = 0.0,
        **more: float,
    ) -> Meta:
        """The learner with the shared inner and outer loop settings."""
        return cls(
            settings.inner_steps, settings.inner_rate, settings.inner_clip, settings.outer_rate, order, gamma, cap,
            **more,
        )  # fmt: skip

    def step(self, derivatives: Derivatives, params: Tensor, episode: Episode) -> Step:
        point, back = params, list[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]()
        for batch in episode.support:
            if self.order == 2:
                _, gradient, hvp = derivatives.linearise(point, batch)
            else:
                _, gradient = derivatives.gradient(point, batch)
            factor = clip_factor(norms(gradient), self.inner_clip)
            point = torch.addcmul(point, factor, gradient, value=-self.inner_rate)
            if self.order == 2:
                back.append((gradient, factor, hvp))

        subtracting = bool(self.gamma or self.zeta)
        at, query = point, episode.query
        if subtracting:  # both losses of the objective in one computation
            at, query = (
                torch.cat([point, params]),
                type(query)(*(torch.cat([part, part]) for part in query)),
            )
        losses, gradients = derivatives.gradient(at, query)
        adapted, meta_gradient = losses[: len(params)], gradients[: len(params)]
        along = self._along([factor for _, factor, _ in back])
        for (gradient, factor, hvp), share in zip(reversed(back), reversed(along), strict=True):
            product = hvp(self._across(gradient, share, meta_gradient))
            meta_gradient = torch.addcmul(meta_gradient, factor, product, value=-self.inner_rate)
        if not subtracting:
            return Step(meta_gradient, adapted, {"loss": adapted})
        return self._privacy_preserving(
            meta_gradient, adapted, losses[len(params) :], gradients[len(params) :]
        )

    def _along(self, factors: list[Tensor]) -> Sequence[Tensor]:
        """``[c < 1] c^2 / C^2`` of each inner step ``[C, 1]``: where its clip is active, 1 over its
        squared norm."""
        if not factors:
            return []
        every = torch.stack(factors)
        limit = self.inner_clip or 1.0
        return every.square().mul_(every < 1).mul_(1 / limit**2).unbind()

    def _across(self, gradient: Tensor, share: Tensor, vector: Tensor) -> Tensor:
        """u / c ``[C, P]``: a clipped gradient keeps its length, so of ``vector`` only what is
        across it counts."""
        if not self.inner_clip:
            return vector
        along = torch.bmm(gradient[:, None], vector[:, :, None])[:, :, 0] * share
        return torch.addcmul(vector, along, gradient, value=-1)

    def _privacy_preserving(
        self, gradient: Tensor, adapted: Tensor, shared: Tensor, shared_gradient: Tensor
    ) -> Step:
        subtracted, pull = shared, shared_gradient
        if self.cap:
            subtracted = shared.clamp(max=self.cap)
            pull = torch.where((shared <= self.cap)[:, None], shared_gradient, 0.0)
        metrics = {"loss": adapted, "shared_loss": shared}
        if not self.zeta:
            objective = torch.sub(adapted, subtracted, alpha=self.gamma)
            return Step(torch.sub(gradient, pull, alpha=self.gamma), objective, metrics)
        gamma = self._budgeted(shared_gradient)
        return Step(
            gradient - gamma * pull,
            adapted - gamma[:, 0] * subtracted,
            metrics | {"gamma": gamma[:, 0]},
        )

    def _budgeted(self, shared_gradient: Tensor) -> Tensor:
        """gamma(zeta) ``[C, 1]``: what the budget leaves."""
        allowed = self.zeta / (self.total_steps * self.outer_rate)
        return (1 - allowed / norms(shared_gradient).square().clamp(min=1e-30)).clamp(0, 1)


def maml(settings: LearnerSettings) -> Meta:
    """MAML: second order, nothing subtracted."""
    return Meta.of(settings, order=2)


def fomaml(settings: LearnerSettings) -> Meta:
    """First-order MAML."""
    return Meta.of(settings, order=1)


def fedmenf(settings: LearnerSettings) -> Meta:
    """FedMeNF with the configured gamma and cap (the bounded variant unless ``learner.fedmenf.cap =
    0``)."""
    return Meta.of(settings, order=2, gamma=settings.fedmenf.gamma, cap=settings.fedmenf.cap)


def fedmenf_unbounded(settings: LearnerSettings) -> Meta:
    """FedMeNF with the configured gamma and no cap, with our exact derivative of the inner clip
    (not the release's)."""
    return Meta.of(settings, order=2, gamma=settings.fedmenf.gamma)


def fedmenf_first_order(settings: LearnerSettings) -> Meta:
    """FedMeNF without second derivatives, in the adapted term only: G = grad L(phi_K) - gamma grad
    L(w)."""
    return Meta.of(settings, order=1, gamma=settings.fedmenf.gamma, cap=settings.fedmenf.cap)


def fedmenf_adaptive(settings: LearnerSettings) -> Meta:
    """FedMeNF whose gamma follows from the budget ``learner.fedmenf.zeta``; a cap would let steps
    go uncounted."""
    own = settings.fedmenf
    return Meta.of(settings, order=2, zeta=own.zeta, total_steps=own.total_steps)


fedmenf_adaptive.spreads_a_budget = True  # type: ignore[attr-defined]  # over steps: everybody must take as many
