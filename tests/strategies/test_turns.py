"""Properties of how clients are chosen: all alike over a cycle, the same for the same seed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from strategies.federation import in_turns, participants

SIZES = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(sizes=SIZES, seed=st.integers(0, 2**31), cycles=st.integers(0, 3))
def test_in_a_cycle_of_turns_every_client_comes_once(
    sizes: tuple[int, int], seed: int, cycles: int
) -> None:
    """N clients, m a round at most: ceil(N/m) rounds, whose sizes differ by one at most, and the
    next cycle is the same. Privacy is charged for one participation a cycle, no more."""
    population, most = sizes
    length = (population + most - 1) // most
    first = 1 + cycles * length
    groups = [in_turns(seed, first + i, population, most) for i in range(length)]
    assert sorted(client for group in groups for client in group) == list(range(population))
    lengths = {len(group) for group in groups}
    assert max(lengths) <= most and max(lengths) - min(lengths) <= 1
    assert all(group == sorted(group) for group in groups)
    assert groups == [in_turns(seed, 1 + i, population, most) for i in range(length)]


def test_turns_follow_a_seeded_order_and_not_the_clients_numbers() -> None:
    groups = [in_turns(seed, 1, 40, 10) for seed in range(4)]
    assert len({tuple(group) for group in groups}) == 4 and list(range(10)) not in groups


@given(sizes=SIZES, seed=st.integers(0, 2**31), number=st.integers(1, 1000))
def test_a_drawn_round_has_its_size_and_nobody_twice(
    sizes: tuple[int, int], seed: int, number: int
) -> None:
    population, size = sizes
    drawn = participants(seed, number, population, size)
    assert drawn == sorted(set(drawn)) and len(drawn) == size
    assert set(drawn) <= set(range(population))
    assert drawn == participants(seed, number, population, size)
    assert participants(seed, number, population, 0) == list(range(population))


def test_rounds_are_drawn_afresh_and_evenly() -> None:
    """3 of 12 in 4000 rounds: each client 1000 times, within five standard deviations (27.4)."""
    rounds = [participants(0, number, 12, 3) for number in range(1, 4001)]
    counts = [sum(client in drawn for drawn in rounds) for client in range(12)]
    assert max(abs(count - 1000) for count in counts) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert rounds[:100] != [participants(1, number, 12, 3) for number in range(1, 101)]
