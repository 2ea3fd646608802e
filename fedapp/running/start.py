"""Starting and resuming a run from outside Flower: prepare, hand over to a runtime, say honestly
how it ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from fedapp.about import versions
from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import Pieces
from fedapp.config.places import JUDGES, PATHS
from fedapp.config.recipes import read_overrides, read_recipe
from fedapp.place import ROOT
from fedapp.results import summarise
from fedapp.store.checkpoint import list_checkpoints, load_checkpoint
from fedapp.store.runfolder import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    STOPPED,
    RunFolder,
    TakenError,
    new_path,
)
from sim.settings import RUNTIMES
from tasks.errors import FedappError, InputError, StoppedError, nearest
from tasks.settings import options_of

Tell = Callable[[str, int, int], None]  # (what is being made, done, total)


class Watch(Protocol):
    """A display of a running run."""

    def tick(self) -> None:
        """Show what has happened since the last call."""

    def live(self, threaded: bool) -> AbstractContextManager[None]:
        """Be on show; ``threaded``: the run occupies the caller's own thread."""


def prepare(
    recipe: str,
    overrides: list[str],
    base: Path,
    runtime: str,
    bar: Callable[[], AbstractContextManager[Tell]],
) -> tuple[Experiment, RunFolder]:
    """Check everything that can be checked before work starts, then create the run folder.

    Args:
        recipe: a name or a .toml file.
        overrides: ``key=value``, each.
        base: folder of run folders, unless ``run-dir`` is among the overrides.
        runtime: one of :data:`RUNTIMES`.
        bar: shows the progress of what a task needs once on a machine.
    """
    _check_runtime(runtime)
    values = known_keys() | read_recipe(recipe) | read_overrides(overrides)
    named = bool(values["run-dir"])
    if not named:
        values["run-dir"] = str(new_path(base.resolve(), values["recipe"]))
    for key in PATHS:  # runtimes work in other folders than the user
        if values[key]:
            values[key] = str(Path(values[key]).expanduser().resolve())
    judges = options_of(Experiment.from_run_config(values).talking_head.judges)
    values[JUDGES] = json.dumps(
        {name: str(Path(file).expanduser().resolve()) for name, file in judges.items()}
    )
    pieces = Pieces(Experiment.from_run_config(values))
    with bar() as tell:
        pins = pieces.task.prepare(tell)
    if pins:  # nodes must have the same
        changed = {**pieces.experiment.to_run_config(), **pins}
        pieces = Pieces(Experiment.from_run_config(changed))
    experiment = pieces.experiment
    pieces.task.check(experiment.clients.total)
    while True:
        folder = RunFolder(Path(experiment.run_dir))
        try:
            folder.create(experiment.to_run_config(), versions() | {"runtime": runtime})
        except TakenError:
            if named:
                raise
            # another run began in this second: the next free name
            path = str(new_path(base.resolve(), values["recipe"]))
            experiment = Experiment.from_run_config({**experiment.to_run_config(), "run-dir": path})
            continue
        return experiment, folder


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
    pieces = Pieces(Experiment.from_run_config(config))
    pieces.task.check(pieces.experiment.clients.total)
    from fedapp.running.comparison import identity

    for newest in list_checkpoints(folder.checkpoints)[-1:]:
        load_checkpoint(newest, identity(pieces))
    return pieces.experiment, folder, chosen


def execute(
    experiment: Experiment, folder: RunFolder, runtime: str, watch: Watch
) -> dict[str, Any]:
    """Run to the end on a runtime and return the result; raises the error the run ended with.

    An interruption is recorded in the folder and raised on.
    """
    try:
        if runtime == "in-process":
            _in_process(experiment, watch)
        else:
            _on_ray(experiment, folder, watch)
    except (KeyboardInterrupt, SystemExit):
        folder.set_status(STOPPED, INTERRUPTED, "interrupted")
        raise
    return summarise(folder)


def _check_runtime(name: str) -> None:
    if name not in RUNTIMES:
        raise InputError("--runtime", name, "no such runtime", nearest(name, RUNTIMES))


def _in_process(experiment: Experiment, watch: Watch) -> None:
    from fedapp.client_app import app as client_app
    from fedapp.server_app import app as server_app
    from sim.inprocess import run_in_process

    flower_log = logging.getLogger("flwr")
    level = flower_log.level
    flower_log.setLevel(logging.CRITICAL)  # the display shows the same events
    try:
        with watch.live(threaded=True):
            config, nodes = experiment.to_run_config(), experiment.runtime.nodes
            run_in_process(server_app, client_app, config, nodes)
    finally:
        flower_log.setLevel(level)


def _on_ray(experiment: Experiment, folder: RunFolder, watch: Watch) -> None:
    from sim.launch import flwr_run

    folder.set_status(RUNNING)
    log_file = folder.path / "flower.log"
    with watch.live(threaded=False):
        ending = flwr_run(
            ROOT,
            experiment.to_run_config(),
            experiment.runtime,
            log_file,
            tick=watch.tick,
            settled=lambda: folder.status["state"] != RUNNING,
        )
    status = folder.status
    if status["state"] == FINISHED:
        return
    if status["state"] == RUNNING:  # the ServerApp died without a word: Flower may know more
        reason = f"Flower says {ending.status}: {ending.details}"
        folder.set_status(FAILED, 1, reason)
        raise FedappError(f"the run ended without a result; {reason}\nlog: {log_file}")
    kind = StoppedError if status["exit_code"] == 3 else FedappError
    error = kind(f"{status['reason']}\nlog: {log_file}")
    error.exit_code = status["exit_code"]
    raise error
