"""Stages of a fit, as data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from tasks.errors import InputError, nearest
from tasks.settings import HeadSettings

LOSSES = ("neutral", "operator", "eikonal", "curvature", "lipschitz", "prior")
FREEZES = ("", "geometry", "grid")
OWN = "own"  # the method whose stages the configuration holds


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: for the log.
        steps: of Adam.
        rate: of Adam at the start; a fifth of it at the end.
        beta: width of the density, from and to (geometric); 0 at the end: learned.
        losses: weights by name (``LOSSES``); a name that is missing weighs nothing. ``neutral`` is
            the colour term of the views there are colours of, ``prior`` keeps a template's
            coefficients small.
        grids: corners per axis, coarse to fine, in equal parts of the first half of the steps.
        warm: steps over which the rate rises.
        freeze: ``geometry``: colours alone learn; ``grid``: colours and a template's coefficients.
        colours: which views the colour term sees: ``neutral`` ones, or ``all`` (full RGB).
    """

    name: str
    steps: int
    rate: float = 5e-3
    beta: tuple[float, float] = (0.1, 0.003)
    losses: dict[str, float] = field(default_factory=dict)
    grids: tuple[int, ...] = ()
    warm: int = 100
    freeze: str = ""
    colours: str = "neutral"

    def weight(self, loss: str) -> float:
        """Weight of a loss."""
        return self.losses.get(loss, 0.0)


BASE = {"eikonal": 0.1, "curvature": 0.02}


def chosen(method: str, settings: HeadSettings) -> list[Stage]:
    """The stages of a method; raises ``InputError`` for one that is none."""
    known = methods(settings.grid, settings.first_steps, settings.second_steps, settings.sharp)
    if method == OWN:
        return parse(settings.stages)
    if method not in known:
        raise InputError("methods", method, "no such method", nearest(method, [*known, OWN]))
    return known[method]


def grids_to(side: int) -> tuple[int, ...]:
    """Corners per axis that a fit to ``side`` goes through: 3/8 and 11/16 of it first."""
    return tuple(dict.fromkeys((max(8, side * 3 // 8), max(8, side * 11 // 16), side)))


def methods(side: int, first: int, second: int, sharp: float) -> dict[str, list[Stage]]:
    """The methods that are compared, by name.

    Args:
        side: corners per axis of the finest grid.
        first, second: steps of the stages.
        sharp: width of the density at the very end.

    ``stage2`` is the paper's order, with neutral colours kept in the second stage (the paper sets
    their weight to 0: ``stage2-published``). ``template`` begins with a public template instead of
    neutral views (it uses those there are).
    """
    total = first + second
    early = Stage(
        "neutral", first, beta=(0.1, 0.003), losses=BASE | {"neutral": 1.0}, grids=grids_to(side)
    )
    late = Stage(
        "obscured",
        second,
        beta=(0.02, sharp),
        losses=BASE | {"neutral": 1.0, "operator": 1.0, "lipschitz": 3e-10},
    )
    whole = replace(early, steps=total, beta=(0.1, sharp))
    return {
        "stage1": [early],
        "stage2": [early, late],
        "stage2-published": [
            early, replace(late, losses=BASE | {"operator": 1.0, "lipschitz": 3e-10})
        ],
        "template": [
            replace(late, name="colours", steps=max(first // 4, 1), beta=(0.02, 0.02), warm=20,
                    freeze="geometry"),
            replace(late, name="coefficients", steps=max(first // 2, 1), rate=0.1, warm=20,
                    beta=(0.02, 0.01), freeze="grid", losses=late.losses | {"prior": 1e-3}),
            replace(late, beta=(0.01, sharp), grids=(side,)),
        ],
        "full_rgb": [replace(whole, name="full RGB", colours="all")],
        "neutral_rgb": [replace(whole, name="neutral RGB")],
        "joint": [replace(whole, name="joint", losses=late.losses)],
        "gradient_only": [
            replace(whole, name="gradient only", losses=BASE | {"operator": 1.0})
        ],
    }  # fmt: skip


def begins_with_template(stages: list[Stage]) -> bool:
    """Whether a method has coefficients of a template to find."""
    return any(stage.freeze == "grid" for stage in stages)


def parse(text: str) -> list[Stage]:
    """Stages from JSON: a list of objects with the attributes of :class:`Stage`.

    Raises:
        InputError: what is wrong, by name.
    """
    try:
        listed = json.loads(text)
    except ValueError as error:
        raise InputError(
            "head.stages", text, f"not JSON: {error}", "give a list of stages"
        ) from None
    if not isinstance(listed, list) or not listed:
        raise InputError("head.stages", text, "not a list of stages", "give one stage or more")
    return [_stage(entry) for entry in listed]


def _stage(entry: Any) -> Stage:
    known = {item.name for item in fields(Stage)}
    if not isinstance(entry, dict) or not {"name", "steps"} <= entry.keys():
        raise InputError("head.stages", entry, "a stage has a name and steps", "name both")
    for key in entry.keys() - known:
        raise InputError("head.stages", key, "no such setting of a stage", nearest(key, known))
    for loss in entry.get("losses", {}):
        if loss not in LOSSES:
            raise InputError("head.stages losses", loss, "no such loss", nearest(loss, LOSSES))
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    stage = Stage(**values)
    if stage.steps < 1 or stage.rate <= 0 or len(stage.beta) != 2 or stage.beta[0] <= 0:
        raise InputError("head.stages", entry, "steps, rate and beta are positive", "correct it")
    if stage.freeze not in FREEZES or stage.colours not in ("neutral", "all"):
        raise InputError(
            "head.stages", entry, "freeze is '', geometry or grid, colours neutral or all",
            "correct it",
        )  # fmt: skip
    return stage


def described(stages: list[Stage]) -> str:
    """Stages as JSON (inverse of :func:`parse`)."""
    return json.dumps([asdict(stage) for stage in stages])
