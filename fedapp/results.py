"""The numbers of a run, gathered from its events: what ``--json`` prints and the report shows.

Metrics have a namespace of their own (``event["metrics"]``): whatever a task, learner or workflow
measured under a name stands in a method's row under that name. Means are over seeds; what was not
computed is ``None``, never a substitute.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fedapp.config.pieces import Pieces
from fedapp.metric_names import ALWAYS, DERIVED, GAP, IN_TRAINING
from fedapp.store.runfolder import RunFolder
from strategies.learner import OBJECTIVE
from tasks.atomic import write_json
from tasks.errors import InputError

QUANTILES = (0.5, 0.9)  # of PSNR_p over clients


def mean_and_max(values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean and maximum, both ``None`` if any value is missing or not a number; ``n``: of how many
    clients."""
    numbers = list(values)
    if not numbers or any(value is None or not math.isfinite(value) for value in numbers):
        return {"mean": None, "max": None, "n": len(numbers)}
    known = [value for value in numbers if value is not None]
    return {"mean": sum(known) / len(known), "max": max(known), "n": len(known)}


def summarise(folder: RunFolder) -> dict[str, Any]:
    """The result of a run, finished or not, in the shape scripts rely on."""
    pieces = Pieces.of(folder)
    experiment = pieces.experiment
    events = list(folder.events())
    rounds = [event for event in events if event["event"] == "round"]
    spent = [event["epsilon"] for event in rounds if event.get("epsilon") is not None]
    return {
        "run": str(folder.path),
        "recipe": experiment.recipe,
        "task": experiment.task,
        "workflow": experiment.workflow_name,
        "rule": experiment.rule,
        "release": experiment.release,
        "exact": experiment.privacy.exact,
        "rounds": max((event["round"] for event in rounds), default=0),
        "population": experiment.clients.total,
        "seeds": experiment.seed_list,
        "seconds": sum(event.get("seconds", 0.0) for event in events),
        "methods": {method: _method(method, events, pieces) for method in experiment.method_list},
        "epsilon": max(spent, default=None),
        "delta": experiment.privacy.delta if spent else None,
        "bytes_up": sum(event["bytes_up"] for event in rounds),
        "bytes_down": sum(event["bytes_down"] for event in rounds),
        "clients": {
            "ok": sum(event["clients"]["ok"] for event in rounds),
            "failed": sum(event["clients"]["failed"] for event in rounds),
        },
        "rounds_skipped": sum(bool(event.get("skipped")) for event in rounds),
        "groups_skipped": sum(len(event.get("groups_skipped") or {}) for event in rounds),
        "fallbacks": sum(len(event.get("fallbacks", [])) for event in rounds),
        "unseen": sum(len(event.get("unseen", [])) for event in rounds),
        "remarks": _remarks(rounds),
    }


def _remarks(rounds: list[dict[str, Any]]) -> dict[str, str]:
    """Remarks on nodes, by node: the first of each."""
    found: dict[str, str] = {}
    for event in rounds:
        found = {**event.get("remarks", {}), **found}
    return found


def write_result(folder: RunFolder) -> dict[str, Any]:
    """Write ``result.json`` and return it."""
    result = summarise(folder)
    write_json(folder.result_file, result)
    return result


def _method(method: str, events: list[dict[str, Any]], pieces: Pieces) -> dict[str, Any]:
    """A method's row: what its last evaluation and its last turn measured, merged over seeds, and
    what follows from both."""
    judged: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    seeds = pieces.experiment.seed_list
    for seed in seeds:
        own = [
            event for event in events if (event.get("method"), event.get("seed")) == (method, seed)
        ]
        judged += [event for event in own if event["event"] == "evaluation"][-1:]
        turns += [event for event in own if event["event"] == "round"][-1:]
    row: dict[str, Any] = dict.fromkeys(ALWAYS)
    row |= merged([event["metrics"] for event in judged])
    row |= beside(judged, merged([event["metrics"] for event in turns]))
    row["psnr_p_quantiles"] = _quantiles(_told(method, seed, events) for seed in seeds)
    row |= membership_gap(row)
    return row


