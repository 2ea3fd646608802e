"""``fedapp tune``: an outer step size for each method, on clients that no run judges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedapp.cli.output import JsonOption, OverrideOption, console, escape, write_json
from tasks.errors import InputError


def tune(
    recipe: Annotated[str, typer.Argument(help="a recipe of fields: quickstart, nerf, a .toml")],
    overrides: OverrideOption = [],  # noqa: B006
    rates: Annotated[str, typer.Option(help="step sizes to try, by comma")] = "",
    folder: Annotated[
        Path | None, typer.Option(help="where runs lie; finished ones are kept")
    ] = None,
    others: Annotated[
        bool,
        typer.Option("--others", help="data.path holds people that no run judges: tune on them"),
    ] = False,
    target: JsonOption = "",
) -> None:
    """Choose an outer step size for each method by one rule, on clients that no run judges."""
    from rich.table import Table

    from fedapp.studies.step_sizes import CLOSE, RATES, chosen, rates_of
    from fedapp.studies.step_sizes import tune as candidates
    from tasks.settings import numbers

    try:
        wanted = numbers(rates) or list(RATES)
    except ValueError:
        wanted = []
    if not wanted or any(not 0 < rate < 1e6 for rate in wanted):
        raise InputError("--rates", rates, "not positive numbers by comma", "such as 0.001,0.003")
    name = Path(recipe).stem
    found = []
    place = folder or Path("runs") / f"{name}-tune"
    for one in candidates(recipe, overrides, wanted, place, others=others):
        found.append(one)
        line = f"{one.method} at {one.rate:g}: {_db(one.psnr)}, unseen {_db(one.unseen)}"
        console.print(escape(line), highlight=False)
    table = Table("method", "step size", "PSNR", "unseen, tuned", "PSNR_p", "")
    picks = []
    for method in dict.fromkeys(one.method for one in sorted(found)):
        own = sorted(one for one in found if one.method == method)
        pick = chosen(own)
        picks += [pick] if pick else []
        for one in own:
            mark = "chosen" if one == pick else ""
            cells = (f"{one.rate:g}", _db(one.psnr), _db(one.unseen), _db(one.psnr_p), mark)
            table.add_row(method, *cells)
    console.print(table)
    console.print(
        f"largest PSNR within {CLOSE:g} dB of a method's best on unseen pixels; to use it:",
        highlight=False,
    )
    console.print(f"  -o learner.outer-rates={rates_of(picks)}", markup=False, soft_wrap=True)
    write_json(
        target,
        {
            "recipe": recipe,
            "rows": [one._asdict() for one in sorted(found)],
            "chosen": {one.method: one.rate for one in picks},
        },
    )


def _db(value: float | None) -> str:
    return "not computed" if value is None else f"{value:.2f} dB"
