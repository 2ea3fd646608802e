"""The frontier of obscured uploads: how often a person is recognised, and what the fit is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from fedapp.report.figures import PALETTE, STYLE, svg

CHANCE = "#94a3b8"


def _draw(axes: Axes, frontier: list[dict[str, Any]], chance: float) -> None:
    for index, point in enumerate(frontier):
        colour = PALETTE[index % len(PALETTE)]
        across, up = point["face_ratio"], point["rank1"]
        axes.plot([across] * 2, [point["low"], point["high"]], lw=0.9, color=colour, alpha=0.6)
        marker = "o" if index < len(PALETTE) else "s"
        axes.plot([across], [up], marker, ms=6, color=colour, label=point["operator"])
        if point["one_picture"] is not None:
            axes.plot([across], [point["one_picture"]], marker, ms=6, color=colour, mfc="none")
    axes.axhline(chance, lw=0.8, ls=":", color=CHANCE)
    axes.axhspan(0, 2 * chance, 0, 1, color=CHANCE, alpha=0.25, lw=0)
    axes.axvline(0.6, lw=0.8, ls=":", color=CHANCE)
    axes.axvline(1.0, lw=0.8, color=CHANCE)
    axes.set_xlabel("distance of the fitted face from the truth, stage 1 = 1")
    axes.set_ylabel("recognised at rank 1: best attack, one picture (hollow)")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))


def leak_frontier(frontier: list[dict[str, Any]], chance: float) -> str:
    """SVG: to the left is useful, upwards leaks; hollow: from one picture of another day. Dotted:
    chance, and 0.6 of stage 1; grey: at most twice chance."""
    if not frontier:
        return ""
    return svg(lambda axes: _draw(axes, frontier, chance), 9.5, 4.2)


def save_frontier(target: Path, frontier: list[dict[str, Any]], chance: float) -> None:
    """The same as a PNG."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9.5, 4.2), layout="constrained")
        _draw(axes, frontier, chance)
        figure.savefig(target, dpi=110)
        plt.close(figure)
