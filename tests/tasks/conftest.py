"""Shared by the tests of tasks."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings of the smallest talking head that has every part."""
    return {"rank": 2, "alpha": 4, "window": 2, "sampling_steps": 1, "tdc": 0.05}
