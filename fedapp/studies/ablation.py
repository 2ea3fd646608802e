"""Ablation study: the same run with parts switched on, paired by seed, with
intervals.

Variants share people, backbone, participants and batches seed by seed, so differences are taken
within a seed. An interval is Student's at 95 % over seeds; a difference whose interval holds 0 is
called "within noise", whatever its sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from fedapp.store.runfolder import FINISHED, RunFolder
from tasks.errors import InputError

Overrides = dict[str, Any]

TALKING_HEAD: dict[str, Overrides] = {
    "adapters only": {"rule": "fedavg", "talking-head.tdc": 0.0},
    "+ ISFA": {"rule": "isfa", "talking-head.tdc": 0.0},
    "+ TDC": {"rule": "fedavg", "talking-head.tdc": 0.05},
    "+ FedProx": {
        "rule": "fedprox",
        "talking-head.tdc": 0.0,
        "rules.fedprox.mu": 3e-4,
    },  # 0.1 would hold AdamW still
    "+ DP, z = 0.1": {"rule": "fedavg", "talking-head.tdc": 0.0, "privacy.noise-multiplier": 0.1},
    "+ DP, z = 1": {"rule": "fedavg", "talking-head.tdc": 0.0, "privacy.noise-multiplier": 1.0},
    "full (ISFA, TDC, DP z = 0.1)": {
        "rule": "isfa",
        "talking-head.tdc": 0.05,
        "privacy.noise-multiplier": 0.1,
    },
}
PRIVATE: Overrides = {
    "release": "central-dp",
    "privacy.clip-norm": 10.0,
    "privacy.epsilon-max": 1e6,
}
METRICS = ("mouth_corr", "mouth_error", "psnr", "jitter_error")
BASE = "adapters only"


def variants(recipe: str) -> Mapping[str, Overrides]:
    """The variants of a recipe's task, complete with what noise needs."""
    if recipe != "talking-head":
        raise InputError(
            "ablate", recipe, "no ablation is written for this recipe", "use talking-head"
        )
    return {
        name: (PRIVATE if "privacy.noise-multiplier" in changes else {}) | changes
        for name, changes in TALKING_HEAD.items()
    }


def per_seed(folder: RunFolder) -> dict[str, list[float | None]]:
    """Final values of each metric, one per seed, of the first trained method."""
    experiment = folder.experiment
    method = experiment.trained_methods[0]
    found: dict[str, list[float | None]] = {name: [] for name in METRICS}
    for seed in experiment.seed_list:
        last = [
            event
            for event in folder.events()
            if event["event"] == "evaluation"
            and event["method"] == method
            and event["seed"] == seed
            and event["final"]
        ]
        measured = last[-1]["metrics"] if last else {}
        for name in METRICS:
            value = measured.get(name)
            found[name].append(value["0"] if isinstance(value, dict) else value)
    return found


def interval(values: list[float | None]) -> tuple[float | None, float | None]:
    """Mean and half width of its 95 % interval; ``None`` where a value is missing, or for the width
    of a single one."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None, None
    mean = sum(known) / len(known)
    if len(known) < 2:
        return mean, None
    deviation = math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1))
    return mean, float(student.ppf(0.975, len(known) - 1)) * deviation / math.sqrt(len(known))


def ablate(
    recipe: str,
    seeds: str,
    folder: Path,
    overrides: Overrides,
    run: Callable[[Overrides, Path], None],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Run all variants (those already finished in ``folder`` are not run again) and tabulate
    them."""
    folder.mkdir(parents=True, exist_ok=True)
    switched = {key for changes in variants(recipe).values() for key in changes} & set(overrides)
    if switched:
        raise InputError(
            "-o", ", ".join(sorted(switched)), "is what the variants differ in", "leave it to them"
        )
    found, epsilon = {}, {}
    for number, (name, changes) in enumerate(variants(recipe).items()):
        place = RunFolder(folder / f"{number}-{''.join(c if c.isalnum() else '-' for c in name)}")
        wanted = {
            **changes,
            **overrides,
            "seeds": seeds,
            "methods": "adapters",
            "report.page": False,
        }
        stale = [
            key for key, value in wanted.items() if place.config and place.config[key] != value
        ]
        if stale:
            raise InputError(
                "--folder",
                str(place.path),
                f"holds a run with another {stale[0]}",
                "name another folder, or delete it",
            )
        if place.status.get("state") != FINISHED:
            tell(name)
            run(wanted, place.path)
        found[name] = per_seed(place)
        epsilon[name] = max(
            (e["epsilon"] for e in place.events() if e.get("epsilon") is not None), default=None
        )
    rows = []
    for name, values in found.items():
        row: dict[str, Any] = {
            "variant": name,
            "epsilon": epsilon[name],
            "seeds": len(seeds.split(",")),
        }
        for metric in METRICS:
            mean, half = interval(values[metric])
            gaps = [
                None if a is None or b is None else a - b
                for a, b in zip(values[metric], found[BASE][metric], strict=True)
            ]
            gain, width = interval(gaps)
            row[metric] = {"mean": mean, "half_width": half, "gain": gain, "gain_half_width": width}
            row[metric]["verdict"] = verdict(name, gain, width)
        rows.append(row)
    return {"recipe": recipe, "rows": rows}


def verdict(name: str, gain: float | None, width: float | None) -> str:
    """Word for a difference to the base."""
    if name == BASE:
        return "base"
    if gain is None or width is None:
        return "not computed"
    return "within noise" if abs(gain) <= width else "higher" if gain > 0 else "lower"


def _gain(entry: dict[str, Any]) -> str:
    """A difference to the base in words and in size."""
    if entry["gain"] is None or entry["verdict"] in ("within noise", "not computed"):
        return str(entry["verdict"])
    return f"{entry['verdict']}, {entry['gain']:+.1g}"


def markdown(result: dict[str, Any]) -> str:
    """The table as it stands in the README."""
    titles = ("mouth correlation ↑", "mouth error ↓", "PSNR ↑", "jitter error ↓")
    lines = ["| variant | ε | " + " | ".join(titles) + " |", "|---|---|" + "---|" * len(titles)]
    for row in result["rows"]:
        cells = []
        for metric in METRICS:
            entry = row[metric]
            if entry["mean"] is None:
                cells.append("not computed")
                continue
            digits = {"psnr": 2, "jitter_error": 4}.get(metric, 3)
            spread = "" if entry["half_width"] is None else f" ± {entry['half_width']:.{digits}f}"
            note = "" if entry["verdict"] == "base" else f" ({_gain(entry)})"
            cells.append(f"{entry['mean']:.{digits}f}{spread}{note}")
        epsilon = "–" if row["epsilon"] is None else f"{row['epsilon']:.3g}"
        lines.append(f"| {row['variant']} | {epsilon} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
