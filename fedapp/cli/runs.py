"""``fedapp run`` and ``fedapp resume``: prepare, hand over to a runtime, say honestly how it
ended."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedapp import ROOT
from fedapp.about import versions
from fedapp.cli.output import PLAIN, console
from fedapp.cli.progress import ProgressDisplay
from fedapp.comparison import INTERRUPTED, identity
from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import build_task
from fedapp.config.recipes import read_overrides, read_recipe
from fedapp.results import own_names, summarise
from fedapp.store.checkpoint import list_checkpoints, load_checkpoint
from fedapp.store.runfolder import FINISHED, RUNNING, STOPPED, RunFolder, new_path
from tasks.errors import FedappError, InputError, StoppedError, nearest
from tasks.settings import options_of
from tasks.types import Preparing

RUNTIMES = ("ray", "in-process")
PATHS = ("run-dir", "data.path", "evaluation.lpips", "talking-head.backbone", "privacy.roster")


def prepare(
    recipe: str, overrides: list[str], base: Path, runtime: str
) -> tuple[Experiment, RunFolder]:
    """Check everything that can be checked before work starts, then create the run folder."""
    _check_runtime(runtime)
    values = known_keys() | read_recipe(recipe) | read_overrides(overrides)
    if not values["run-dir"]:
        values["run-dir"] = str(new_path(base.resolve(), values["recipe"]))
    for key in PATHS:  # runtimes work in other folders than the user
        if values[key]:
            values[key] = str(Path(values[key]).expanduser().resolve())
    judges = options_of(Experiment.from_run_config(values).talking_head.judges)
    values["talking-head.judges"] = json.dumps(
        {n: str(Path(f).expanduser().resolve()) for n, f in judges.items()}
    )
    experiment = Experiment.from_run_config(values)
    task = build_task(experiment)
    if isinstance(task, Preparing):
        with progress_bar() as tell:
            pins = task.prepare(tell)
        experiment = Experiment.from_run_config(
            {**experiment.to_run_config(), **pins}
        )  # nodes must have the same
    task.check(experiment.clients.total)
    folder = RunFolder(Path(experiment.run_dir))
    folder.create(experiment.to_run_config(), versions() | {"runtime": runtime})
    return experiment, folder


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error; yields ``tell(what, done, total)``. All cores may work meanwhile."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            row = bar.add_task("", visible=False)
            yield lambda what, done, total: bar.update(
                row, description=what, completed=done, total=total, visible=True
            )
    finally:
        torch.set_num_threads(threads)


def reopen(run: Path, runtime: str | None) -> tuple[Experiment, RunFolder, str]:
    """A run to be continued; refuses a finished one."""
    folder = RunFolder.open(run.resolve())
    if folder.status.get("state") == FINISHED:
        raise InputError(
            "run",
            str(run),
            "is finished",
            "start a new run with more rounds, or `fedapp report` it",
        )
    with folder.locked():
        pass  # refuses a run that is still running
    chosen = runtime or folder.read("run.json").get("runtime", "ray")
    _check_runtime(chosen)
    config = folder.config | {"resume": True, "run-dir": str(folder.path)}
    experiment = Experiment.from_run_config(config)
    task = build_task(experiment)
    task.check(experiment.clients.total)
    for newest in list_checkpoints(folder.checkpoints)[-1:]:
        load_checkpoint(newest, identity(experiment, task))
    return experiment, folder, chosen


def execute(
    experiment: Experiment, folder: RunFolder, runtime: str, console: Console
) -> dict[str, Any]:
    """Run to the end on a runtime and return the result; raises the error the run ended with."""
    total = experiment.rounds * len(experiment.trained_methods) * len(experiment.seed_list)
    display = ProgressDisplay(folder, total, console)
    console.print(f"run folder: {folder.path}", **PLAIN)
    try:
        if runtime == "in-process":
            _in_process(experiment, display)
        else:
            _on_ray(experiment, folder, display)
    except (KeyboardInterrupt, SystemExit):
        folder.set_status(STOPPED, INTERRUPTED, "interrupted")
        console.print(
            f"interrupted; to go on: fedapp resume {shlex.quote(str(folder.path))}", **PLAIN
        )
        raise SystemExit(INTERRUPTED) from None
    return summarise(folder)


def _check_runtime(name: str) -> None:
    if name not in RUNTIMES:
        raise InputError("--runtime", name, "no such runtime", nearest(name, RUNTIMES))


def _in_process(experiment: Experiment, display: ProgressDisplay) -> None:
    from fedapp.client_app import app as client_app
    from fedapp.server_app import app as server_app
    from sim.inprocess import run_in_process

    flower_log = logging.getLogger("flwr")
    level = flower_log.level
    flower_log.setLevel(logging.CRITICAL)  # the display shows the same events
    try:
        with display.live(threaded=True):
            run_in_process(
                server_app, client_app, experiment.to_run_config(), experiment.runtime.nodes
            )
    finally:
        flower_log.setLevel(level)


def _on_ray(experiment: Experiment, folder: RunFolder, display: ProgressDisplay) -> None:
    from sim.launch import flwr_run

    folder.set_status(RUNNING)
    log_file = folder.path / "flower.log"
    display.console.print("starting Flower and Ray (about half a minute) …", style="dim")
    with display.live(threaded=False):
        ending = flwr_run(
            ROOT,
            experiment.to_run_config(),
            experiment.runtime,
            log_file,
            tick=display.tick,
            settled=lambda: folder.status["state"] != RUNNING,
        )
    status = folder.status
    if status["state"] == FINISHED:
        return
    if status["state"] == RUNNING:  # the ServerApp died without a word: Flower may know more
        folder.set_status("failed", 1, f"Flower says {ending.status}: {ending.details}")
        raise FedappError(
            f"the run ended without a result; Flower says {ending.status}: {ending.details}\nlog: {log_file}"
        )
    kind = StoppedError if status["exit_code"] == 3 else FedappError
    error = kind(f"{status['reason']}\nlog: {log_file}")
    error.exit_code = status["exit_code"]
    raise error


def show_result(result: dict[str, Any], folder: RunFolder, console: Console) -> None:
    """The comparison as a table, and where the report is."""
    steps = next((list(row["psnr"]) for row in result["methods"].values() if row["psnr"]), [])
    privacy = Table(
        "method",
        "PSNR_p mean",
        "max",
        "affine fit",
        "correlation",
        title="what rendering an upload shows",
    )
    quality = Table("method", *[f"k={k}" for k in steps], *[f"tuned k={k}" for k in steps[-2:]],
                    title="PSNR of unseen pictures after k steps")  # fmt: skip
    for table in (privacy, quality):
        for column in table.columns[1:]:
            column.justify = "right"
    for name, row in result["methods"].items():
        label = name + (" [red](diverged)[/]" if row["diverged"] else "")
        seen = [
            ("psnr_p", "mean"),
            ("psnr_p", "max"),
            ("psnr_p_affine", "mean"),
            ("correlation_p", "mean"),
        ]
        if (row["psnr_p"] or {}).get("mean") is not None:
            privacy.add_row(label, *[_number(row[key], part) for key, part in seen])
        tuned = [_number(row["psnr_tuned"], k) for k in steps[-2:]]
        quality.add_row(label, *[_number(row["psnr"], k) for k in steps], *tuned)
    measured = any(row["psnr_tuned"] for row in result["methods"].values())
    own = [] if steps else own_names(folder.events())
    plain = Table("method", *own, title="measured by the task")
    for name, row in result["methods"].items():
        plain.add_row(name, *["–" if row.get(key) is None else f"{row[key]:.4g}" for key in own])
    shown = [
        *([privacy] if privacy.row_count else []),
        *([quality] if measured else []),
        *([plain] if own else []),
    ]
    for table in (*shown, *own_tables(result)):
        console.print(table)
    if result["epsilon"] is not None:
        limit = Experiment.from_run_config(folder.config).privacy.epsilon_max
        console.print(
            f"privacy: epsilon {result['epsilon']:.3f} of {limit:g} spent at delta {result['delta']:g}, cohorts known",
            highlight=False,
        )
    if folder.report_file.exists():
        console.print(f"report: {folder.report_file}", **PLAIN)
    if (folder.path / "privacy_report.html").exists():
        console.print(f"privacy report: {folder.path / 'privacy_report.html'}", **PLAIN)


OWN = {
    "psnr": "PSNR", "psnr_static": "… of the still reference", "mouth_corr": "mouth correlation",
    "mouth_corr_shuffled": "… with wrong speech", "mouth_error": "mouth error", "identity_top1": "identity top-1",
}  # fmt: skip


def own_tables(result: dict[str, Any]) -> list[Table]:
    """What a talking head's run found: newcomers at once, and after personalisation."""
    rows = {name: row for name, row in result["methods"].items() if "mouth_corr" in row}
    if not rows:
        return []
    at_once = Table("method", *OWN.values(), title="unseen people, before any adaptation")
    after = Table(
        "method",
        "mouth error, everybody",
        "reserved speakers",
        title="mouth error after k steps on their own clips",
    )
    for name, row in rows.items():
        values = [(row["psnr"] or {}).get("0"), *(row.get(key) for key in list(OWN)[1:])]
        at_once.add_row(name, *["–" if value is None else f"{value:.3f}" for value in values])
        curves = [
            row["personalised"].get(key) or {} for key in ("mouth_error", "mouth_error_reserved")
        ]
        after.add_row(
            name,
            *["  ".join(f"{k}: {_number(curve, k)}" for k in curve) or "–" for curve in curves],
        )
    return [at_once, after]


def _number(table: dict[str, float | None] | None, key: str) -> str:
    value = (table or {}).get(key)
    return "–" if value is None else f"{value:.2f}"
