"""What the registries hold, in one line each."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Literal, get_args, get_origin

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import recipe_names
from fedapp.run.start import RUNTIMES
from privacy.releases import RELEASES
from strategies.local import LEARNERS, LOCAL
from strategies.rules import RULES
from tasks import TASKS
from tasks.registry import installed
from tasks.settings import Settings


def catalogue() -> dict[str, dict[str, str]]:
    """``{axis: {name: description}}`` for every axis of choice, and ``keys`` for the config."""
    learners = {**LEARNERS, **installed("learner")}
    return {
        "tasks": _described({**TASKS, **installed("task")}),
        "learners": {
            **_described(learners),
            LOCAL: "no federation: test-time optimisation from the random init",
        },
        "rules": _described({**RULES, **installed("rule")}),
        "releases": _described({**RELEASES, **installed("release")}),
        "runtimes": dict(
            zip(RUNTIMES, ("flwr run on Ray", "the same apps in this process"), strict=True)
        ),
        "recipes": recipe_names(),
        "keys": {key: f"{value!r}  {_describe_key(key)}" for key, value in known_keys().items()},
    }


def _described(table: dict[str, str]) -> dict[str, str]:
    rows = {}
    for name, target in table.items():
        module, _, attribute = target.partition(":")
        text = inspect.getdoc(getattr(importlib.import_module(module), attribute)) or ""
        rows[name] = _plain(text.split("\n")[0])
    return rows


def _plain(text: str) -> str:
    """A docstring's line without its markup: the last part of what a role names, formulas as they
    are."""
    text = re.sub(r":(?:class|attr|func|meth|mod):`[^`]*?([^`.]+)`", r"\1", text)
    return re.sub(r":math:`([^`]*)`", r"\1", text).replace("`", "")


def _describe_key(key: str) -> str:
    model: type[Settings] = Experiment
    *parents, last = key.split(".")
    for parent in parents:
        model = model.model_fields[parent.replace("-", "_")].annotation  # type: ignore[assignment]
    found = model.model_fields[last.replace("-", "_")]
    allowed = get_args(found.annotation) if get_origin(found.annotation) is Literal else ()
    return (found.description or "") + (f" ({', '.join(map(str, allowed))})" if allowed else "")
