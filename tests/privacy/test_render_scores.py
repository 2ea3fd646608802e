"""Scores of renderings by hand: what a shift, a scale and a constant picture are worth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privacy.attacks.render import best_affine, correlation, render_attack

TRUTH = torch.tensor([[[0.0, 0.2], [0.4, 0.8]], [[0.8, 0.4], [0.4, 0.6]]])  # two channels


@given(scale=st.floats(1e-4, 1e3), shift=st.floats(-5.0, 5.0))
def test_correlation_knows_neither_scale_nor_offset(scale: float, shift: float) -> None:
    """Each channel is centred on its own mean, so that its offset does not count either."""
    offset = torch.tensor([shift, -shift])
    assert correlation(TRUTH.double() * scale + offset, TRUTH) == pytest.approx(1.0, abs=1e-5)
    assert correlation(-scale * TRUTH.double(), TRUTH) == pytest.approx(-1.0, abs=1e-5)


def test_a_constant_picture_correlates_with_nothing() -> None:
    assert correlation(torch.full_like(TRUTH, 0.3), TRUTH) == 0.0
    assert correlation(TRUTH, torch.ones_like(TRUTH)) == 0.0


def test_half_of_two_channels_gives_half_the_covariance() -> None:
    """Channel 0 alone: squares 0.32 of 0.32 + 0.20, so the correlation is sqrt(0.32 / 0.52)."""
    one = TRUTH.clone()
    one[..., 1] = 0.5
    centred = TRUTH - TRUTH.mean((0, 1))
    squares = centred.square().sum((0, 1))
    torch.testing.assert_close(squares, torch.tensor([0.32, 0.20]))
    assert correlation(one, TRUTH) == pytest.approx(math.sqrt(0.32 / 0.52), rel=1e-5)


def test_the_affine_fit_is_made_for_each_channel_by_itself() -> None:
    bent = torch.stack([0.1 * TRUTH[..., 0] + 3.0, -2.0 * TRUTH[..., 1]], -1)
    torch.testing.assert_close(best_affine(bent, TRUTH), TRUTH.double())
    flat = best_affine(torch.zeros_like(TRUTH), TRUTH)
    torch.testing.assert_close(flat, TRUTH.double().mean((0, 1)).expand(2, 2, 2))


def test_scores_of_a_shifted_picture_by_hand() -> None:
    """A shift of 0.1 is 20 dB; the affine fit takes it off; the floor is the variance 0.52 / 8."""
    found = render_attack([TRUTH + 0.1, torch.full_like(TRUTH, torch.nan)], [TRUTH, TRUTH])
    floor = -10 * math.log10(0.52 / 8)
    assert found["psnr_p"][0] == pytest.approx(20.0, abs=1e-4)
    assert found["psnr_p_affine"][0] > 99 and found["correlation_p"][0] == pytest.approx(1.0)
    assert found["psnr_floor"] == pytest.approx([floor, floor], abs=1e-4)
    for name in ("psnr_p", "psnr_p_affine", "correlation_p"):
        assert math.isnan(found[name][1])
    assert found["range_excess"][1] == math.inf and found["range_excess"][0] < 0.1
