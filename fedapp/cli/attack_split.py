"""``fedapp attack`` on split learning: the study, its table and its contact sheet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fedapp.cli.output import PLAIN, console
from tasks.atomic import write_json as write_file
from tasks.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from fedapp.config.experiment import Experiment
    from fedapp.store.runfolder import RunFolder

WIDE = 150  # columns of the table
FILE = "attack.json"
SHEET = "attack-sheet"
PARTS = "attack-parts"  # outcomes of single transcripts: a study that was cut goes on
FRONTIER = "attack-frontier"


def attack_recipe(
    recipe: str, overrides: list[str], runs: Path, name: str, method: str, steps: int
) -> dict[str, Any]:
    """The study of a recipe's first scene, without a run; results go to
    ``<runs>/<recipe>-attack``."""
    from fedapp.config.experiment import Experiment, known_keys
    from fedapp.config.recipes import read_overrides, read_recipe
    from fedapp.store.runfolder import RunFolder

    values = known_keys() | read_recipe(recipe) | read_overrides(overrides)
    experiment = Experiment.from_run_config(values)
    if experiment.workflow_name != "exchanges":
        raise InputError(
            "path",
            recipe,
            "a recipe of rounds of sums: attacks need a run of it",
            f"fedapp run {recipe}, then attack its folder",
        )
    place = RunFolder(runs / f"{recipe}-attack")
    place.pictures.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    result, sheet = _study(experiment, place.path, name, method, steps)
    write_file(place.path / FILE, result)
    place.save_picture(SHEET, sheet)
    _save_frontier(place, result)
    console.print(f"pictures: {place.pictures / f'{SHEET}.png'}", **PLAIN)
    return result


def attack_folder(folder: RunFolder, name: str, method: str, steps: int) -> dict[str, Any]:
    """The study at a run's configuration; results go into its folder."""
    result, sheet = _study(folder.experiment, folder.path, name, method, steps)
    write_file(folder.path / FILE, {"run": str(folder.path), **result})
    folder.save_picture(SHEET, sheet)
    _save_frontier(folder, result)
    return result


def _save_frontier(place: RunFolder, result: dict[str, Any]) -> None:
    from fedapp.report.split import grouped
    from fedapp.report.split_figures import save_frontier

    target = place.pictures / f"{FRONTIER}.png"
    save_frontier(target, grouped(result["rows"]), result["baselines"])


def _study(
    experiment: Experiment, place: Path, name: str, method: str, steps: int
) -> tuple[dict[str, Any], Tensor]:
    from fedapp.attacks.split import by_chance, rows_of, sheet, study
    from fedapp.attacks.split_parts import Parts, finite

    for option, value in (("--name", name if name != "all" else ""), ("--method", method)):
        if value:
            raise InputError(
                option, value, "split learning is attacked as a whole", "leave the option out"
            )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    kept = Parts(place / PARTS, experiment, steps)
    outcomes, bare = study(
        experiment, lambda text: console.print(text, style="dim"), cores, steps, kept
    )
    rows = list(rows_of(outcomes))
    chance = by_chance(rows)
    signs = next((o.signs for o in outcomes if o.signs and not o.case.null), {})
    _show(rows, chance, signs)
    result = {"recipe": experiment.recipe, "steps": steps, "baselines": bare, "rows": rows}
    told: dict[str, Any] = finite(result | {"one_holder": chance, "signs_found": signs})  # type: ignore[assignment]
    return told, sheet(outcomes)


def _show(rows: list[dict[str, Any]], chance: dict[str, float], signs: dict[str, float]) -> None:
    from fedapp.report.split import grouped, told_of

    table = Table(box=None, title="value (mean, mean + 3 sd on transcripts that hold nothing)")
    for column in ("design", "attack", "edges", "PSNR, affine", "SSIM", "depth ranks", "succeeds"):
        table.add_column(column, no_wrap=True)
    for row in grouped(rows):
        cells = [
            f"{row[m]['value']:.2f} ({row[m]['floor']:.2f}, {row[m]['chance']:.2f})"
            for m in ("edge", "psnr_affine", "ssim", "depth")
        ]
        table.add_row(row["design"], row["attack"], *cells, "yes" if row["succeeds"] else "no")
    wide = Console(stderr=True, width=max(console.width, WIDE))
    wide.print(table)
    wide.print(told_of(chance), highlight=False)
    if signs:
        levels = ", ".join(f"{cells}: {share:.1%}" for cells, share in signs.items())
        wide.print(f"secret signs found, per level (chance 50%): {levels}", highlight=False)
