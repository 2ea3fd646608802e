"""Contents of the registries, in one line each."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args, get_origin

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import recipe_names
from fedapp.workflows import WORKFLOWS, kind_of
from privacy.releases import RELEASES
from sim.settings import RUNTIMES
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
        "workflows": {
            **{name: kind_of(name).about for name in WORKFLOWS},
            **_described(installed("workflow")),
        },
        "runtimes": dict(RUNTIMES),
        "recipes": recipe_names(),
        "keys": {key: f"{value!r}  {_describe_key(key)}" for key, value in known_keys().items()},
    }


def _described(table: Mapping[str, str]) -> dict[str, str]:
    return {name: _plain(_docstring(target).split("\n\n")[0]) for name, target in table.items()}


def _docstring(target: str) -> str:
    """The docstring of ``"module:attribute"`` from its source: importing every choice there is
    would load torch to print a list."""
    module, _, attribute = target.partition(":")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return ast.get_docstring(node) or ""
    return ""


def _plain(text: str) -> str:
    """A docstring's line without its markup: the last part of what a role names, formulas as they
    are."""
    text = re.sub(r":(?:class|attr|func|meth|mod):`[^`]*?([^`.]+)`", r"\1", text)
    return " ".join(re.sub(r":math:`([^`]*)`", r"\1", text).replace("`", "").split())


def _describe_key(key: str) -> str:
    model: type[Settings] = Experiment
    *parents, last = key.split(".")
    for parent in parents:
        model = model.model_fields[parent.replace("-", "_")].annotation  # type: ignore[assignment]
    found = model.model_fields[last.replace("-", "_")]
    allowed = get_args(found.annotation) if get_origin(found.annotation) is Literal else ()
    return (found.description or "") + (f" ({', '.join(map(str, allowed))})" if allowed else "")
