"""The quadratic task of the contract kit, as a fixture."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedapp.contract.quadratic import QuadraticTask


@pytest.fixture
def quadratic() -> Callable[..., QuadraticTask]:
    return QuadraticTask
