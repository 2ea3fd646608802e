"""Input of a budget report, and the few values all its parts use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privacy.audit import verdict
from privacy.budget.ledger import Head
from privacy.releases.lattice import LatticeRelease


@dataclass(frozen=True)
class Facts:
    """Everything a report is made from; ``fields`` is the wire table {field: (kind, why)}."""

    entries: Sequence[Mapping[str, Any]]
    head: Head
    ledger_id: str
    release_name: str
    release: LatticeRelease
    sampling: str
    population: int
    per_round: int
    expected: float  # clients per round on average: what sums are divided by
    run: str
    population_name: str
    planned_rounds: int  # of one arm
    arms: int
    separation: int
    delta: float
    epsilon_max: float
    colluding: int
    parameters: int
    fields: Mapping[str, tuple[str, str]]
    # Per round: clip norm, noise and signal norms, where they were logged
    realised: Sequence[Mapping[str, Any]] = ()
    audit: Sequence[Mapping[str, Any]] = ()
    noise: Sequence[Mapping[str, Any]] = ()
    attacks: Sequence[Mapping[str, Any]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def weakest(facts: Facts) -> tuple[str, bool]:
    """(placement, masked): the least that any charged round in the ledger gave; this run's own if
    none was charged."""
    reserves = [entry for entry in facts.entries if entry["type"] == "reserve"]
    if not reserves:
        return facts.release.placement, facts.release.masked
    order = ("none", "central", "distributed")
    placement = min((str(entry["placement"]) for entry in reserves), key=order.index)
    return placement, all(entry["masked"] for entry in reserves)


def audit_verdict(facts: Facts) -> str:
    """The worst verdict of the run's audits."""
    rows = [*facts.audit, *facts.noise]
    return verdict(rows) if rows else "not audited"


def shown(value: float | None) -> str:
    """A number as the report's sentences write it."""
    if value is None:
        return "not computed"
    return f"{value:.4g}" if math.isfinite(value) else "infinite"
