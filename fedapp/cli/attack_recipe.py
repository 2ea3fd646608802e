"""``fedapp attack`` where a whole study is made of a recipe: which study, where its files go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedapp.cli.output import PLAIN, console
from tasks.atomic import write_json as write_file
from tasks.errors import InputError
from tasks.registry import resolve

if TYPE_CHECKING:
    from fedapp.config.experiment import Experiment
    from fedapp.store.runfolder import RunFolder

FILE = "attack.json"
STUDIES = {  # by workflow: ``study(experiment, place, asked) -> what is written``
    "exchanges": "fedapp.cli.attack_split:study_of",
    "upload": "fedapp.cli.attack_head:study_of",
}


@dataclass(frozen=True)
class Asked:
    """Options of the command; ``None`` and empty: not given."""

    name: str
    method: str
    clients: int | None
    steps: int | None

    def refuse(self, what: str, *options: str) -> None:
        """Raise :class:`InputError` for one of ``options`` that was given and means nothing."""
        for option in options:
            if value := getattr(self, option):
                raise InputError(f"--{option}", value, what, "leave the option out")


def attack_recipe(recipe: str, overrides: list[str], runs: Path, asked: Asked) -> dict[str, Any]:
    """The study of a recipe, without a run; results go to ``<runs>/<recipe>-attack``."""
    from fedapp.config.experiment import Experiment, known_keys
    from fedapp.config.recipes import read_overrides, read_recipe
    from fedapp.store.runfolder import RunFolder

    values = known_keys() | read_recipe(recipe) | read_overrides(overrides)
    experiment = Experiment.from_run_config(values)
    if experiment.workflow_name not in STUDIES:
        raise InputError(
            "path",
            recipe,
            "a recipe of rounds of sums: attacks need a run of it",
            f"fedapp run {recipe}, then attack its folder",
        )
    place = RunFolder(runs / f"{recipe}-attack")
    place.pictures.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    result = _study(experiment, place, asked)
    write_file(place.path / FILE, result)
    console.print(f"pictures: {place.pictures}", **PLAIN)
    return result


def attack_folder(folder: RunFolder, asked: Asked) -> dict[str, Any]:
    """The study at a run's configuration; results go into its folder."""
    folder.pictures.mkdir(parents=True, exist_ok=True)
    result = {"run": str(folder.path), **_study(folder.experiment, folder, asked)}
    write_file(folder.path / FILE, result)
    return result


def _study(experiment: Experiment, place: RunFolder, asked: Asked) -> dict[str, Any]:
    study: Callable[..., dict[str, Any]] = resolve(STUDIES[experiment.workflow_name])
    return study(experiment, place, asked)
