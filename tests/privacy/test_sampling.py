"""Who is drawn, by each rule, and the public numbers that follow: what budgets are counted with."""

from __future__ import annotations

import math

import pytest

from privacy.sampling import Sampler
from strategies.federation import in_turns, participants


@pytest.mark.parametrize(("per_round", "drawn"), [(3, 3), (12, 12), (0, 12)])
def test_a_fixed_draw_has_its_size_and_is_the_public_one(per_round: int, drawn: int) -> None:
    """Of twelve; 0 means everybody. Drawing more than are counted would divide by too few."""
    sampler = Sampler("fixed", 5, 12, per_round)
    for number in range(1, 6):
        found = sampler.draw(number)
        assert len(set(found)) == drawn == sampler.expected == sampler.smallest
        assert found == participants(5, number, 12, per_round)
    assert (sampler.rate, sampler.separation, sampler.most(7)) == (0.0, 1, 7)


def test_turns_are_in_turns() -> None:
    """Seven in groups of three: 3 rounds a cycle of 2 or 3 each, and 10 rounds hit one 4 times."""
    sampler = Sampler("round-robin", 5, 7, 3)
    rounds = [sampler.draw(number) for number in range(1, 11)]
    assert rounds == [in_turns(5, number, 7, 3) for number in range(1, 11)]
    assert sampler.separation == 3 and sampler.expected == pytest.approx(7 / 3)
    assert sampler.smallest == 2 == min(map(len, rounds))
    times = [sum(client in drawn for drawn in rounds) for client in range(7)]
    assert max(times) == sampler.most(10) == sampler.likely_most(10) == 4
    assert sampler.rate == 0.0


def test_coins_fall_at_their_rate_for_each_client_alone() -> None:
    """1/4 in 2000 rounds of 8: each 500 times but for five deviations of 19.4, and nobody at all in
    a share of (3/4)^8."""
    sampler = Sampler("poisson", 5, 8, 2)
    assert (sampler.rate, sampler.expected, sampler.smallest) == (0.25, 2.0, 0)
    rounds = [sampler.draw(number) for number in range(2000)]
    for client in range(8):
        count = sum(client in drawn for drawn in rounds)
        assert abs(count - 500) < 5 * math.sqrt(2000 * 0.25 * 0.75)
    empty = sum(not drawn for drawn in rounds)
    chance = 0.75**8
    assert abs(empty - 2000 * chance) < 5 * math.sqrt(2000 * chance * (1 - chance))
    assert rounds[:50] != [sampler.draw(number) for number in range(50)], "coins have no seed"
