"""The ServerApp's main: run or resume an experiment, and leave its end in the run folder."""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedapp.about import versions
from fedapp.config.experiment import ELSEWHERE, Experiment
from fedapp.config.pieces import Pieces
from fedapp.running.comparison import Comparison
from fedapp.store.runfolder import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    REFUSED,
    RUNNING,
    STOPPED,
    RunFolder,
    claimed,
)
from tasks.errors import FedappError, InputError, StoppedError

log = logging.getLogger("flwr")

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def run_experiment(grid: Grid, run_config: Mapping[str, Any]) -> None:
    """Run the experiment and leave its end, good or bad, in the run folder; errors are raised after
    that.

    Another run's folder, or one that is running, is refused before anything is written into it.
    """
    folder = RunFolder(_run_path(run_config))
    resume = bool(run_config.get("resume", False))
    with folder.locked():
        if folder.begun and not resume:
            raise InputError(
                "run-dir",
                str(folder.path),
                "already holds a run",
                "set resume=true, or name another",
            )
        try:
            experiment = Experiment.from_run_config({**run_config, "run-dir": str(folder.path)})
            if not (folder.path / "config.json").exists():
                # plain `flwr run`: nobody made the folder yet
                folder.create(experiment.to_run_config(), versions())
            elif resume:
                _refuse_changes(folder.config, experiment)
            folder.set_status(RUNNING)
            Comparison(Pieces(experiment), folder, grid).run()
            folder.set_status(FINISHED)
        except FedappError as error:
            _leave(folder, _state_after(error), error.exit_code, str(error))
            log.error("run ended: %s", error)
            raise
        except OSError as error:
            if error.errno not in NO_ROOM:
                _leave(folder, FAILED, 1, f"{error}\n{traceback.format_exc()}")
                raise
            full = StoppedError(
                f"{error.filename or folder.path} could not be written: {error.strerror}\n"
                f"  → make room, then `fedapp resume {folder.path}`"
            )
            _leave(folder, STOPPED, full.exit_code, str(full))
            raise full from error
        except (KeyboardInterrupt, SystemExit):
            _leave(folder, STOPPED, INTERRUPTED, "interrupted")
            raise
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            _leave(folder, FAILED, 1, reason)
            raise
    log.info("run folder: %s", folder.path)


def _leave(folder: RunFolder, state: str, exit_code: int, reason: str) -> None:
    """Record the end; where even that cannot be written, the error itself is still to be raised."""
    try:
        folder.set_status(state, exit_code, reason)
    except OSError as error:
        log.error("status.json could not be written: %s", error)


def _state_after(error: FedappError) -> str:
    if isinstance(error, InputError):
        return REFUSED
    return STOPPED if isinstance(error, StoppedError) else FAILED


def _refuse_changes(started: Mapping[str, Any], experiment: Experiment) -> None:
    """A run goes on with the settings it was started with; only its length and where it runs may
    change."""
    for key, value in experiment.to_run_config().items():
        free = key in ELSEWHERE or key == "rounds" or key.startswith(("runtime.", "report."))
        if not free and key in started and started[key] != value:
            raise InputError(
                key, value, f"the run was started with {started[key]!r}", "resume it with that"
            )


def _run_path(run_config: Mapping[str, Any]) -> Path:
    """The folder of the run. A relative path would land wherever the SuperLink was started, so it
    is refused."""
    given = str(run_config.get("run-dir", ""))
    if not given:
        try:
            base = Path.home() / "fedapp-runs"
        except RuntimeError:
            raise InputError(
                "run-dir", "", "this user has no home folder to put runs into", "name a folder"
            ) from None
        try:
            return claimed(base, str(run_config.get("recipe", "default")))
        except OSError as error:
            raise InputError(
                "run-dir", str(base), f"cannot be made ({error.strerror})", "name a folder"
            ) from error
    if not Path(given).is_absolute():
        raise InputError(
            "run-dir",
            given,
            "a relative path depends on where the SuperLink was started",
            "make it absolute",
        )
    return Path(given)
