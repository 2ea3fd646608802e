"""Closed forms of the integer lattice: how fine it is, and how long a rounded vector may be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.entropy import BLOCK, Entropy
from privacy.ring import HALF, add_rounded, levels, rounded_norm, signed


@given(clients=st.integers(1, 10_000), noise=st.floats(0, 1e4))
def test_levels_are_as_many_as_fit_below_half_the_ring(clients: int, noise: float) -> None:
    """Head-room is n clients and eleven deviations; one level more would not fit."""
    room = clients + 11.0 * noise
    count = levels(clients, noise)
    assert count * room <= HALF - 1 < (count + 1) * room * (1 + 1e-12)


@pytest.mark.parametrize(
    ("clients", "noise", "count"),
    [
        (1, 0.0, 2_147_483_647),
        (3, 0.0, 715_827_882),  # (2^31 - 1) / 3 = 715827882.33
        (1, 1.0, 178_956_970),  # / 12 = 178956970.58
        (2, 0.5, 286_331_152),  # / 7.5 = 286331152.93
        (2_097_151, 0.0, 1024),  # the coarsest lattice that is accepted
    ],
)
def test_levels_by_hand(clients: int, noise: float, count: int) -> None:
    assert levels(clients, noise) == count


def test_a_lattice_coarser_than_ten_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="leave 1023 levels"):
        levels(2_097_152, 0.0)


@settings(max_examples=20, deadline=None)
@given(
    length=st.sampled_from([1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3]),
    start=st.integers(0, 2**32 - 1),
    seed=st.integers(0, 99),
)
def test_what_is_added_is_the_vector_within_one_quantum_and_its_norm_is_told(
    length: int, start: int, seed: int
) -> None:
    """Also for vectors longer than one block of entropy, and onto a total that wraps."""
    row = np.random.default_rng(seed).normal(size=length)
    row /= np.linalg.norm(row)
    count = 2**20
    total = np.full(length, start, np.uint32)
    norm = add_rounded(total, row, count, Entropy())
    added = signed(total - np.uint32(start))
    assert np.abs(added - row * count).max() < 1
    assert norm == pytest.approx(math.sqrt(float((added**2).sum())), rel=1e-12)
    assert norm <= rounded_norm(count, 1.0, length) == count + math.sqrt(length)


def test_nothing_has_no_norm_and_changes_nothing() -> None:
    total = np.arange(7, dtype=np.uint32)
    assert add_rounded(total, np.zeros(7), 1000, Entropy()) == 0.0
    assert (total == np.arange(7)).all()


def test_the_upper_half_of_the_ring_is_negative() -> None:
    total = np.array([0, 1, HALF - 1, HALF, 2**32 - 1], np.uint32)
    found = signed(total)
    assert found.dtype == np.int64 and found.tolist() == [0, 1, HALF - 1, -HALF, -1]
