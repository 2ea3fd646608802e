"""``fedapp runs``, ``compare`` and ``data check``: what there is, beside each other, and who would
hold what."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fedapp.cli.output import PLAIN, JsonOption, OverrideOption, console, write_json
from tasks.errors import InputError
from tasks.targets import new_file, whole

data = typer.Typer(no_args_is_help=True, help="The data of a recipe, before anything is run.")
SHOWN = 40  # clients that a terminal lists


def runs(
    folder: Annotated[Path, typer.Argument(help="where runs lie")] = Path("runs"),
    target: JsonOption = "",
) -> None:
    """List runs, the newest first: a line each, on standard output."""
    from fedapp.compared import listed

    found = listed(folder)
    for row in found if target != "-" else ():
        line = f"{row['run']}  {row['recipe']}  {row['state']}  {row['rounds']} rounds  "
        told = f"{line}{row['methods']}" if row["recipe"] else f"{row['run']}  {row['state']}"
        sys.stdout.write(f"{told}\n")
    if not found:
        console.print(f"no runs in {folder}", **PLAIN)
    write_json(target, {"folder": str(folder), "runs": found})


def compare(
    paths: Annotated[list[Path], typer.Argument(help="two runs or more")],
    out: Annotated[Path | None, typer.Option(help="also write one page with their curves")] = None,
    target: JsonOption = "",
) -> None:
    """Put runs beside each other: numbers by method, what their configurations differ in, curves
    over each other."""
    from fedapp.compared import cells, differences, names, page_of, rows_of
    from fedapp.store.runfolder import RunFolder

    if out is not None:
        out = new_file("--out", out)
    folders = [RunFolder.open(path.resolve()) for path in paths]
    rows = rows_of(folders)
    head, body = cells(rows)
    _show(head, body)
    changed = differences(folders)
    if changed:
        _show(["key", *names(folders)], [[k, *map(str, v)] for k, v in changed.items()])
    if out is not None:
        with whole(out) as beside:
            beside.write_text(page_of(folders, rows), encoding="utf-8", errors="replace")
        console.print(f"page: {out}", **PLAIN)
    write_json(target, {"rows": rows, "differences": changed})


def _show(head: list[str], body: list[list[str]]) -> None:
    table = Table(*head)
    for line in body:
        table.add_row(*line)
    console.print(table)


@data.command("check")
def check(
    recipe: Annotated[str, typer.Argument(help="a recipe's name, or a .toml")],
    overrides: OverrideOption = [],  # noqa: B006
    target: JsonOption = "",
) -> None:
    """Say who would hold what, and what is wrong with it, without running anything."""
    from fedapp.config.experiment import Experiment, known_keys
    from fedapp.config.pieces import Pieces
    from fedapp.config.recipes import read_overrides, read_recipe

    values = known_keys() | read_recipe(recipe) | read_overrides(overrides)
    experiment = Experiment.from_run_config(values)
    task = Pieces(experiment).task
    task.check(experiment.clients.total)
    rows: list[dict[str, Any]] = []
    wrong: dict[str, str] = {}
    for client in range(experiment.clients.total):
        try:
            held = task.client_data(client)
        except InputError as error:
            wrong[str(client)] = str(error)
            continue
        rows.append({"client": client, "name": str(getattr(held, "name", "")), **_about(held)})
    for row in rows[:SHOWN] if target != "-" else ():
        sys.stdout.write("  ".join(f"{name} {value}" for name, value in row.items()) + "\n")
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more", **PLAIN)
    for number, reason in wrong.items():
        console.print(f"client {number}: {reason}", **PLAIN)
    console.print(f"{len(rows)} of {experiment.clients.total} clients can take part", **PLAIN)
    write_json(target, {"recipe": recipe, "clients": rows, "wrong": wrong})
    if wrong:
        raise typer.Exit(1)


def _about(held: Any) -> dict[str, Any]:
    """Number and shapes of signals, where data are signals."""
    signals = getattr(held, "signals", None)
    if signals is None:
        return {}
    shapes = sorted({"×".join(map(str, signal.shape)) for signal in signals})
    return {"signals": len(signals), "shape": ", ".join(shapes)}
