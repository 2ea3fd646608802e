"""The numbers of a run, gathered from its events: what ``--json`` prints and the report shows.

Means are over seeds; what was not computed is ``None``, never a substitute.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import build_learner
from fedapp.store.atomic import write_json
from fedapp.store.runfolder import RunFolder
from privacy.attacks import render
from strategies.local import LOCAL

EVALUATED = ("psnr", "ssim", "lpips", "psnr_tuned", "psnr_unseen_tuned")
QUANTILES = (0.5, 0.9)  # of PSNR_p over clients
HANDLED = (  # of an evaluation's event: what is summed up by name, and what is no measurement
    *EVALUATED, "rates_tuned", "diverged", "psnr_floor_held_out", "range_excess", "own",
    "event", "round", "method", "seed", "final", "seconds",
)  # fmt: skip


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
    experiment = Experiment.from_run_config(folder.config)
    events = list(folder.events())
    rounds = [event for event in events if event["event"] == "round"]
    return {
        "run": str(folder.path),
        "recipe": experiment.recipe,
        "task": experiment.task,
        "rule": experiment.rule,
        "release": experiment.release,
        "rounds": max((event["round"] for event in rounds), default=0),
        "population": experiment.clients.total,
        "seeds": experiment.seed_list,
        "seconds": sum(event.get("seconds", 0.0) for event in events),
        "methods": {
            method: _method(method, events, experiment) for method in experiment.method_list
        },
        "epsilon": max(
            (event["epsilon"] for event in rounds if event.get("epsilon") is not None), default=None
        ),
        "delta": experiment.privacy.delta
        if any(event.get("epsilon") is not None for event in rounds)
        else None,
        "bytes_up": sum(event["bytes_up"] for event in rounds),
        "bytes_down": sum(event["bytes_down"] for event in rounds),
        "clients": {
            "ok": sum(event["clients"]["ok"] for event in rounds),
            "failed": sum(event["clients"]["failed"] for event in rounds),
        },
    }


def write_result(folder: RunFolder) -> dict[str, Any]:
    """Write ``result.json`` and return it."""
    result = summarise(folder)
    write_json(folder.result_file, result)
    return result


def _method(method: str, events: list[dict[str, Any]], experiment: Experiment) -> dict[str, Any]:
    finals, uploads = [], []
    for seed in experiment.seed_list:
        own = [
            event for event in events if event.get("method") == method and event.get("seed") == seed
        ]
        finals += [event for event in own if event["event"] == "evaluation"][-1:]
        uploads += [event for event in own if event["event"] == "round"][-1:]
    row: dict[str, Any] = {
        key: _mean_of_tables([event.get(key) for event in finals]) for key in EVALUATED
    }
    row["rates_tuned"] = _union_of_tables([event.get("rates_tuned") for event in finals])
    row["diverged"] = any(event.get("diverged") for event in finals) if finals else None
    for name in render.METRICS:
        means = [event.get(name) or {} for event in uploads]
        row[name] = (
            {key: _mean([entry.get(key) for entry in means]) for key in ("mean", "max")}
            if uploads
            else None
        )
        if row[name] is not None:
            row[name]["n"] = min(entry.get("n", 0) for entry in means)
    row["psnr_p_quantiles"] = _quantiles(
        [event.get("by_client", {}).get("psnr_p") for event in uploads]
    )
    row["psnr_floor_held_out"] = _mean([event.get("psnr_floor_held_out") for event in finals])
    row |= membership_gap(row)
    row["epsilon_local"] = _local_epsilon(method, experiment, events)
    row |= _own([event.get("own") for event in finals])
    row = _own([own_metrics(event) for event in finals]) | row
    row["objective_min"] = min(
        (e["objective_min"] for e in uploads if e.get("objective_min") is not None), default=None
    )
    return row


def own_metrics(event: dict[str, Any]) -> dict[str, Any]:
    """What a task measured that nothing else here knows by name: numbers, and tables of numbers."""
    return {
        name: value for name, value in event.items()
        if name not in HANDLED and isinstance(value, int | float | dict) and not isinstance(value, bool)
    }  # fmt: skip


def own_names(events: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the plain numbers among :func:`own_metrics` of all evaluations."""
    tables = [own_metrics(event) for event in events if event["event"] == "evaluation"]
    return sorted(
        {name for table in tables for name, value in table.items() if not isinstance(value, dict)}
    )


def membership_gap(row: dict[str, Any]) -> dict[str, float | None]:
    """How much better members' uploads render to their own signals than the shared model does to
    strangers' (dB).

    ``member_minus_nonmember`` is that difference as it is; ``..._over_floor`` takes the best flat
    colour's PSNR off each side first, since some signals are easier than others for anybody.
    """
    member, stranger = (row["psnr_p"] or {}).get("mean"), (row["psnr"] or {}).get("0")
    floor, other = (row["psnr_floor"] or {}).get("mean"), row["psnr_floor_held_out"]
    gap = None if member is None or stranger is None else member - stranger
    over = None if gap is None or floor is None or other is None else gap - (floor - other)
    return {"member_minus_nonmember": gap, "member_minus_nonmember_over_floor": over}


def _quantiles(tables: list[dict[str, float] | None]) -> dict[str, float | None]:
    """Quantiles of a per-client metric over the clients of all seeds."""
    values = sorted(value for table in tables for value in (table or {}).values())
    if not values or not all(math.isfinite(value) for value in values):
        return {f"{q:g}": None for q in QUANTILES}
    places = {f"{q:g}": q * (len(values) - 1) for q in QUANTILES}
    return {
        name: values[int(place)]
        + (place - int(place)) * (values[min(int(place) + 1, len(values) - 1)] - values[int(place)])
        for name, place in places.items()
    }


def _local_epsilon(
    method: str, experiment: Experiment, events: list[dict[str, Any]]
) -> float | None:
    """What a learner that noises its own steps has spent of a client that took part in every round,
    for all seeds."""
    learner = build_learner(experiment, method) if method != LOCAL else None
    spent = getattr(learner, "local_epsilon", None)
    if spent is None or experiment.learner.steps_by_examples:
        return None
    rounds = sum(event["event"] == "round" and event["method"] == method for event in events)
    return (
        spent(rounds * experiment.learner.outer_steps, experiment.privacy.delta) if rounds else None
    )


def _own(tables: list[dict[str, Any] | None]) -> dict[str, Any]:
    """What only this task measures, over seeds: numbers become means, tables means of their
    entries."""
    known = [table for table in tables if table]
    if not known or len(known) < len(tables):
        return {}
    merged: dict[str, Any] = {}
    for name, first in known[0].items():
        values = [table.get(name) for table in known]
        if isinstance(first, dict):
            merged[name] = _own(values)
        else:
            merged[name] = _mean(values)
    return merged


def _mean(values: list[float | None]) -> float | None:
    return mean_and_max(values)["mean"]


def _mean_of_tables(tables: list[dict[str, float | None] | None]) -> dict[str, float | None] | None:
    if not tables or any(table is None for table in tables):
        return None
    keys = [key for table in tables[:1] for key in table or {}]
    return {key: _mean([(table or {}).get(key) for table in tables]) for key in keys}


def _union_of_tables(tables: list[dict[str, list[float]] | None]) -> dict[str, list[float]] | None:
    if not tables or any(table is None for table in tables):
        return None
    keys = [key for table in tables[:1] for key in table or {}]
    return {
        key: sorted({value for table in tables for value in (table or {})[key]}) for key in keys
    }
