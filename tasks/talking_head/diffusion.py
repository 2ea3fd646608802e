r"""Objective and sampler: v-prediction of the residual latent, its losses, trailing DDIM.

With :math:`r = (z - z_{ref})/s` the residual latent of a frame, :math:`\bar\alpha_t` the schedule
and noise :math:`\epsilon`:

.. math::
    x_t = \sqrt{\bar\alpha_t}\, r + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
    v = \sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, r, \qquad
    \hat r = \sqrt{\bar\alpha_t}\, x_t - \sqrt{1 - \bar\alpha_t}\, \hat v

v-prediction: *Progressive Distillation for Fast Sampling of Diffusion Models*, T. Salimans, J. Ho,
ICLR 2022, https://arxiv.org/abs/2202.00512. Min-SNR weights: *Efficient Diffusion Training via
Min-SNR Weighting Strategy*, T. Hang et al., ICCV 2023, https://arxiv.org/abs/2303.09556. Trailing
steps and zero terminal SNR: *Common Diffusion Noise Schedules and Sample Steps Are Flawed*, S. Lin
et al., WACV 2024, https://arxiv.org/abs/2305.08891.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor], Tensor]  # (noisy [..., c, h, w], step [...]) -> v
STEPS = 1000


def schedule() -> Tensor:
    r""":math:`\bar\alpha_t`, ``[1000]``: the squared cosine, rescaled to zero signal at the last
    step."""
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(
        STEPS, beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=True
    )
    return scheduler.alphas_cumprod.float()


@dataclass(frozen=True)
class Losses:
    """Weights of the terms; 0 switches one off. ``min_snr``: the ceiling of the loss weights (0:
    unweighted v)."""

    tdc: float = 0.0
    identity: float = 0.0
    perceptual: float = 0.0
    min_snr: float = 0.0


def noisy(residual: Tensor, noise: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """``(x_t, v)`` for ``residual, noise [N, c, h, w]`` and ``alpha [N]``."""
    a, b = _roots(alpha, residual)
    return a * residual + b * noise, a * noise - b * residual


def clean(sample: Tensor, velocity: Tensor, alpha: Tensor) -> Tensor:
    """The residual that ``velocity`` implies at ``sample``."""
    a, b = _roots(alpha, sample)
    return a * sample - b * velocity


def _roots(alpha: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha = alpha.view(*alpha.shape, *[1] * (like.dim() - alpha.dim()))
    return alpha.sqrt(), (1 - alpha).sqrt()


def denoising(velocity: Tensor, target: Tensor, alpha: Tensor, min_snr: float) -> Tensor:
    r"""Squared error of v per frame, weighted by :math:`\min(\mathrm{SNR}, \gamma)/(\mathrm{SNR} +
    1)` if asked for.

    Args:
        velocity: the prediction, ``[N, c, h, w]``.
        target: the truth, of the same shape.
        alpha: :math:`\bar\alpha_t` in [0, 1], ``[N]``.
        min_snr: the ceiling :math:`\gamma`; 0: unweighted.

    Returns:
        ``[N]``.
    """
    error = (velocity - target).square().flatten(1).mean(1)
    if not min_snr:
        return error
    snr = alpha / (1 - alpha).clamp(min=1e-8)
    return error * snr.clamp(max=min_snr) / (snr + 1)


def temporal_consistency(
    found: Tensor, true: Tensor, alpha: Tensor, ceiling: float = 5.0
) -> Tensor:
    r"""Temporal denoising consistency of clips whose frames share a step.

    .. math::
        L = w_t\, \mathrm{mean} |\partial_i \hat r - \partial_i r|, \quad
        w_t = \sqrt{\min(\mathrm{SNR}_t, 5)}

    The published term is the same differences of predicted noise; since :math:`\hat\epsilon -
    \epsilon = -\sqrt{\mathrm{SNR}}\,(\hat r - r)`, it equals this one without the ceiling.

    Args:
        found: predicted residuals, ``[..., T, c, h, w]``.
        true: true ones, of the same shape.
        alpha: :math:`\bar\alpha_t` of each clip, ``[...]``.
        ceiling: of the signal-to-noise ratio in the weight.

    Returns:
        ``[...]``; 0 for clips of one frame.
    """
    weight = (alpha / (1 - alpha).clamp(min=1e-8)).clamp(max=ceiling).sqrt()
    if found.shape[alpha.dim()] < 2:
        return torch.zeros_like(weight)
    axis = alpha.dim()
    difference = (found - true).diff(dim=axis).abs()
    return weight * difference.flatten(axis).mean(-1)


@torch.no_grad()
def sample(predict: Predict, start: Tensor, alphas: Tensor, steps: int) -> Tensor:
    """Deterministic DDIM; returns the residual ``[N, c, h, w]``.

    Args:
        predict: velocity at ``(noisy [N, c, h, w], step [N])``.
        start: initial noise, ``[N, c, h, w]``.
        alphas: the schedule, of which only the length is used.
        steps: number of trailing steps.
    """
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(
        len(alphas),
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(steps)
    current = start
    for step in scheduler.timesteps.tolist():
        velocity = predict(current, torch.full((len(start),), step, device=start.device))
        current = scheduler.step(velocity, step, current).prev_sample
    return current


def start_noise(
    frames: int, shape: tuple[int, ...], shared: float, scale: float, generator: torch.Generator
) -> Tensor:
    r"""Initial noise ``[frames, *shape]``: :math:`\kappa(\sqrt{\rho}\,\epsilon_0 +
    \sqrt{1-\rho}\,\epsilon_i)`.

    Args:
        frames: of the video.
        shape: of one frame's latent, ``(c, h, w)``.
        shared: rho in [0, 1], the correlation of any two frames: a per-frame model flickers with
            independent noise.
        scale: kappa; 1 samples the model's distribution, 0 follows its most likely path.
        generator: random stream.
    """
    common = torch.randn(1, *shape, generator=generator)
    own = torch.randn(frames, *shape, generator=generator)
    return scale * (shared**0.5 * common + (1 - shared) ** 0.5 * own)
