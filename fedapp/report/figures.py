"""Curves as inline SVG (matplotlib, no display needed)."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fedapp.report.table import lookup

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "xtick.color": "#64748b",
    "ytick.color": "#64748b",
    "svg.fonttype": "none",
    "svg.hashsalt": "fedapp",
}


PALETTE = ("#2563eb", "#0ea5e9", "#f59e0b", "#ef4444", "#8b5cf6", "#10b981", "#ec4899", "#64748b")


def svg(draw: Any, width: float = 5.2, height: float = 3.1) -> str:
    """The SVG of what ``draw(axes)`` draws, without XML prologue so that it can stand in a page."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
        plt.close(figure)
    bare = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.S)
    return re.sub(r"^.*?(?=<svg)", "", bare, flags=re.S)


def legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def over_rounds(
    events: list[dict[str, Any]],
    methods: list[str],
    titles: dict[str, str],
    colours: dict[str, str],
    path: tuple[str, ...],
    label: str,
) -> str:
    """A line per method (mean over seeds, band from lowest to highest seed) of the metric at
    ``path``."""

    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        for method in methods:
            points: dict[int, list[float]] = {}
            for event in events:
                if event.get("method") != method or "metrics" not in event:
                    continue  # an early end tells single clients' values in an event of their own
                value = lookup(event["metrics"], path)
                if value is not None:
                    points.setdefault(event["round"], []).append(value)
            rounds = sorted(points)
            if not rounds:
                continue
            means = [sum(points[r]) / len(points[r]) for r in rounds]
            axes.plot(
                rounds, means, "o-", ms=3, lw=1.8, color=colours[method], label=titles[method]
            )
            low, high = [min(points[r]) for r in rounds], [max(points[r]) for r in rounds]
            axes.fill_between(rounds, low, high, color=colours[method], alpha=0.12, lw=0)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(label)
        legend(axes)

    return svg(draw)


def over_steps(
    result: dict[str, Any], order: list[str], titles: dict[str, str], colours: dict[str, str]
) -> str:
    """PSNR against steps of test-time optimisation: solid at the common step size, dotted at the
    tuned one."""

    def draw(axes: Axes) -> None:
        steps: list[str] = []
        for method in order:
            for table, style in (
                (result["methods"][method]["psnr"], "o-"),
                (result["methods"][method]["psnr_tuned"], ":"),
            ):
                if not table:
                    continue
                steps = list(table)
                values = [float("nan") if value is None else value for value in table.values()]
                label = titles[method] if style == "o-" else None
                axes.plot(
                    range(len(steps)),
                    values,
                    style,
                    ms=3,
                    lw=1.6,
                    color=colours[method],
                    label=label,
                )
        axes.set_xticks(range(len(steps)), steps)
        axes.set_xlabel("test-time steps (dotted: step size tuned per method)")
        axes.set_ylabel("PSNR on unseen pictures (dB)")
        legend(axes)

    return svg(draw)


def personalisation(
    result: dict[str, Any], order: list[str], titles: dict[str, str], colours: dict[str, str]
) -> str:
    """Mouth error against steps on one's own clips: everybody solid, reserved speakers dashed."""

    def draw(axes: Axes) -> None:
        steps: list[str] = []
        for method in order:
            curves = result["methods"][method].get("personalised") or {}
            for key, style in (("mouth_error", "o-"), ("mouth_error_reserved", "s--")):
                if not curves.get(key):
                    continue
                steps = list(curves[key])
                values = [
                    float("nan") if value is None else value for value in curves[key].values()
                ]
                label = titles[method] + ("" if style == "o-" else ", reserved")
                axes.plot(
                    range(len(steps)),
                    values,
                    style,
                    ms=3,
                    lw=1.6,
                    color=colours[method],
                    label=label,
                )
        axes.set_xticks(range(len(steps)), steps)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("steps on a person's own clips")
        axes.set_ylabel("mouth error (1 = closed to open)")
        legend(axes)

    return svg(draw)


