"""Content of a report: events, numbers and pictures of a run gathered for the page."""

from __future__ import annotations

import shlex
from typing import Any

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import Pieces
from fedapp.config.recipes import read_recipe, recipe_names, written
from fedapp.report.colours import colours_of
from fedapp.report.families import Shown, family_of, tables_of
from fedapp.report.findings import attack_findings
from fedapp.report.media import Media
from fedapp.report.table import number
from fedapp.results import summarise
from fedapp.store.runfolder import RunFolder
from fedapp.workflows import kind_of


def view(folder: RunFolder) -> tuple[str, dict[str, Any]]:
    """The template of a run's page, and everything it shows, ready to print."""
    pieces = Pieces.of(folder)
    experiment = pieces.experiment
    events = list(folder.events())
    rounds = [event for event in events if event["event"] == "round"]
    shown = Shown.of(pieces, summarise(folder))
    family = family_of(pieces)
    media = Media(folder)
    attacks = folder.read("attack.json").get("rows", [])
    colours = colours_of(shown.order)
    common = {
        "name": folder.path.name,
        "heading": f"{experiment.recipe}: {' · '.join(shown.titles[m] for m in shown.order)}",
        "experiment": experiment,
        "axes": kind_of(experiment.workflow_name).axes,
        "about": folder.read("run.json"),
        "status": folder.fate,
        "result": shown.result,
        "order": shown.order,
        "trained": shown.trained,
        "titles": shown.titles,
        "colours": colours,
        "dots": {shown.titles[name]: colour for name, colour in colours.items()},
        "steps": experiment.evaluation.step_list,
        "attacks": attacks,
        "over_rounds": folder.read("attack-rounds.json"),
        "round_sheets": {m: media(f"attack-rounds-{m}") for m in shown.trained},
        "audit": folder.read("audit.json"),
        "failures": [event for event in rounds if event["failures"]],
        "fallbacks": [event for event in rounds if event.get("fallbacks")],
        "config": experiment.to_run_config(),
        "defaults": known_keys(),
        "reproduce": _command(folder, experiment),
        "number": number,
        "strip": [],
        "tables": tables_of(shown),
        "findings": attack_findings(attacks, shown.titles) + family.findings(shown),
    }
    return family.template, common | family.exhibits(shown, events, media)


def _command(folder: RunFolder, experiment: Experiment) -> str:
    """The command line of the same run: its recipe and what was changed of it, or else its own
    config.json."""
    runtime = folder.read("run.json").get("runtime", "ray")
    config = experiment.to_run_config()
    if experiment.recipe not in recipe_names():
        return f"fedapp run {shlex.quote(str(folder.path / 'config.json'))} --runtime {runtime}"
    base = known_keys() | read_recipe(experiment.recipe)
    changed = {
        key: value
        for key, value in config.items()
        if key not in ("run-dir", "resume") and value != base[key]
    }
    options = [f"-o {shlex.quote(f'{key}={written(value)}')}" for key, value in changed.items()]
    return " \\\n  ".join([f"fedapp run {experiment.recipe} --runtime {runtime}", *options])
