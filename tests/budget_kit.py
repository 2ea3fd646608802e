"""A budget report's facts by hand, for tests of its numbers and of its page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from privacy.budget.facts import Facts
from privacy.budget.ledger import Head
from privacy.releases.central import CentralDP
from privacy.settings import PrivacySettings

DELTA = 1e-5


def charged(
    count: int, multiplier: float = 2.0, placement: str = "central", masked: bool = False
) -> list[Any]:
    """The entries of so many rounds of clients 0 and 1."""
    reserve = {
        "type": "reserve",
        "multiplier": multiplier,
        "rate": 0.0,
        "placement": placement,
        "masked": masked,
        "run": "r",
    }
    cohort, release = (
        {"type": "cohort", "clients": [0, 1], "run": "r"},
        {"type": "release", "counted": 2, "run": "r"},
    )
    return [entry for _ in range(count) for entry in (reserve, cohort, release)]


def facts(entries: list[Any], multiplier: float = 2.0, **changes: Any) -> Facts:
    """A run of two clients under central-dp that planned ten rounds."""
    whole = Facts(
        entries=entries,
        head=Head(0, "0" * 64),
        ledger_id="ledger",
        release_name="central-dp",
        release=CentralDP(PrivacySettings(noise_multiplier=multiplier), 10),
        sampling="fixed",
        population=2,
        per_round=2,
        expected=2.0,
        run="r",
        population_name="",
        planned_rounds=10,
        arms=1,
        separation=1,
        delta=DELTA,
        epsilon_max=50.0,
        colluding=0,
        parameters=10,
        fields={},
    )
    return replace(whole, **changes)
