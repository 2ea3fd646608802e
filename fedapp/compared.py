"""Runs beside each other: a row a method, what their configurations differ in, curves on one
page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedapp.report.table import NONE, lookup, number
from fedapp.results import summarise
from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError

NUMBERS = {  # column: path in a method's row
    "PSNR_p": ("psnr_p", "mean"),
    "mouth correlation": ("mouth_correlation",),
    "face": ("chamfer_face",),
}
OVER_STEPS = {"PSNR": "psnr", "PSNR, tuned": "psnr_tuned", "unseen": "psnr_unseen_tuned"}
CURVES = {  # title: (event, path of what it shows; the last step of a table)
    "PSNR of unseen clients after the last step (dB)": ("evaluation", ("psnr",)),
    "PSNR_p: what a server renders of uploads (dB)": ("round", ("psnr_p", "mean")),
    "update norm": ("round", ("update_norm",)),
}
PRIVATE_TO_A_RUN = ("run-dir",)


def rows_of(folders: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """One row a run and method: its numbers, rounds, epsilon, seconds.

    Raises:
        InputError: fewer than two runs.
    """
    if len(folders) < 2:
        raise InputError("runs", len(folders), "nothing to compare", "name two runs or more")
    rows = []
    for name, folder in zip(names(folders), folders, strict=True):
        result = summarise(folder)
        for method, row in result["methods"].items():
            found: dict[str, Any] = {
                "run": name, "method": method, "rounds": result["rounds"],
                "state": folder.fate.get("state"),
            }  # fmt: skip
            for title, key in OVER_STEPS.items():
                table = row.get(key) or {}
                last = max(table, key=int) if table else ""
                found[f"{title}@{last}" if last else title] = table.get(last)
            found |= {title: lookup(row, path) for title, path in NUMBERS.items()}
            found |= {"epsilon": result["epsilon"], "seconds": result["seconds"]}
            rows.append(found)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    used = [key for key in columns if any(row.get(key) is not None for row in rows)]
    return [{key: row.get(key) for key in used} for row in rows]


def names(folders: Sequence[RunFolder]) -> list[str]:
    """A name for each run that no other has: its folder's, with as much before it as it takes."""
    depth = 1
    while True:
        found = ["/".join(folder.path.parts[-depth:]) for folder in folders]
        if len(set(found)) == len(found) or depth > 16:
            return found
        depth += 1


def differences(folders: Sequence[RunFolder]) -> dict[str, list[Any]]:
    """Config keys in which runs differ, with each one's value."""
    configs = [folder.config for folder in folders]
    keys = dict.fromkeys(key for config in configs for key in config)
    found = {key: [config.get(key) for config in configs] for key in keys}
    return {
        key: values
        for key, values in found.items()
        if key not in PRIVATE_TO_A_RUN and any(value != values[0] for value in values)
    }


def cells(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Rows as text."""
    head = list(rows[0])
    return head, [[_cell(row[key]) for key in head] for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return NONE if value is None else str(value)


def page_of(folders: Sequence[RunFolder], rows: Sequence[dict[str, Any]]) -> str:
    """One page that needs nothing beside it."""
    from fedapp.report.page import PAGE

    style = PAGE.split("<style>")[1].split("</style>")[0]
    head, body = cells(rows)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{len(folders)} runs · fedapp</title><style>{style}</style></head><body><main>",
        f"<h1>{len(folders)} runs</h1>",
        _table(head, body),
        "<h2>What they differ in</h2>",
        _table(
            ["key", *names(folders)],
            [[key, *map(_cell, values)] for key, values in differences(folders).items()]
            or [["nothing", *[NONE] * len(folders)]],
        ),
        '<h2>Over rounds</h2><div class="curves">',
        *(f'<section class="card">{curve}</section>' for curve in curves(folders)),
        "</div></main></body></html>",
    ]
    return "\n".join(parts)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    def line(tag: str, values: Sequence[str]) -> str:
        return (
            "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"
        )

    lines = [line("th", head), *(line("td", values) for values in body)]
    return '<section class="card"><table>' + "\n".join(lines) + "</table></section>"


def curves(folders: Sequence[RunFolder]) -> list[str]:
    """SVGs of what at least one run has measured."""
    from fedapp.report.figures import PALETTE, legend, svg

    found = []
    known = list(zip(names(folders), folders, strict=True))
    for title, (kind, path) in CURVES.items():
        lines: dict[str, dict[int, list[float]]] = {}
        for name, folder in known:
            for event in folder.events():
                value = lookup(event.get("metrics", {}), path)
                if isinstance(value, dict):  # a table by steps
                    value = value[max(value, key=int)] if value else None
                if event["event"] != kind or not isinstance(value, int | float):
                    continue
                line = lines.setdefault(f"{name}, {event['method']}", {})
                line.setdefault(int(event.get("round") or 0), []).append(float(value))
        if not lines:
            continue

        def draw(axes: Any, lines: Any = lines, title: str = title) -> None:
            for index, (label, points) in enumerate(lines.items()):
                rounds = sorted(points)
                means = [sum(points[r]) / len(points[r]) for r in rounds]
                colour = PALETTE[index % len(PALETTE)]
                style = "-" if index < len(PALETTE) else "--"
                told = label.replace("$", r"\$")  # or matplotlib reads formulas in a folder's name
                axes.plot(rounds, means, f"o{style}", ms=3, lw=1.6, color=colour, label=told)
            axes.set_xlabel("round")
            axes.set_title(title, fontsize=10)
            legend(axes)

        found.append(svg(draw, 6.4, 3.8))
    return found


def listed(base: Path) -> list[dict[str, Any]]:
    """The runs below a folder, the newest first: name, recipe, state, round of how many."""
    found = []
    for path in sorted(base.iterdir() if base.is_dir() else [], reverse=True):
        folder = RunFolder(path)
        try:
            if not (path / "config.json").is_file():  # somebody's notes, a compared page
                continue
            config, state = folder.config, folder.fate.get("state")
        except InputError as error:  # one that cannot be read hides no other
            config, state = {}, f"damaged: {error.key} {error.reason}"
        except OSError as error:
            config, state = {}, f"cannot be read: {error.strerror}"
        found.append(
            {
                "run": path.name, "recipe": config.get("recipe"),
                "task": config.get("task"), "methods": config.get("methods"),
                "state": state, "rounds": config.get("rounds"),
                "report": str(folder.report_file) if folder.report_file.exists() else None,
            }
        )  # fmt: skip
    return found
