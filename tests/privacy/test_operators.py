"""Operators by hand-computed pictures, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.entropy import Entropy
from privacy.node_secret import NodeSecret
from privacy.operators import Chain
from tasks.errors import InputError
from tasks.modulus import gradient_modulus


def draws(name: str = "a") -> Entropy:
    return NodeSecret.simulated("operators").draws(name)


def ramp(slope: float, size: int = 12) -> torch.Tensor:
    """Grey that rises from left to right by ``slope`` per pixel."""
    return (slope * torch.arange(float(size)))[None, None, :, None].expand(1, size, size, 3)


@pytest.mark.parametrize("kernel", ["sobel", "central"])
def test_the_modulus_of_a_ramp_and_of_nothing(kernel: str) -> None:
    """Slope s in three channels: s sqrt(3) across, 0 down (up to the ease of 1e-4 per root)."""
    found = gradient_modulus(ramp(0.05), kernel)
    assert found.shape == (1, 10, 10)
    assert torch.allclose(found, torch.full_like(found, 0.05 * math.sqrt(3)), atol=2e-4)
    assert float(gradient_modulus(torch.full((1, 8, 8, 3), 0.3), kernel).max()) < 3e-4


def test_both_slopes_are_added_not_squared_together() -> None:
    """Equation 6: a ramp along the diagonal has twice the modulus of its share, not sqrt(2)."""
    one = ramp(0.04)
    both = one + one.transpose(1, 2)
    assert float(gradient_modulus(both)[0, 3, 3]) == pytest.approx(0.08 * math.sqrt(3), abs=3e-4)


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_modulus_turns_with_the_picture_and_forgets_what_it_should(seed: int) -> None:
    """A quarter turn turns it; another brightness, swapped colours and a negative leave it."""
    picture = torch.rand(1, 9, 9, 3, generator=torch.Generator().manual_seed(seed))
    found = gradient_modulus(picture)
    turned = gradient_modulus(picture.rot90(1, (1, 2)))
    assert torch.allclose(turned, found.rot90(1, (1, 2)), atol=1e-5)
    for same in (picture + 0.3, picture.flip(-1), 1 - picture):
        assert torch.allclose(gradient_modulus(same), found, atol=1e-5)


def test_a_silhouette_is_erased_to_its_width_and_no_further() -> None:
    picture = torch.rand(1, 24, 24, 3)
    cover = torch.zeros(1, 24, 24)
    cover[:, 8:16, 8:16] = 1.0
    left = Chain.parsed("modulus,erase=2")(picture, cover, draws())
    row = left.valid[0, 11]  # of pixels 1 .. 22: the square begins at 7 here
    assert row.tolist() == [True] * 5 + [False] * 4 + [True] * 4 + [False] * 4 + [True] * 5
    assert float(left.values[0, :, :, 0][~left.valid[0]].abs().max()) == 0
    with pytest.raises(InputError, match="no mask"):
        Chain.parsed("modulus,erase=2")(picture, None, draws())


def test_noise_has_its_deviation_and_the_same_request_the_same_bits() -> None:
    picture = torch.rand(4, 40, 40, 3)
    bare = Chain.parsed("modulus")(picture, None, draws()).values
    noisy = [Chain.parsed("modulus,noise=0.1")(picture, None, draws(n)).values for n in "aab"]
    assert float((noisy[0] - bare).std()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])


def test_levels_have_a_fixed_range_and_a_tone_curve_is_one_per_client() -> None:
    picture = torch.rand(2, 16, 16, 3)
    found = Chain.parsed("modulus,levels=4")(picture, None, draws()).values.unique()
    assert torch.allclose(found / (1.3 / 3), (found / (1.3 / 3)).round(), atol=1e-5)
    assert len(found) <= 4
    toned = Chain.parsed("tone=0.5,modulus")(picture, None, draws("x")).values
    power = float(draws("x").normal(1)[0])
    expected = gradient_modulus(picture ** math.exp(0.5 * power))
    assert torch.allclose(toned[..., 0], expected, atol=1e-5)


def test_a_smaller_picture_is_the_mean_of_its_parts() -> None:
    picture = torch.rand(1, 16, 16, 3)
    found = Chain.parsed("smaller=2,modulus")(picture, None, draws()).values[..., 0]
    small = picture.view(1, 8, 2, 8, 2, 3).mean((2, 4))
    assert torch.allclose(found, gradient_modulus(small), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("modulo", "no such link"),
        ("modulus=prewitt", "no such kernel"),
        ("modulus,erase=x", "not a whole number"),
        ("modulus,noise=-1", "not a number"),
        ("modulus,levels=1", "not a whole number"),
        ("modulus,modulus", "no colours left"),
        ("modulus,smaller=2", "cannot repeat"),
        ("erase=2,modulus", "how bright the face is"),
        ("smaller=5,modulus", "no multiple"),
        ("noise=0.1", "in colour"),
        ("operator_kit:brighten=0.1", "in colour"),
    ],
)
def test_what_is_no_chain_or_leaves_in_colour_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Chain.parsed(text)(torch.rand(1, 16, 16, 3), None, draws())


def test_a_link_of_somebodys_own_runs() -> None:
    found = Chain.parsed("modulus,operator_kit:brighten=0.5")(ramp(0.0), None, draws())
    assert float(found.values.mean()) == pytest.approx(0.5, abs=1e-3)
