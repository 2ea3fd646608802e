"""Linking updates to people: perfect, useless and tied scores, derived by hand."""

from __future__ import annotations

import numpy as np
import pytest

from privacy.attacks.linkage import centred, linkage


def test_owners_who_gain_most_are_all_linked() -> None:
    gain = (
        0.1 * np.eye(5) + np.linspace(0, 3, 5)[None, :] + np.linspace(-2, 1, 5)[:, None]
    )  # candidates, updates differ
    found = linkage(gain, 0.1)
    assert found.top1 == 1.0 and found.auc == pytest.approx(1.0) and found.power == 1.0


def test_the_same_message_for_everybody_is_chance() -> None:
    gain = np.repeat(np.random.default_rng(0).normal(size=(1, 8)), 8, 0)
    found = linkage(gain, 0.1)
    assert (
        found.top1 == pytest.approx(1 / 8)
        and found.auc == pytest.approx(0.5)
        and found.power == 0.0
    )


def test_negative_control_owners_who_gain_least_are_never_linked() -> None:
    found = linkage(-np.eye(5), 0.1)
    assert found.top1 == 0.0 and found.auc == pytest.approx(0.0)


def test_centring_takes_off_both_means() -> None:
    score = centred(np.random.default_rng(1).normal(size=(4, 6)))
    assert np.allclose(score.mean(0), 0) and np.allclose(score.mean(1), 0)
