"""Checks of the workflow in which a device sends pictures once, obscured, and the server fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.operators import Chain
from tasks.errors import InputError
from tasks.fields.distance import DenseGrid, representation
from tasks.head.stages import OWN, Stage, begins_with_template, chosen
from tasks.head.task import HeadTask

if TYPE_CHECKING:
    from fedapp.config.experiment import Experiment

OBSCURED, COLOUR = "obscured", "full-rgb"  # kinds of uploads, as a node's policy names them


def kind_of(stages: list[Stage]) -> str:
    """What a method's nodes must send: colours of frontal views, or what an operator leaves."""
    return COLOUR if any(stage.colours == "all" for stage in stages) else OBSCURED


def refuse_upload(experiment: Experiment) -> None:
    """Raise :class:`InputError` for the first thing that cannot be done."""
    from tasks import TASKS
    from tasks.registry import load

    if not issubclass(load("task", experiment.task, TASKS), HeadTask):
        raise InputError("task", experiment.task, "it has no views to obscure", "use head")
    settings = experiment.head
    if settings.stages and OWN not in experiment.method_list:
        raise InputError(
            "head.stages", settings.stages, "no method uses them", f"add {OWN} to methods"
        )
    if OWN in experiment.method_list and not settings.stages:
        raise InputError("methods", OWN, "head.stages is empty", "give its stages as JSON")
    plans = {method: chosen(method, settings) for method in experiment.method_list}
    longest = max(len(stages) for stages in plans.values())
    if experiment.rounds < longest:
        raise InputError(
            "rounds", experiment.rounds, "a round is a stage, and methods have more of them",
            f"set it to {longest}",
        )  # fmt: skip
    for method, stages in plans.items():
        neutral = any(stage.weight("neutral") and stage.colours == "neutral" for stage in stages)
        neutral = neutral and not begins_with_template(stages)
        if neutral and not settings.neutral_views:
            raise InputError(
                "head.neutral-views", 0, f"{method} is fitted to neutral views",
                "have some, or use gradient_only",
            )  # fmt: skip
    if experiment.clients.per_round not in (0, experiment.clients.total):
        raise InputError(
            "clients.per-round", experiment.clients.per_round, "every head is fitted by itself",
            "set it to 0",
        )  # fmt: skip
    kind = representation(settings.field)
    for method, stages in plans.items():
        if begins_with_template(stages) and not isinstance(kind, DenseGrid):
            raise InputError(
                "head.field", settings.field, f"{method} begins with a template of lattices",
                "set it to grid, or leave the method out",
            )  # fmt: skip
    Chain.parsed(settings.operator)
    finest = max(
        [settings.grid, *(side for stages in plans.values() for s in stages for side in s.grids)]
    )
    if settings.patch + 2 > experiment.data.size:
        raise InputError(
            "head.patch", settings.patch, f"pictures have {experiment.data.size} pixels per side",
            "make patches smaller, or pictures larger",
        )  # fmt: skip
    if finest > 256:
        raise InputError("head.grid", finest, "256 corners per axis at most", "make it smaller")
