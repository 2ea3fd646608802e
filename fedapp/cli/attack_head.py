"""``fedapp attack`` on obscured uploads: the study, its table, its sheet and its frontier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fedapp.cli.output import console
from tasks.errors import InputError

if TYPE_CHECKING:
    from fedapp.cli.attack_recipe import Asked
    from fedapp.config.experiment import Experiment
    from fedapp.store.runfolder import RunFolder

WIDE = 150  # columns of the table
PEOPLE, STEPS, FITTED = 60, 600, 4
SHEET, FRONTIER = "attack-sheet", "attack-frontier"
PARTS = "attack-parts"


def study_of(experiment: Experiment, place: RunFolder, asked: Asked) -> dict[str, Any]:
    """The study of what a recipe or run uploads; pictures go to ``place``."""
    from fedapp.attacks.obscured import Study, pictures, study
    from fedapp.report.geometry_figures import save_frontier
    from fedapp.store.kept import finite

    asked.refuse("uploads are attacked as a whole", "name", "method")
    head = experiment.head
    if experiment.data.path or not head.neutral_views or experiment.data.size % 8:
        raise InputError(
            "data",
            f"path {experiment.data.path!r}, size {experiment.data.size}, "
            f"{head.neutral_views} neutral views",
            "the study is of procedural people with neutral views, in pictures of a multiple of 8 "
            "pixels",
            "attack the recipe head",
        )
    people = asked.clients or PEOPLE
    own = Study(experiment, place.path / PARTS, people, asked.steps or STEPS, min(FITTED, people))
    found = study(own, lambda text: console.print(text, style="dim"))
    told: dict[str, Any] = finite(
        {"recipe": experiment.recipe, "people": people, "steps": own.steps, **found}
    )  # type: ignore[assignment]
    _show(told)
    place.save_picture(SHEET, pictures(own))
    save_frontier(place.pictures / f"{FRONTIER}.png", told["frontier"], told["chance"])
    return told


def _show(told: dict[str, Any]) -> None:
    table = Table(box=None)
    for column in ("what leaves", "attack", "metric", "value", "95 %", "chance", "floor", "n"):
        table.add_column(column, overflow="fold")
    for row in told["rows"]:
        between = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        numbers = ["" if row[k] is None else f"{row[k]:.3f}" for k in ("value", "chance", "floor")]
        table.add_row(
            row["operator"], row["attack"], row["metric"], numbers[0], between, *numbers[1:],
            str(row["n"]),
        )  # fmt: skip
    wide = Console(stderr=True, width=max(console.width, WIDE))
    wide.print(table)
    frontier = Table(box=None, title="best attack, and use")
    for column in ("what leaves", "rank-1", "95 %", "attack", "face, × stage 1", "worth it"):
        frontier.add_column(column, overflow="fold")
    for row in told["frontier"]:
        frontier.add_row(
            row["operator"], f"{row['rank1']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}",
            row["attack"], f"{row['face_ratio']:.2f}", "yes" if row["worth"] else "no",
        )  # fmt: skip
    wide.print(frontier)
    wide.print(
        f"chance {told['chance']:.3f}; a failed attack means: not recognised by this matcher, "
        f"trained for {told['steps']} steps", highlight=False
    )  # fmt: skip