def frontier(
    result: dict[str, Any],
    methods: list[str],
    titles: dict[str, str],
    colours: dict[str, str],
    step: str,
) -> str:
    """Privacy against quality: lower PSNR_p is to the left, better adaptation is up."""

    def draw(axes: Axes) -> None:
        for method in methods:
            row = result["methods"][method]
            x, y = (row["psnr_p"] or {}).get("mean"), (row["psnr"] or {}).get(step)
            if x is None or y is None:
                continue
            axes.scatter([x], [y], s=60, color=colours[method], zorder=3)
            axes.annotate(
                titles[method],
                (x, y),
                xytext=(6, 6),
                textcoords="offset points",
                color=colours[method],
            )
        local = (result["methods"].get("local") or {}).get("psnr") or {}
        if local.get(step) is not None:
            axes.axhline(local[step], color=colours.get("local", "#64748b"), ls="--", lw=1)
            axes.annotate(
                "Local",
                (1, local[step]),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color=colours.get("local", "#64748b"),
            )
        axes.margins(0.18)
        axes.set_xlabel("PSNR_p (dB): what rendering an upload shows; left is more private")
        axes.set_ylabel(f"PSNR after {step} steps (dB)")

    return svg(draw)


def matrix_frontier(rows: list[dict[str, Any]]) -> str:
    """Every (rule, learner) of ``bench methods``: privacy against quality, one panel a modality;
    hollow: outside the data range."""
    shapes = dict(zip(sorted({row["rule"] for row in rows}), "os^Dv*", strict=False))
    learners = sorted({row["learner"] for row in rows if row["learner"] != "local"})
    palette = dict(zip(learners, PALETTE, strict=False))
    modalities = [
        m for m in ("image", "video", "nerf") if any(row["modality"] == m for row in rows)
    ]

    def draw(axes: Axes) -> None:
        figure = axes.figure
        axes.remove()
        for place, modality in enumerate(modalities):
            panel = figure.add_subplot(1, len(modalities), place + 1)
            for row in (row for row in rows if row["modality"] == modality):
                if row["learner"] == "local":
                    panel.axhline(row["psnr"], color="#64748b", ls="--", lw=1)
                    at: Any = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
                    panel.annotate("Local", (1, row["psnr"]), color="#64748b", **at)
                elif row["psnr"] is not None and row["psnr_p"] is not None:
                    colour = palette[row["learner"]]
                    panel.scatter(
                        [row["psnr_p"]],
                        [row["psnr"]],
                        s=34,
                        marker=shapes[row["rule"]],
                        edgecolors=colour,
                        facecolors="none" if row["outside_range"] else colour,
                        linewidths=1.2,
                    )
            panel.set_title(modality, loc="left")
            panel.set_xlabel("PSNR_p (dB), left is more private")
            panel.set_ylabel("PSNR after adaptation, one step size (dB)" if not place else "")
            panel.margins(0.12)
        for learner in learners:
            figure.axes[-1].scatter([], [], color=palette[learner], label=learner)
        for rule, shape in shapes.items():
            figure.axes[-1].scatter([], [], color="#334155", marker=shape, label=rule)
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)

    return svg(draw, 4.0 * len(modalities) + 1.8, 3.8)


def epsilon_over_delta(points: list[tuple[float, float]], marked: float) -> str:
    """Epsilon against delta; the delta of the claim is marked."""

    def draw(axes: Axes) -> None:
        axes.plot(
            [delta for delta, _ in points],
            [epsilon for _, epsilon in points],
            "o-",
            color="#0f766e",
            ms=4,
        )
        axes.axvline(marked, color="#94a3b8", ls="--", lw=1)
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("delta (dashed: the claim's)")
        axes.set_ylabel("epsilon, cohorts known")
        axes.set_ylim(bottom=0)

    return svg(draw)


def participations(histogram: dict[str, int]) -> str:
    """Histogram of participations: clients by number of rounds."""

    def draw(axes: Axes) -> None:
        axes.bar(list(histogram), list(histogram.values()), color="#0f766e", width=0.6)
        axes.margins(x=max(0.05, 0.4 / max(len(histogram), 1)))
        axes.set_xlabel("charged rounds a client took part in")
        axes.set_ylabel("clients")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return svg(draw)
