"""``fedapp attack`` on split learning: the study, its table and its contact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fedapp.cli.output import console

if TYPE_CHECKING:
    from fedapp.cli.attack_recipe import Asked
    from fedapp.config.experiment import Experiment
    from fedapp.store.runfolder import RunFolder

WIDE = 150  # columns of the table
SHEET = "attack-sheet"
PARTS = "attack-parts"  # outcomes of single transcripts: a study that was cut goes on
FRONTIER = "attack-frontier"


def study_of(experiment: Experiment, place: RunFolder, asked: Asked) -> dict[str, Any]:
    """The study of an experiment's first scene; pictures go to ``place``."""
    from fedapp.attacks.split import STEPS, by_chance, rows_of, sheet, study
    from fedapp.attacks.split_parts import Parts
    from fedapp.place import cores
    from fedapp.report.split import grouped
    from fedapp.report.split_figures import save_frontier
    from fedapp.store.kept import finite

    asked.refuse("split learning is attacked as a whole", "name", "method", "clients")
    steps = asked.steps or STEPS
    kept = Parts(place.path / PARTS, experiment, steps)
    outcomes, bare = study(
        experiment, lambda text: console.print(text, style="dim"), cores(), steps, kept
    )
    rows = list(rows_of(outcomes))
    chance = by_chance(rows)
    signs = next((o.signs for o in outcomes if o.signs and not o.case.null), {})
    _show(rows, chance, signs)
    result = {"recipe": experiment.recipe, "steps": steps, "baselines": bare, "rows": rows}
    told: dict[str, Any] = finite(result | {"one_holder": chance, "signs_found": signs})  # type: ignore[assignment]
    place.save_picture(SHEET, sheet(outcomes))
    save_frontier(place.pictures / f"{FRONTIER}.png", grouped(told["rows"]), told["baselines"])
    return told


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
