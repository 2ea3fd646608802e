"""A run as a part of a study: made once, gone on with where it was cut off."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import read_recipe, written
from fedapp.store.runfolder import FINISHED, RunFolder
from tasks.errors import InputError

QUIET: dict[str, Any] = {  # of a run that nobody looks at by itself
    "report.page": False,
    "report.pictures": False,
    "runtime.nodes": 1,  # a core each: a study's runs go side by side
}


def kept_run(recipe: str, changes: Mapping[str, Any], folder: Path) -> RunFolder:
    """The finished run of ``recipe`` with ``changes`` in ``folder``, made in this process if it is
    not there.

    Raises:
        InputError: the folder holds a run with other values.
    """
    from rich.console import Console

    from fedapp.cli import runs

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    place, console = RunFolder(folder), Console(quiet=True)
    values = known_keys() | read_recipe(recipe) | dict(changes) | {"run-dir": str(folder)}
    wanted = Experiment.from_run_config(values).to_run_config()
    stale = [
        key
        for key, value in wanted.items()  # all of it: a recipe may have been edited meanwhile
        if place.config and key != "run-dir" and place.config.get(key, value) != value
    ]
    if stale:
        raise InputError(
            "--folder",
            str(place.path),
            f"holds a run with another {stale[0]}",
            "name another folder",
        )
    if place.status.get("state") == FINISHED:
        return place
    if place.config:  # begun and cut off: it goes on
        experiment, run_folder, _ = runs.reopen(folder, "in-process")
    else:
        given = [
            f"{key}={written(value)}" for key, value in {**changes, "run-dir": str(folder)}.items()
        ]
        experiment, run_folder = runs.prepare(recipe, given, folder.parent, "in-process")
    runs.execute(experiment, run_folder, "in-process", console)
    return place
