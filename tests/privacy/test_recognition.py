"""The attackers of obscured pictures: they succeed where there is something to find, and nowhere
else."""

from __future__ import annotations

import pytest
import torch

from privacy.attacks.recognition import Matcher, all_pictures, one_picture, rate
from privacy.attacks.uncolouring import Inverter, descended, likeness
from tasks.modulus import gradient_modulus


def people(count: int, views: int, seed: int, telling: float) -> torch.Tensor:
    """``[P, V, 1, 16, 16]``: a pattern per person times ``telling``, and noise per picture."""
    stream = torch.Generator().manual_seed(seed)
    pattern = torch.randn(count, 1, 1, 16, 16, generator=stream)
    return telling * pattern + 0.7 * torch.randn(count, views, 1, 16, 16, generator=stream)


@pytest.mark.parametrize(("telling", "succeeds"), [(1.0, True), (0.0, False)])
def test_the_matcher_names_strangers_only_where_pictures_tell(
    telling: float, succeeds: bool
) -> None:
    matcher = Matcher(1, 16, 0)
    matcher.train(people(64, 6, 1, telling), 150)
    hits, tries = 0.0, 0
    for number in range(5):
        codes = matcher.embed(people(48, 6, 2 + number, telling))
        one = one_picture(codes[:, :3], codes[:, 3])
        every = all_pictures(codes[:, :3], codes[:, 3:])
        assert one.n == every.n == 48
        if succeeds:
            assert every.value >= one.value > 0.4 and every.low > 1 / 48
        hits, tries = hits + every.value * 48, tries + 48
    if not succeeds:  # 5 are expected; 15 or more happen to one in ten thousand
        assert hits < 15 and tries == 240


def test_intervals_are_those_of_the_binomial() -> None:
    found = rate(torch.tensor([1.0] * 3 + [0.0] * 7))
    # Clopper-Pearson of 3 in 10, from tables
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == (
        pytest.approx(0.0667, abs=1e-4),
        pytest.approx(0.6525, abs=1e-4),
    )
    assert rate(torch.zeros(4)).low == 0 and rate(torch.ones(4)).high == 1


def test_descent_finds_a_picture_with_the_same_magnitudes() -> None:
    stream = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 4, 4, generator=stream), size=16, mode="bicubic"
    ).clamp(0.1, 0.9)
    values = gradient_modulus(smooth.permute(0, 2, 3, 1))
    start = (smooth + 0.1 * torch.randn(smooth.shape, generator=stream)).clamp(0, 1)
    found = descended(start, values, torch.ones_like(values), "sobel")
    before, after = (
        float((gradient_modulus(x.permute(0, 2, 3, 1)) - values).abs().mean())
        for x in (start, found)
    )
    assert after < 0.2 * before


def test_the_inverter_learns_colours_that_are_there_and_a_floor_is_told() -> None:
    stream = torch.Generator().manual_seed(0)
    tone = torch.rand(64, 1, 1, 1, generator=stream).expand(-1, 1, 16, 16)
    wanted = tone.expand(-1, 3, -1, -1)
    inverter = Inverter(1, 0)
    inverter.fit(tone[:48], wanted[:48], 120)
    cover = torch.ones(16, 16, 16)
    found = likeness(inverter.invert(tone[48:]), wanted[48:], cover)
    floor = likeness(wanted[:48].mean(0, True).expand(16, -1, -1, -1), wanted[48:], cover)
    assert found.psnr > floor.psnr + 6
