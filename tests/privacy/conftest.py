"""Fixtures of the protocol tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cohort import Cohort

from privacy.secagg.identity import Policy


@pytest.fixture
def cohort(tmp_path: Path) -> Callable[..., Cohort]:
    """``cohort(n)``: n nodes with pinned keys and vaults on disk."""
    made = 0

    def make(n: int, policy: Policy | None = None) -> Cohort:
        nonlocal made
        made += 1
        return Cohort(tmp_path / str(made), n, policy)

    return make
