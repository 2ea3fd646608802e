"""``fedapp run`` and ``fedapp resume`` as a person sees them: bars, tables, where the report is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedapp.cli.output import PLAIN, console
from fedapp.cli.progress import ProgressDisplay
from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.place import threads as own_threads
from fedapp.report.families import Shown, tables_of
from fedapp.running import start
from fedapp.running.start import Tell, reopen
from fedapp.store.runfolder import INTERRUPTED, RunFolder


def prepare(
    recipe: str, overrides: list[str], base: Path, runtime: str
) -> tuple[Experiment, RunFolder]:
    """:func:`fedapp.running.start.prepare` with a bar on standard error."""
    return start.prepare(recipe, overrides, base, runtime, progress_bar)


@contextmanager
def progress_bar() -> Iterator[Tell]:
    """A bar on standard error; yields ``tell(what, done, total)``. All cores may work meanwhile."""
    import torch

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(own_threads())
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            row = bar.add_task("", visible=False)
            yield lambda what, done, total: bar.update(
                row, description=what, completed=done, total=total, visible=True
            )
    finally:
        torch.set_num_threads(before)


def execute(
    experiment: Experiment, folder: RunFolder, runtime: str, console: Console
) -> dict[str, Any]:
    """:func:`fedapp.running.start.execute` with a display; exits where it was interrupted."""
    total = experiment.rounds * len(experiment.trained_methods) * len(experiment.seed_list)
    display = ProgressDisplay(folder, total, console)
    console.print(f"run folder: {folder.path}", **PLAIN)
    limit = experiment.privacy.epsilon_max
    if limit and Pieces(experiment).release_type.placement == "none":
        told = f"release {experiment.release} adds no noise and promises no epsilon"
        warned = f"{told}: privacy.epsilon-max = {limit:g} limits nothing"
        console.print(warned, style="yellow", **PLAIN)
    if runtime != "in-process":
        console.print("starting Flower and Ray (about half a minute) …", style="dim")
    try:
        return start.execute(experiment, folder, runtime, display)
    except (KeyboardInterrupt, SystemExit):
        again = f"fedapp resume {shlex.quote(str(folder.path))}"
        console.print(f"interrupted; to go on: {again}", **PLAIN)
        raise SystemExit(INTERRUPTED) from None


__all__ = ["execute", "prepare", "progress_bar", "reopen", "show_result"]


def show_result(result: dict[str, Any], folder: RunFolder, console: Console) -> None:
    """The comparison as tables, and where the report is."""
    pieces = Pieces.of(folder)
    for table in tables_of(Shown.of(pieces, result, titled=False)):
        console.print(table.rich())
    if result["epsilon"] is not None:
        limit = pieces.experiment.privacy.epsilon_max
        console.print(
            f"privacy: epsilon {result['epsilon']:.3f} of {limit:g} spent at delta "
            f"{result['delta']:g}, cohorts known",
            highlight=False,
        )
    for key, what in (
        ("rounds_skipped", "rounds were skipped: the model stayed"),
        ("groups_skipped", "sums of fixed groups were not made: a node was missing"),
    ):
        if result[key]:
            console.print(f"{result[key]} {what}; see metrics.jsonl", style="yellow")
    if result["fallbacks"]:
        console.print(
            f"{result['fallbacks']} times a chunk of clients failed together and was "
            "trained one by "
            "one: see fallbacks in metrics.jsonl",
            style="yellow",
        )
    if folder.report_file.exists():
        console.print(f"report: {folder.report_file}", **PLAIN)
    if (folder.path / "privacy_report.html").exists():
        console.print(f"privacy report: {folder.path / 'privacy_report.html'}", **PLAIN)
