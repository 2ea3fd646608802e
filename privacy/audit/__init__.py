"""Empirical audit of the noise: canary clients through the real release, read in three ways.

canary      clients whose contribution is as large as the clip allows, in directions of their own
estimators  one estimate of epsilon, and two lower bounds that hold with 95 % confidence
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def verdict(rows: Sequence[Mapping[str, float | str | int | None]]) -> str:
    """FAIL if any test failed, WARN if only the estimate exceeds the claim, NOT TESTED if some test
    could not have failed."""
    found = {row["verdict"] for row in rows}
    return next((word for word in ("FAIL", "WARN", "NOT TESTED") if word in found), "PASS")