def refuse_derived(metrics: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for a measurement under the name of a value that a result derives (an
    epsilon above all: nothing that is measured may pass for a promise)."""
    for name in DERIVED:
        if name in metrics:
            raise InputError(
                "metrics", name, "a result derives this value itself", "report it by another name"
            )


def beside(judged: list[dict[str, Any]], turns: Mapping[str, Any]) -> dict[str, Any]:
    """Measurements of turns, under names that leave those of evaluations as they are."""
    taken = {name for event in judged for name in event["metrics"]}
    found: dict[str, Any] = {}
    for name, value in turns.items():
        while name in taken:
            name += IN_TRAINING
        found[name] = value
    return found


def _told(method: str, seed: int, events: list[dict[str, Any]]) -> dict[str, float] | None:
    """PSNR_p of each client, as told after the arm's last turn."""
    own = [event for event in events if (event.get("method"), event.get("seed")) == (method, seed)]
    last = max((event["round"] for event in own if event["event"] == "round"), default=0)
    told = [event["by_client"] for event in own if "by_client" in event and event["round"] == last]
    return told[-1].get("psnr_p") if told else None


def merged(tables: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of several seeds as one table; a metric that a seed lacks is ``None``."""
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: _merge(name, [table.get(name) for table in tables]) for name in names}


def _merge(name: str, values: list[Any]) -> Any:
    """One metric over seeds: the mean of numbers (the lowest of an objective's), any of booleans,
    the union of lists, tables entry by entry."""
    if any(value is None for value in values):
        return None
    first = values[0]
    if any(type(value) is not type(first) for value in values) and not all(
        isinstance(value, int | float) for value in values
    ):
        return None  # seeds that measured different things under one name have no mean
    if isinstance(first, bool):
        return any(values)
    if isinstance(first, Mapping):
        return {key: _merge(key, [value.get(key) for value in values]) for key in first}
    if isinstance(first, list):
        plain = all(isinstance(entry, int | float) for value in values for entry in value)
        return sorted({entry for value in values for entry in value}) if plain else None
    if not all(isinstance(value, int | float) for value in values):
        return first if all(value == first for value in values) else None
    if name == OBJECTIVE or name == "n":  # the worst of all seeds; clients that every seed has
        return min(values)
    return mean_and_max(values)["mean"]


def membership_gap(row: dict[str, Any]) -> dict[str, float | None]:
    """Advantage of members' uploads, rendered to their own signals, over the shared model rendered
    to non-members' (dB).

    ``member_minus_nonmember`` is that difference as it is; ``..._over_floor`` takes the best
    constant colour's PSNR off each side first, since some signals are easier than others for
    anybody.
    """
    member = _entry(row["psnr_p"], "mean")
    other = _entry(row["psnr"], "0")
    floor = _entry(row["psnr_floor"], "mean")
    other_floor = row["psnr_floor_held_out"]
    gap = None if member is None or other is None else member - other
    known = gap is not None and floor is not None and other_floor is not None
    over = gap - (floor - other_floor) if known else None
    return dict(zip(GAP, (gap, over), strict=True))


def _entry(table: Any, key: str) -> float | None:
    """An entry of a table; ``None`` where a plug-in measured something else under its name."""
    found = table.get(key) if isinstance(table, Mapping) else None
    return found if isinstance(found, int | float) else None


def _quantiles(tables: Iterable[Mapping[str, float] | None]) -> dict[str, float | None]:
    """Quantiles of a per-client metric over the clients of all seeds."""
    values = sorted(
        value for table in tables for value in (table or {}).values() if value is not None
    )
    if not values or not all(math.isfinite(value) for value in values):
        return {f"{q:g}": None for q in QUANTILES}
    found: dict[str, float | None] = {}
    for q in QUANTILES:
        place = q * (len(values) - 1)
        low = int(place)
        high = min(low + 1, len(values) - 1)
        found[f"{q:g}"] = values[low] + (place - low) * (values[high] - values[low])
    return found
