"""Rows of a benchmark: ours beside a reference, and beside what the machine itself needs.

A row holds its target in one of two ways. Its ratio reaches the target; or no program could reach
the target on this machine (``reference / limit < target``), and ours comes within
:data:`NEAR` of the limit. Which of the two it was stands in ``by``. The target that is printed is
always the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

NEAR = 0.85  # of the limit: what an unreachable target is replaced by

By = Literal["ratio", "limit"]


class Limit(NamedTuple):
    """Least cost of a row's work on this machine: ``value`` in the row's unit, ``made_of`` in
    words."""

    value: float
    made_of: str


class Row(TypedDict):
    """One line of a benchmark; ``None`` stands for what does not exist or was not measured."""

    case: str
    unit: str
    ours: float | None
    reference: float | None
    ratio: float | None  # reference / ours: how many times better ours is
    target: float | None  # of the ratio
    limit: float | None
    limit_is: str | None
    fraction: float | None  # limit / ours: 1 leaves nothing to gain
    holds: bool | None
    by: By | None
    measured: NotRequired[float]  # share of the reference that was timed rather than multiplied up
    note: NotRequired[str]


def row(
    case: str,
    unit: str,
    ours: float,
    reference: float | None,
    target: float | None,
    limit: Limit | None = None,
) -> Row:
    """A row whose ratio is reference / ours.

    Args:
        case: the name of the row.
        unit: unit of ``ours``, ``reference`` and ``limit``, in which less is better.
        ours: measured, above 0.
        reference: measured, ``None`` where there is none.
        target: what the ratio should at least be, ``None`` where nothing is asked.
        limit: what the machine needs for the same work, ``None`` where that is not known.
    """
    ratio = None if reference is None else reference / ours
    fraction = None if limit is None else limit.value / ours
    by = _held_by(ratio, target, fraction)
    return {
        "case": case,
        "unit": unit,
        "ours": ours,
        "reference": reference,
        "ratio": ratio,
        "target": target,
        "limit": None if limit is None else limit.value,
        "limit_is": None if limit is None else limit.made_of,
        "fraction": fraction,
        "holds": None if target is None else by is not None,
        "by": by,
    }


def at_most(case: str, unit: str, ours: float, bound: float, limit: Limit | None = None) -> Row:
    """A row that compares ours with a fixed bound instead of a measured reference.

    Args:
        case: the name of the row.
        unit: unit of ``ours``, ``bound`` and ``limit``.
        ours: measured, above 0.
        bound: what ours should not exceed.
        limit: what the machine needs for the same work, ``None`` where that is not known.
    """
    return row(case, unit, ours, bound, 1.0, limit)


def unmeasured(case: str, unit: str, note: str) -> Row:
    """A row that this machine cannot measure, and why."""
    return {
        "case": case,
        "unit": unit,
        "ours": None,
        "reference": None,
        "ratio": None,
        "target": None,
        "limit": None,
        "limit_is": None,
        "fraction": None,
        "holds": None,
        "by": None,
        "note": note,
    }


def _held_by(ratio: float | None, target: float | None, fraction: float | None) -> By | None:
    """Way in which the target holds, if it does."""
    if target is None or ratio is None:
        return None
    if ratio >= target:
        return "ratio"
    # ratio / fraction is reference / limit: the ratio of a program that wastes nothing
    if fraction is not None and fraction >= NEAR and ratio / fraction < target:
        return "limit"
    return None


def missed(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows that do not hold their target."""
    return [entry for entry in rows if entry.get("holds") is False]


def shown(entry: Mapping[str, Any]) -> str:
    """A row as one line of the terminal; one with a dozen figures says in ``shown`` which
    matter."""
    names = [name for name in entry.get("shown", entry) if entry[name] is not None]
    parts = [f"{name} {_brief(entry[name])}" for name in names if name not in _WORDED]
    if entry.get("limit") is not None:
        parts.append(f"limit {_brief(entry['limit'])} ({entry['limit_is']})")
        parts.append(f"fraction {entry['fraction']:.2f}")
    if entry.get("holds") is not None:
        parts.append(f"holds by {entry['by']}" if entry["holds"] else "DOES NOT HOLD")
    return "  ".join(parts)


_WORDED = ("limit", "limit_is", "fraction", "holds", "by", "shown")


def _brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """Targets of a whole benchmark held and not held, in one line."""
    asked = [entry for entry in rows if entry.get("holds") is not None]
    near = sum(entry["by"] == "limit" for entry in asked)
    below = len(missed(asked))
    return (
        f"{len(asked)} targets: {len(asked) - near - below} held by ratio, {near} by limit "
        f"(out of reach of this machine, ours within {NEAR} of it), {below} not held"
    )
