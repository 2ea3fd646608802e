"""meta-NSGD: a meta-learner whose every step is differentially private for the task it looked at.

*Task-level Differentially Private Meta Learning*, X. Zhou, R. Bassily, NeurIPS 2022,
https://openreview.net/forum?id=5NkXTCVa7F. FedMeNF (https://arxiv.org/abs/2508.06301) compares with
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.accounting import Event, prv, rdp
from privacy.entropy import Entropy
from strategies.learner import Learner
from strategies.types import Step
from tasks.errors import InputError
from tasks.params import clip, clip_factor, norms

if TYPE_CHECKING:
    from torch import Tensor

    from strategies.settings import LearnerSettings
    from tasks.types import Derivatives, Episode


class MetaNsgd(Learner):
    r"""Noisy descent on the way back from a proximally adapted field (algorithm 2, one task a
    step).

    .. math::
        \phi_{k+1} &= \phi_k
            - \lambda\,\mathrm{clip}(\nabla L(\phi_k, B_k) + 2\mu(\phi_k - w)), \\
        G &= \pi_C(w - \phi_K) + N(0, (C\sigma)^2 I)

    The client adds the noise itself, before anybody sees the step: T steps are T Gaussian releases
    with multiplier :math:`\sigma` under zero-out adjacency, as everywhere here (between two signals
    of one's choice, halve :math:`\sigma`). No loss is reported, since nothing noises it; what a
    simulation measures of uploads (``evaluation.uploads``) is not covered. A round that is repeated
    after a crash draws new noise and counts again. The paper lets the step size fall; here it is
    constant. Noise comes from the operating system's entropy: a run with this learner is not
    reproducible.
    """

    least_inner_steps = 1
    silent = True  # nothing but the noised step may be told of a client
    metrics = ()
    noises_itself = True
    # Noise is added after C; a second clip would shrink it with the number of parameters
    clips_itself = True

    def __init__(self, settings: LearnerSettings) -> None:
        own = settings.meta_nsgd
        if settings.inner_steps < 1:
            raise InputError(
                "learner.inner-steps",
                settings.inner_steps,
                "meta-NSGD steps back from K inner steps",
                "set it to 1 or more",
            )
        self.inner_steps = settings.inner_steps
        self.inner_rate = settings.inner_rate
        self.inner_clip = settings.inner_clip
        self.outer_rate = own.outer_rate
        self.proximal = own.proximal
        self.clip = own.clip
        self.noise_multiplier = own.noise_multiplier

    def step(self, derivatives: Derivatives, params: Tensor, episode: Episode) -> Step:
        import torch

        point = params
        for batch in episode.support:
            _, gradient = derivatives.gradient(point, batch)
            gradient = gradient + 2 * self.proximal * (point - params)
            factor = clip_factor(norms(gradient), self.inner_clip)
            point = torch.addcmul(point, factor, gradient, value=-self.inner_rate)
        back = clip(params - point, self.clip)
        noise = torch.from_numpy(Entropy().normal(back.numel())).to(back).view_as(back)
        noisy = back + self.clip * self.noise_multiplier * noise
        return Step(noisy, params.new_zeros(len(params)), {})

    def local_epsilon(self, steps: int, delta: float) -> float:
        """Epsilon of ``steps`` outer steps on the same signal, by Opacus: PRV where it can, else
        RDP."""
        events = [Event(self.noise_multiplier, 1.0, steps)]
        tight = prv(events, delta)
        return rdp(events, delta)[0] if tight is None else tight
