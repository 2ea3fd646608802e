"""The utility-leak frontier of split radiance fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from fedapp.report.figures import PALETTE, STYLE, svg

LEAKED = "leaked picture"  # attackers that begin with one
CONTROL = "control"
CHANCE = "#94a3b8"


def points_of(grouped: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A point per design: the client's PSNR, and the edges of the attacker that exceeds its own
    band by most, ``alone`` (with what crosses only) and where a picture has ``leaked`` to it, each
    with the top of that band. Controls (a known initial head, secret signs, holders that pool) are
    left out, and designs whose client does not render."""
    found: dict[str, dict[str, Any]] = {}
    for row in grouped:
        control = CONTROL in row["attack"] or CONTROL in row["design"]
        if control or row["edge"]["sees"] == "both" or row["psnr"] is None:
            continue
        point = found.setdefault(row["design"], {"design": row["design"], "psnr": row["psnr"]})
        kind = "leaked" if LEAKED in row["attack"] else "alone"
        value, chance = row["edge"]["value"], row["edge"]["chance"]
        best = point.get(kind)
        if best is None or value - chance > best["value"] - best["chance"]:
            point[kind] = {"value": value, "chance": chance}
    return list(found.values())


def _draw(axes: Axes, grouped: list[dict[str, Any]], baselines: dict[str, float]) -> None:
    points = points_of(grouped)
    for index, point in enumerate(points):
        colour = PALETTE[index % len(PALETTE)]
        marker = "s" if index >= len(PALETTE) else "o"
        for kind, face in (("alone", colour), ("leaked", "none")):
            if kind not in point:
                continue
            value, chance = point[kind]["value"], point[kind]["chance"]
            axes.plot([point["psnr"]] * 2, [chance, value], lw=0.8, color=colour, alpha=0.5)
            axes.plot([point["psnr"]], [chance], "_", ms=7, color=CHANCE)
            label = point["design"] if kind == "alone" else None
            axes.plot([point["psnr"]], [value], marker, ms=6, color=colour, mfc=face, label=label)
    for name, reached in baselines.items():
        axes.plot([reached], [0], "^", ms=7, color="#334155")
        axes.annotate(
            name, (reached, 0), (0, 8), textcoords="offset points", rotation=90, fontsize=8,
            ha="center", va="bottom", color="#334155",
        )  # fmt: skip
    axes.set_xlabel("client's PSNR on held-out views (dB)")
    axes.set_ylabel("edges that the best attacker finds")
    axes.set_ylim(-0.04, 1)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def leak_frontier(grouped: list[dict[str, Any]], baselines: dict[str, float]) -> str:
    """SVG: to the right is useful, upwards leaks. Filled: attackers that have what crosses; hollow:
    one picture has leaked to them as well; grey ticks: mean + 3 sd on transcripts that hold
    nothing; triangles: nothing crosses."""
    if not grouped:
        return ""
    return svg(lambda axes: _draw(axes, grouped, baselines), 8.6, 4.4)


def save_frontier(path: Path, grouped: list[dict[str, Any]], baselines: dict[str, float]) -> None:
    """The same as a picture."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.6, 4.4), layout="constrained")
        _draw(axes, grouped, baselines)
        figure.savefig(path, dpi=110)
        plt.close(figure)
