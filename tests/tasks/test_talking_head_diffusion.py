"""The codec, the diffusion schedule, its losses and its sampler."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.talking_head import people
from tasks.talking_head.codec import Codec, PatchPCA
from tasks.talking_head.diffusion import (
    clean,
    denoising,
    noisy,
    sample,
    schedule,
    start_noise,
    temporal_consistency,
)


def test_all_components_are_lossless_and_fewer_lose_little() -> None:
    pictures = torch.cat(
        [people.person(5, n, "ordinary", 1, 0, 8, 32).train[0].frames for n in range(12)]
    )
    whole, part = (PatchPCA.fit(pictures, 4, channels) for channels in (48, 12))
    assert isinstance(whole, Codec)
    assert torch.allclose(whole.decode(whole.encode(pictures)), pictures, atol=1e-4)
    error = (part.decode(part.encode(pictures)) - pictures).square().mean()
    assert -10 * math.log10(error) > 30 and part.encode(pictures).shape == (96, 12, 8, 8)
    with pytest.raises(ValueError, match="patches cannot give"):
        PatchPCA.fit(pictures[:1, :4, :8], 4, 12)


# ---------------------------------------------------------------------- diffusion
def test_velocity_is_its_definition_and_gives_the_clean_sample_back() -> None:
    residual = torch.randn(5, 3, 2, 2)
    noise = torch.randn(5, 3, 2, 2)
    alpha = torch.tensor([1.0, 0.9, 0.5, 0.1, 0.0])
    x, v = noisy(residual, noise, alpha)
    a, b = alpha.sqrt().view(-1, 1, 1, 1), (1 - alpha).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(x, a * residual + b * noise) and torch.allclose(
        v, a * noise - b * residual
    )
    assert torch.allclose(clean(x, v, alpha), residual, atol=1e-6)


def test_the_schedule_ends_in_pure_noise() -> None:
    alphas = schedule()
    assert (
        alphas[-1] == pytest.approx(0.0, abs=1e-6)
        and alphas[0] > 0.999
        and (alphas.diff() < 0).all()
    )


@given(st.floats(0.17, 0.999))
def test_tdc_in_clean_space_is_the_published_one_in_noise_space(alpha: float) -> None:
    """mean |d eps_hat - d eps| for the noise that belongs to r_hat, at SNR below the ceiling of
    5."""
    alphas = torch.tensor([min(alpha, 5 / 6)])
    r, eps, r_hat = (
        torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    a, b = alphas.sqrt(), (1 - alphas).sqrt()
    eps_hat = (a * r + b * eps - a * r_hat) / b
    published = (eps_hat.diff(dim=1) - eps.diff(dim=1)).abs().mean()
    assert float(temporal_consistency(r_hat, r, alphas)) == pytest.approx(
        float(published), rel=1e-4
    )


def test_tdc_of_one_frame_is_zero_and_of_a_constant_shift_too() -> None:
    r = torch.randn(1, 4, 2, 3, 3)
    alpha = torch.tensor([0.5])
    assert temporal_consistency(r[:, :1], r[:, :1] + 1, alpha) == 0
    assert float(temporal_consistency(r + 0.7, r, alpha)) == pytest.approx(0, abs=1e-6)
    assert temporal_consistency(torch.randn_like(r), r, alpha) > 0.1


def test_min_snr_weights() -> None:
    alpha = torch.tensor([0.99, 0.5])
    error = denoising(torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), alpha, 5.0)
    snr = [99.0, 1.0]
    assert error.tolist() == pytest.approx([min(s, 5) / (s + 1) for s in snr], rel=1e-4)


def test_a_perfect_denoiser_is_sampled_exactly() -> None:
    alphas = schedule()
    truth = torch.randn(2, 3, 4, 4)

    def predict(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        a, b = alphas[step].sqrt().view(-1, 1, 1, 1), (1 - alphas[step]).sqrt().view(-1, 1, 1, 1)
        return (a * x - truth) / b  # the velocity whose clean sample is the truth

    assert torch.allclose(sample(predict, torch.randn(2, 3, 4, 4), alphas, 4), truth, atol=1e-3)


def test_initial_noise_is_shared_as_much_as_asked() -> None:
    draws = start_noise(2, (50_000,), 0.25, 1.0, torch.Generator().manual_seed(0))
    assert float((draws[0] * draws[1]).mean()) == pytest.approx(0.25, abs=0.02)
    assert float(draws.var()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(*start_noise(2, (9,), 1.0, 1.0, torch.Generator().manual_seed(0)))
