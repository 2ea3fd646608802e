"""meta-NSGD: a meta-learner that noises its every step, for the task it looked at.

*Task-level Differentially Private Meta Learning*, X. Zhou, R. Bassily, NeurIPS 2022,
https://openreview.net/forum?id=5NkXTCVa7F. FedMeNF (https://arxiv.org/abs/2508.06301) compares with
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

    The client adds the noise itself, before anybody sees the step: T steps are T Gaussian
    mechanisms with multiplier :math:`\sigma`, as the paper accounts for them. **Here no epsilon is
    stated**: noise and step are floating-point numbers, and which numbers a sum of two of them can
    be tells its summands apart (*On Significance of the Least Significant Bits For Differential
    Privacy*, I. Mironov, CCS 2012, https://doi.org/10.1145/2382196.2382264): a test tells
    present from absent without an error in 40 guesses at :math:`\sigma = 10`. For an epsilon use a
    release with noise, whose sums are integers. No loss is reported, since nothing noises it. The
    paper lets the step size fall; here it is constant. Noise comes from the operating system's
    entropy: a run with this learner is not reproducible.
    """

    least_inner_steps = 1
    silent = True  # nothing but the noised step may be told of a client
    metrics = ()
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

    @classmethod
    def at_rate(cls, settings: Any, rate: float) -> Any:
        own = settings.meta_nsgd.model_copy(update={"outer_rate": rate})
        return settings.model_copy(update={"meta_nsgd": own})

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
