r"""Meta-learners through K inner steps: MAML, FOMAML and FedMeNF are one class with (order, gamma, cap).

*Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*, C. Finn, P. Abbeel, S. Levine, ICML 2017,
https://arxiv.org/abs/1703.03400 (MAML, and FOMAML in its section 5.2).

*Privacy-Preserving Federated Meta-Learning for Neural Fields*, J. Yun, M. Hong, G. Kim, ICCV 2025,
https://arxiv.org/abs/2508.06301 (FedMeNF).
"""

from __future__ import annotations

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

    ``order = 2`` differentiates through the inner steps, clip included: with :math:`v_K = \nabla L(\phi_K, B_Q)`

    .. math:: v_k = v_{k+1} - \lambda\, H_k u_k, \qquad
        u_k = c_k \big(v_{k+1} - [c_k < 1]\, \hat g_k \hat g_k^\top v_{k+1}\big), \quad
        \hat g_k = g_k / \lVert g_k \rVert

    so each inner step costs one Hessian-vector product at the point it started from, and no graph is kept. (The
    published release scales a detached alias of :math:`g_k`, which drops :math:`c_k` from this recursion.)
    ``order = 1`` takes :math:`v_0 = v_K` (FOMAML). ``gamma = 0`` is MAML. ``cap`` is :math:`\tau`; 0 means
    unbounded, the objective as published, which has no lower limit: once :math:`L(w)` can grow faster than K
    inner steps undo, the shared field leaves the data range. Above the cap the subtracted term has no gradient.

    ``zeta > 0`` lets a budget drive gamma instead, anew in every step: so that T outer steps of a client may change its
    shared loss by :math:`\zeta` to first order, :math:`|\Delta L| \approx \lambda_o (1 - \gamma) \lVert g \rVert^2`,

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
    def of(cls, settings: LearnerSettings, order: int, gamma: float = 0.0, cap: float = 0.0, **more: float) -> Meta:
        """The learner with the shared inner and outer loop settings."""
        return cls(
            settings.inner_steps, settings.inner_rate, settings.inner_clip, settings.outer_rate, order, gamma, cap,
            **more,
        )  # fmt: skip

    def step(self, derivatives: Derivatives, params: Tensor, episode: Episode) -> Step:
        point, back = params, []
        for batch in episode.support:
            if self.order == 2:
                _, gradient, hvp = derivatives.linearise(point, batch)
            else:
                (_, gradient), hvp = derivatives.gradient(point, batch), None
            factor = clip_factor(norms(gradient), self.inner_clip)
            back.append((gradient, factor, hvp))
            point = torch.addcmul(point, factor, gradient, value=-self.inner_rate)

        subtracting = bool(self.gamma or self.zeta)
        at, query = point, episode.query
        if subtracting:  # both losses of the objective in one computation
            at, query = torch.cat([point, params]), type(query)(*(torch.cat([part, part]) for part in query))
        losses, gradients = derivatives.gradient(at, query)
        adapted, meta_gradient = losses[: len(params)], gradients[: len(params)]
        for gradient, factor, hvp in reversed(back):
            if hvp is not None:
                meta_gradient = torch.add(
                    meta_gradient, hvp(self._across(gradient, factor, meta_gradient)), alpha=-self.inner_rate
                )
        if not subtracting:
            return Step(meta_gradient, adapted, {"loss": adapted})
        return self._privacy_preserving(meta_gradient, adapted, losses[len(params) :], gradients[len(params) :])

    def _across(self, gradient: Tensor, factor: Tensor, vector: Tensor) -> Tensor:
        """u ``[C, P]``: a clipped gradient keeps its length, so of ``vector`` only what is across it counts.

        Where the clip is active, its norm is C / c.
        """
        direction = factor * vector
        if not self.inner_clip:
            return direction
        along = torch.bmm(gradient[:, None], direction[:, :, None])[:, :, 0] * (factor.square() * (factor < 1))
        return torch.addcmul(direction, along, gradient, value=-1 / self.inner_clip**2)

    def _privacy_preserving(self, gradient: Tensor, adapted: Tensor, shared: Tensor, shared_gradient: Tensor) -> Step:
        gamma = self._gamma(shared_gradient)
        active = shared <= self.cap if self.cap else torch.ones_like(shared, dtype=torch.bool)
        subtracted = shared.clamp(max=self.cap) if self.cap else shared
        pull = torch.where(active[:, None], shared_gradient, torch.zeros_like(shared_gradient))
        objective = adapted - gamma[:, 0] * subtracted
        metrics = {"loss": adapted, "shared_loss": shared}
        return Step(gradient - gamma * pull, objective, metrics | ({"gamma": gamma[:, 0]} if self.zeta else {}))

    def _gamma(self, shared_gradient: Tensor) -> Tensor:
        """``[C, 1]``: fixed, or what the budget leaves."""
        if not self.zeta:
            return torch.full_like(shared_gradient[:, :1], self.gamma)
        allowed = self.zeta / (self.total_steps * self.outer_rate)
        return (1 - allowed / norms(shared_gradient).square().clamp(min=1e-30)).clamp(0, 1)


def maml(settings: LearnerSettings) -> Meta:
    """MAML: second order, nothing subtracted."""
    return Meta.of(settings, order=2)


def fomaml(settings: LearnerSettings) -> Meta:
    """First-order MAML."""
    return Meta.of(settings, order=1)


def fedmenf(settings: LearnerSettings) -> Meta:
    """FedMeNF with the configured gamma and cap (the bounded variant unless ``learner.fedmenf.cap = 0``)."""
    return Meta.of(settings, order=2, gamma=settings.fedmenf.gamma, cap=settings.fedmenf.cap)


def fedmenf_unbounded(settings: LearnerSettings) -> Meta:
    """FedMeNF exactly as published: the configured gamma, no cap."""
    return Meta.of(settings, order=2, gamma=settings.fedmenf.gamma)


def fedmenf_first_order(settings: LearnerSettings) -> Meta:
    """FedMeNF without second derivatives, in the adapted term only: G = grad L(phi_K) - gamma grad L(w)."""
    return Meta.of(settings, order=1, gamma=settings.fedmenf.gamma, cap=settings.fedmenf.cap)


def fedmenf_adaptive(settings: LearnerSettings) -> Meta:
    """FedMeNF whose gamma follows from the budget ``learner.fedmenf.zeta``; a cap would let steps go uncounted."""
    own = settings.fedmenf
    return Meta.of(settings, order=2, zeta=own.zeta, total_steps=own.total_steps)
