"""``fedapp budget plan | report | verify``: what a run will cost, what it did cost, and whether its
ledger is intact."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedapp.cli.output import PLAIN, JsonOption, OverrideOption, console, write_json
from tasks.errors import InputError

budget = typer.Typer(
    no_args_is_help=True, help="The privacy budget: plan it, report it, verify its ledger."
)


@budget.command()
def plan(
    recipe: Annotated[
        str, typer.Argument(help="a recipe; its settings are the defaults of the options")
    ] = "",
    overrides: OverrideOption = [],  # noqa: B006
    sample_rate: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="q, chance of each client in each round")
    ] = None,
    noise_multiplier: Annotated[float | None, typer.Option(min=1e-6, help="z")] = None,
    target_epsilon: Annotated[
        float | None, typer.Option(min=1e-6, help="find z for this epsilon instead")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="T")] = None,
    delta: Annotated[float | None, typer.Option(min=1e-30, max=0.5, help="delta")] = None,
    clients: Annotated[
        float | None, typer.Option(min=1, help="m, clients in a round (for noise over signal)")
    ] = None,
    parameters: Annotated[
        int | None, typer.Option(min=1, help="d, numbers each client contributes")
    ] = None,
    target: JsonOption = "",
) -> None:
    """Predict epsilon and noise over signal before a client trains, and what would help."""
    from privacy.budget.plan import Plan, multiplier_for, predict

    given = {
        "rate": sample_rate,
        "multiplier": noise_multiplier,
        "rounds": rounds,
        "delta": delta,
        "clients": clients,
        "parameters": parameters,
    }
    for option, value in (
        ("--rounds", rounds),
        ("--delta", delta),
        ("--noise-multiplier", noise_multiplier),
        ("--clients", clients),
    ):
        if recipe and value is not None:
            raise InputError(
                option, value, "a recipe says so itself", f"change it with -o {_KEYS[option]}=…"
            )
    for option, number in (
        ("--sample-rate", sample_rate),
        ("--noise-multiplier", noise_multiplier),
        ("--target-epsilon", target_epsilon),
        ("--delta", delta),
        ("--clients", clients),
    ):
        if number is not None and not math.isfinite(number):
            raise InputError(option, number, "is no finite number", "give one")
    values: dict[str, Any] = _from_recipe(recipe, overrides) if recipe else {}
    values |= {key: value for key, value in given.items() if value is not None}
    if sample_rate is not None:
        values.pop("participations", None)
    wanted = target_epsilon is not None
    for key, option in (
        ("rounds", "--rounds"),
        ("delta", "--delta"),
        ("multiplier", "--noise-multiplier"),
    ):
        if key not in values and not (key == "multiplier" and wanted):
            raise InputError(
                option,
                "(missing)",
                "needed without a recipe",
                f"for example {option} {_EXAMPLES[key]}",
            )
    made = Plan(**{"multiplier": 1.0, **values})
    if target_epsilon is not None:
        made = replace(made, multiplier=multiplier_for(target_epsilon, made))
    found = predict(made)
    _show_plan(found, console)
    write_json(target, found)


_KEYS = {
    "--rounds": "rounds",
    "--delta": "privacy.delta",
    "--noise-multiplier": "privacy.noise-multiplier",
    "--clients": "clients.per-round",
}
_EXAMPLES = {"rounds": "100", "delta": "1e-5", "multiplier": "1.0"}


def _from_recipe(recipe: str, overrides: list[str]) -> dict[str, Any]:
    from fedapp.config.experiment import Experiment, known_keys
    from fedapp.config.pieces import Pieces
    from fedapp.config.recipes import read_overrides, read_recipe

    experiment = Experiment.from_run_config(
        known_keys() | read_recipe(recipe) | read_overrides(overrides)
    )
    pieces = Pieces(experiment)
    if pieces.release_type.placement == "none":
        raise InputError(
            "release",
            experiment.release,
            "adds no noise: there is no budget to plan",
            "try quickstart-dp",
        )
    size = pieces.rule.size(pieces.task.layout.size)
    privacy, sampler, arms = pieces.privacy, pieces.sampler(0), len(pieces.arms)
    rounds = experiment.rounds * arms
    return {
        "limit": privacy.epsilon_max,
        "rate": sampler.rate or 1.0,
        "multiplier": privacy.noise_multiplier,
        "rounds": rounds,
        "delta": privacy.delta,
        "participations": arms * sampler.likely_most(experiment.rounds),
        "clients": sampler.expected,
        "parameters": size,
        "sensitivity": pieces.release.sensitivity,
        "arms": arms,
    }


def _show_plan(found: dict[str, Any], console: Console) -> None:
    from fedapp.report.budget import show

    table = Table(title="privacy plan", show_header=False, title_justify="left")
    for label, value in (
        (
            f"epsilon at delta {found['delta']:g}, sample rate {found['sample_rate']:g} "
            "(PRV, upper)",
            found["epsilon"],
        ),
        (
            f"epsilon if cohorts are known, {found['participations']} rounds a client (exact)",
            found["epsilon_known_cohort"],
        ),
        ("epsilon by RDP", found["accountants"]["rdp"]),
        ("noise multiplier z", found["noise_multiplier"]),
        ("noise over largest signal, z S sqrt(d) / m", found["noise_to_signal"]),
    ):
        table.add_row(label, show(value))
    console.print(table)
    ratio = found["noise_to_signal"]
    if ratio is not None and ratio > 1:
        console.print(
            f"[bold yellow]warning[/] noise is up to {ratio:.3g} times the largest "
            "signal of a round: "
            "expect to learn little",
            highlight=False,
        )
    helps = Table(
        "change alone",
        "to",
        "epsilon",
        "noise over signal",
        title="what would help",
        title_justify="left",
    )
    for row in found["advice"]:
        helps.add_row(
            row["change"], show(row["to"]), show(row["epsilon"]), show(row["noise_to_signal"])
        )
    console.print(helps)
    if found["within_budget"] is False:
        console.print(
            f"[bold red]stops early[/] the limit is epsilon {found['epsilon_max']:g} "
            "with known cohorts",
            highlight=False,
        )


@budget.command()
def report(
    path: Annotated[Path, typer.Argument(help="a run folder")], target: JsonOption = ""
) -> None:
    """Write the budget report of a run's population (privacy_report.json and .html) and print its
    summary."""
    from fedapp.report.budget import show, write_budget
    from fedapp.store.runfolder import RunFolder

    found, page = write_budget(RunFolder.open(path.resolve()))
    console.print(found["claim"], **PLAIN)
    table = Table("against whom", "protection", title_justify="left")
    for row in found["against"]:
        table.add_row(row["who"], row["protection"])
    console.print(table)
    if found["budget"]:
        left = found["budget"]
        console.print(
            f"spent {show(left['spent'])} of {show(left['epsilon_max'])}, "
            f"{left['rounds_left']} rounds left; "
            f"audit: {found['audit']['verdict']}",
            highlight=False,
        )
    console.print(f"report: {page}", **PLAIN)
    write_json(target, found)


@budget.command()
def verify(
    path: Annotated[
        Path, typer.Argument(help="a run folder, a population's folder or a ledger.jsonl")
    ],
    target: JsonOption = "",
) -> None:
    """Check a ledger's order, chain and signatures, and that it is no shorter than a run's
    checkpoint knows."""
    from fedapp.cli.ledgers import check

    found = check(path.resolve())
    console.print(
        f"intact: {found['entries']} entries, {found['charged']} rounds charged, "
        f"{found['released']} released"
        + (
            f"; checkpoint of round {found['checkpoint_round']} agrees"
            if found["checkpoint_round"]
            else ""
        ),
        highlight=False,
    )
    write_json(target, found)
