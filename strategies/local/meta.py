r"""Meta-learners through K inner steps: MAML, FOMAML and FedMeNF are one class with (order, gamma,
cap).

*Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*, C. Finn, P. Abbeel, S. Levine,
ICML 2017, https://arxiv.org/abs/1703.03400 (MAML, and FOMAML in its section 5.2).

*Privacy-Preserving Federated Meta-Learning for Neural Fields*, J. Yun, M. Hong, G. Kim, ICCV 2025,
https://arxiv.org/abs/2508.06301 (FedMeNF).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from strategies.learner import Learner, RunFacts
from strategies.types import Step
from tasks.errors import InputError
from tasks.params import clip_factor, norms
from tasks.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.types import Derivatives, Episode


class FedMeNFSettings(Settings):
    """The privacy-preserving objective L(phi_K) - gamma min(L(w), cap)."""

    gamma: float = Field(0.75, ge=0, le=1, description="weight of the subtracted loss; 0 is MAML")
    cap: float = Field(
        0.1, ge=0, description="the bounded variant's cap on the subtracted loss; 0: none"
    )
    zeta: float = Field(
        0.02,
        gt=0,
        description="fedmenf-adaptive: how much loss a client may give away in a run",
    )
    total_steps: float = Field(
        0.0, ge=0, description="outer steps of a client in a run (T); 0: rounds x E x M / N"
    )


@dataclass(frozen=True)
class Meta(Learner):
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
    is kept. ``stopped`` is the authors' release: it scales a detached alias of :math:`g_k`, which
    drops :math:`c_k` and the projection from this recursion,

    .. math:: v_k = v_{k+1} - \lambda\, H_k v_{k+1}

    Where the clip never acts the two are one; where it acts they differ, and the unbounded variant
    does not collapse under it as it can under the exact derivative. ``order = 1`` takes
    :math:`v_0 = v_K`
    (FOMAML). ``gamma = 0`` is MAML. ``cap`` is :math:`\tau`; 0 means unbounded: the objective has
    no lower limit, and with this exact derivative of the clip, once :math:`L(w)` can grow faster
    than K inner steps undo, the shared field leaves the data range. Above the cap the subtracted
    term has no gradient.

    ``zeta > 0`` lets a budget drive gamma instead, anew in every step: so that T outer steps of a
    client may change its shared loss by :math:`\zeta` to first order, :math:`|\Delta L| \approx
    \lambda_o (1 - \gamma) \lVert g \rVert^2`,

    .. math::
        \gamma(\zeta) = \mathrm{clip}\Big(1 - \frac{\zeta}{T \lambda_o \lVert g\rVert^2},
            0, 1\Big),
        \qquad g = \nabla L(w, B_Q), \quad T = \frac{R\,E\,M}{N}

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
    stopped: bool = False

    def __post_init__(self) -> None:
        if self.zeta and self.total_steps <= 0:
            raise InputError(
                "learner.fedmenf.total-steps",
                self.total_steps,
                "a budget is spread over a known number of steps",
                "give the outer steps a client takes in the whole run",
            )

    def varied(self, **changes: float) -> Meta:
        """A meta-learner that differs from this one in ``changes`` alone."""
        return Meta(**(asdict(self) | changes))

    def step(self, derivatives: Derivatives, params: Tensor, episode: Episode) -> Step:
        import torch

        point = params
        back: list[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]] = []
        for batch in episode.support:
            if self.order == 2:
                _, gradient, hvp = derivatives.linearise(point, batch)
            else:
                _, gradient = derivatives.gradient(point, batch)
            factor = clip_factor(norms(gradient), self.inner_clip)
            point = point.addcmul(factor, gradient, value=-self.inner_rate)
            if self.order == 2:
                back.append((gradient, factor, hvp))

        subtracting = bool(self.gamma or self.zeta)
        at = point
        query = episode.query
        if subtracting:  # both losses of the objective in one computation
            at = torch.cat([point, params])
            query = type(query)(*(torch.cat([part, part]) for part in query))
        losses, gradients = derivatives.gradient(at, query)
        adapted = losses[: len(params)]
        meta_gradient = gradients[: len(params)]
        if self.stopped:
            for _, _, hvp in reversed(back):
                meta_gradient = meta_gradient.sub(hvp(meta_gradient), alpha=self.inner_rate)
            back = []
        along = self._along([factor for _, factor, _ in back])
        for (gradient, factor, hvp), share in zip(reversed(back), reversed(along), strict=True):
            product = hvp(self._across(gradient, share, meta_gradient))
            meta_gradient = meta_gradient.addcmul(factor, product, value=-self.inner_rate)
        if not subtracting:
            return Step(meta_gradient, adapted, {"loss": adapted})
        return self._privacy_preserving(
            meta_gradient, adapted, losses[len(params) :], gradients[len(params) :]
        )

    def _along(self, factors: list[Tensor]) -> Sequence[Tensor]:
        """``[c < 1] c^2 / C^2`` of each inner step ``[C, 1]``: where its clip is active, 1 over its
        squared norm."""
        import torch

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
        along = gradient[:, None].bmm(vector[:, :, None])[:, :, 0] * share
        return vector.addcmul(along, gradient, value=-1)

    def _privacy_preserving(
        self, gradient: Tensor, adapted: Tensor, shared: Tensor, shared_gradient: Tensor
    ) -> Step:
        subtracted = shared
        pull = shared_gradient
        if self.cap:
            subtracted = shared.clamp(max=self.cap)
            pull = shared_gradient.where((shared <= self.cap)[:, None], 0.0)
        metrics = {"loss": adapted, "shared_loss": shared}
        if not self.zeta:
            objective = adapted.sub(subtracted, alpha=self.gamma)
            return Step(gradient.sub(pull, alpha=self.gamma), objective, metrics)
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


class Maml(Meta):
    """MAML: second order, nothing subtracted."""

    def __init__(self, settings: Any) -> None:
        super().__init__(**_loop(settings))


class Fomaml(Meta):
    """First-order MAML."""

    def __init__(self, settings: Any) -> None:
        super().__init__(**_loop(settings), order=1)


class FedMeNF(Meta):
    """FedMeNF with the configured gamma and cap (bounded unless ``learner.fedmenf.cap = 0``)."""

    metrics = ("loss", "shared_loss")

    def __init__(self, settings: Any) -> None:
        own = settings.fedmenf
        super().__init__(**_loop(settings), gamma=own.gamma, cap=own.cap)


class FedMeNFPublished(Meta):
    """FedMeNF as its authors run it: no cap, the release's derivative of the inner clip. Give it an
    outer step size of its own (``learner.outer-rates``): gamma and it interact."""

    metrics = ("loss", "shared_loss")

    def __init__(self, settings: Any) -> None:
        own = settings.fedmenf
        loop = _loop(settings) | {"stopped": True}
        super().__init__(**loop, gamma=own.gamma)


class FedMeNFUnbounded(Meta):
    """FedMeNF with the configured gamma and no cap, at everybody's step size (with our exact
    derivative of the inner clip, unless ``learner.inner-clip-derivative`` says otherwise)."""

    metrics = ("loss", "shared_loss")

    def __init__(self, settings: Any) -> None:
        super().__init__(**_loop(settings), gamma=settings.fedmenf.gamma)


class FedMeNFFirstOrder(Meta):
    """FedMeNF without second derivatives, in the adapted term only: G = grad L(phi_K) - gamma grad
    L(w)."""

    metrics = ("loss", "shared_loss")

    def __init__(self, settings: Any) -> None:
        own = settings.fedmenf
        super().__init__(**_loop(settings), order=1, gamma=own.gamma, cap=own.cap)


class FedMeNFAdaptive(Meta):
    """FedMeNF whose gamma follows from the budget ``learner.fedmenf.zeta``; a cap would let steps
    go uncounted."""

    metrics = ("loss", "shared_loss", "gamma")
    spreads_a_budget = True

    def __init__(self, settings: Any) -> None:
        own = settings.fedmenf
        super().__init__(**_loop(settings), zeta=own.zeta, total_steps=own.total_steps)

    @classmethod
    def configured(cls, settings: Any, facts: RunFacts) -> FedMeNFAdaptive:
        steps = settings.fedmenf.total_steps or facts.client_steps
        own = settings.fedmenf.model_copy(update={"total_steps": steps})
        return cls(settings.model_copy(update={"fedmenf": own}))


def _loop(settings: Any) -> dict[str, Any]:
    """The fields every member of the family takes from the shared local loop."""
    return {
        "inner_steps": settings.inner_steps,
        "inner_rate": settings.inner_rate,
        "inner_clip": settings.inner_clip,
        "outer_rate": settings.outer_rate,
        "stopped": settings.inner_clip_derivative == "stopped",
    }
