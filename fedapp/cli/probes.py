"""``fedapp audit`` and ``fedapp attack``: what measurement says about a run's promises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fedapp.cli.output import PLAIN, JsonOption, OverrideOption, console, write_json
from tasks.errors import InputError

if TYPE_CHECKING:
    from fedapp.store.runfolder import RunFolder

WIDE = 160  # columns of the table of attacks
FEWEST = 50  # canaries: with fewer the one-run bound cannot exceed ln(50 / 3) = 2.8


def audit(
    path: Annotated[Path, typer.Argument(help="a run folder")],
    canaries: Annotated[
        int, typer.Option(min=0, help="canary clients; 0: as many as a few minutes allow")
    ] = 0,
    target: JsonOption = "",
) -> None:
    """Measure epsilon with canary clients at a run's settings, and the noise in its own sums; exit
    status 1 if a lower bound exceeds the claim, or a sum is shorter than its noise."""
    from fedapp.audit import audit_run
    from fedapp.store.runfolder import RunFolder

    if canaries and canaries < FEWEST:
        raise InputError(
            "--canaries", canaries, "too few to prove anything", f"use {FEWEST} or more, or 0"
        )
    folder = RunFolder.open(path.resolve())
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("rounds of canaries", total=None)
        result = audit_run(
            folder, canaries, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for table in _tables(result):
        console.print(table)
    console.print(result["about"], style="dim")
    _refresh(folder)
    write_json(target, result)
    if result["verdict"] == "FAIL":
        raise typer.Exit(1)


def _tables(result: dict[str, Any]) -> list[Table]:
    from fedapp.report.budget import show

    epsilon = Table(
        "test",
        "estimate",
        "lower bound (95 %)",
        "claimed for one method and seed",
        "verdict",
        title=f"audit: {result['verdict']}",
    )
    for row in result["rows"]:
        numbers = (show(row[key]) for key in ("estimate", "lower_bound", "claimed"))
        epsilon.add_row(str(row["test"]), *numbers, str(row["verdict"]))
    noise = Table("norm of", "sums", "shortest over its noise", "fails below", "verdict")
    for row in result["noise"]:
        numbers = (show(row[key]) for key in ("ratio", "least"))
        noise.add_row(str(row["test"]), str(row["sums"]), *numbers, str(row["verdict"]))
    return [epsilon, noise]


def _attack_rounds(folder: RunFolder, method: str, clients: int | None, target: str) -> None:
    """Attack a run's whole transcript, print the rows, write the object."""
    from fedapp.attacks.rounds import attack_rounds
    from fedapp.report.budget import show

    if clients is not None:
        raise InputError("--clients", clients, "sums are of all clients", "leave it out")
    found = attack_rounds(folder, lambda text: console.print(text, style="dim", **PLAIN), method)
    table = Table(box=None)
    for column in ("attack", "method", "PSNR or AUC", "floor", "right client", "control", ""):
        table.add_column(column, overflow="fold")
    for row in found["rows"]:
        reached = row["psnr"] if row["psnr"] is not None else row["auc"]
        control = row["control"] or {}
        right = row["right_client"]
        table.add_row(
            row["attack"], row["method"], show(reached), show(row["floor"]),
            "" if right is None else f"{right} of {row['clients']}", show(control.get("psnr")),
            "; ".join(part for part in (row.get("verdict", ""), row["note"]) if part),
        )  # fmt: skip
    console.print(found["says"], **PLAIN)
    console.print(table)
    _refresh(folder)
    write_json(target, found)


def attack(
    path: Annotated[
        Path,
        typer.Argument(
            help="a run folder, or a recipe of split learning or uploads (its study alone)"
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            help="fields: render, readout, inversion, membership, transcript, and rounds (all sums "
            "of a run together); talking heads: linkage, membership"
        ),
    ] = "all",
    clients: Annotated[
        int | None,
        typer.Option(
            min=3,
            help="clients whose updates are attacked (12); uploads: people to tell apart (60)",
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="one of the run's methods; all of them if empty")
    ] = "",
    overrides: OverrideOption = [],  # noqa: B006
    runs: Annotated[
        Path, typer.Option(help="folder for what a recipe's study finds, in one of its own")
    ] = Path("runs"),
    steps: Annotated[
        int | None,
        typer.Option(
            min=10,
            help="split learning: training steps of every transcript; uploads: of every matcher "
            "and inverter (600)",
        ),
    ] = None,
    target: JsonOption = "",
) -> None:
    """Attack a run's updates as its server could, under each release; numbers and pictures go into
    its report. Of split learning: every attacker on one transcript of each design. Of uploads:
    whom the pictures under each operator name, and what can be seen in them again."""
    from fedapp.attacks import CLIENTS, attack_run, keep
    from fedapp.cli.attack_recipe import STUDIES, Asked, attack_folder, attack_recipe
    from fedapp.config.recipes import recipe_names
    from fedapp.report.budget import show
    from fedapp.store.runfolder import RunFolder

    asked = Asked("" if name == "all" else name, method, clients, steps)
    if not path.exists() and str(path) in recipe_names():
        return write_json(target, attack_recipe(str(path), overrides, runs, asked))
    if overrides:
        raise InputError("-o", overrides[0], "a run has its configuration", "name a recipe instead")
    folder = RunFolder.open(path.resolve())
    if folder.experiment.workflow_name in STUDIES:
        found = attack_folder(folder, asked)
        _refresh(folder)
        return write_json(target, found)
    if steps is not None:
        raise InputError("--steps", steps, "attacks on sums have their own", "leave it out")
    if name == "rounds":
        return _attack_rounds(folder, method, clients, target)
    rows = attack_run(
        folder, name, clients or CLIENTS, lambda text: console.print(text, style="dim"), method
    )
    table = Table(box=None)
    for column in (
        "attack",
        "method",
        "on",
        "metric",
        "value",
        "without information",
        "by chance",
        "n",
    ):
        table.add_column(column, no_wrap=column != "on", overflow="fold", min_width=len(column))
    for row in rows:
        numbers = [show(row[key]) for key in ("value", "floor", "chance", "n")]
        table.add_row(row["attack"], row["method"], row["release"], row["metric"], *numbers)
    Console(stderr=True, width=max(console.width, WIDE)).print(
        table
    )  # names and numbers are not cut
    result = keep(folder, rows)
    _refresh(folder)
    write_json(target, result)


def _refresh(folder: RunFolder) -> None:
    """Write a finished run's reports anew, with what was just found."""
    from fedapp.report import write_report
    from fedapp.report.budget import PAGE_FILE, write_budget

    if folder.result_file.exists():
        console.print(f"report: {write_report(folder)}", **PLAIN)
    if (folder.path / PAGE_FILE).exists():
        console.print(f"privacy report: {write_budget(folder)[1]}", **PLAIN)
