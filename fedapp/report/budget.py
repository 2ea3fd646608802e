"""The budget report of a run or a population: gathered from its ledger, written as JSON and as a
page."""

from __future__ import annotations

import importlib.util
import math
import time
from pathlib import Path
from typing import Any

from fedapp.about import versions
from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.identity import fingerprint
from fedapp.report.budget_page import BUDGET_PAGE
from fedapp.running.protection import ledger_folder
from fedapp.store.runfolder import RunFolder
from privacy.budget.facts import Facts
from privacy.budget.ledger import LEDGER_FILE, Head, line_hash, read_entries
from privacy.budget.report import build_report
from privacy.flower.wire import OUTGOING
from tasks.atomic import write_bytes, write_json
from tasks.errors import InputError

JSON_FILE = "privacy_report.json"
PAGE_FILE = "privacy_report.html"


def budget_of(folder: RunFolder) -> dict[str, Any]:
    """The report of the population a run belongs to, at the run's settings."""
    experiment = folder.experiment
    file = ledger_folder(experiment) / LEDGER_FILE
    if not file.exists():
        raise InputError(
            "run",
            str(folder.path),
            f"has no budget: its release is {experiment.release}",
            "run a private release, for example the recipe quickstart-dp",
        )
    pieces = Pieces(experiment)
    privacy, clients, sampler = experiment.privacy, experiment.clients, pieces.sampler(0)
    size = pieces.rule.size(pieces.task.layout.size)
    release: Any = pieces.release
    entries = read_entries(file)
    lines = file.read_bytes().split(b"\n")
    rounds = [event["metrics"] for event in folder.events() if event["event"] == "round"]
    facts = Facts(
        entries=entries,
        head=Head(len(entries) - 1, line_hash(lines[-2])),
        ledger_id=entries[0]["public"],
        release_name=experiment.release,
        release=release,
        sampling=privacy.sampling,
        population=clients.total,
        per_round=sampler.per_round,
        expected=sampler.expected,
        planned_rounds=experiment.rounds,
        arms=_arms(experiment),
        run=folder.path.name,
        population_name=privacy.population,
        separation=sampler.separation,
        delta=privacy.delta,
        epsilon_max=privacy.epsilon_max,
        colluding=privacy.colluding,
        parameters=size,
        fields=OUTGOING,
        realised=rounds,
        audit=folder.read("audit.json").get("rows", []),
        noise=folder.read("audit.json").get("noise", []),
        attacks=folder.read("attack.json").get("rows", []),
        provenance={
            **versions(),
            "source": fingerprint(folder.config),
            "run": folder.path.name,
            "population": experiment.privacy.population,
            "written": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        },
    )
    return build_report(facts)


def write_budget(folder: RunFolder) -> tuple[dict[str, Any], Path]:
    """Write ``privacy_report.json`` and ``.html`` beside the run; returns the report and the
    page."""
    report = budget_of(folder)
    write_json(folder.path / JSON_FILE, report)
    page = folder.path / PAGE_FILE
    write_bytes(page, _render(folder.path.name, report).encode(errors="replace"))
    return report, page


def _render(name: str, report: dict[str, Any]) -> str:
    import jinja2

    curve = histogram = ""
    if importlib.util.find_spec("matplotlib") is not None:
        from fedapp.report import figures

        if report["accounting"]["curve"]:
            points = [(row["delta"], row["epsilon"]) for row in report["accounting"]["curve"]]
            curve = figures.epsilon_over_delta(points, report["accounting"]["delta"])
        histogram = figures.participations(report["sampling"]["participations"]["histogram"])
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).from_string(BUDGET_PAGE)
    return template.render(
        name=name, r=report, number=show, plain=_plain, curve=curve, histogram=histogram
    )


def show(value: Any) -> str:
    """A number for people; what was not computed says so."""
    if value is None:
        return "not computed"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if math.isfinite(value) else "infinite"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        shown = [_plain(item) for item in value]
        return ", ".join(shown if len(shown) <= 12 else [*shown[:5], "…", *shown[-5:]]) or "none"
    return (
        show(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else str(value)
    )


def _arms(experiment: Experiment) -> int:
    return len(experiment.trained_methods) * len(experiment.seed_list)
