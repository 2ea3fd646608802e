"""Recipes: small TOML files that change a few config keys, by name (``sim/recipes``) or by path.

The config.json of a run is a recipe too: it says everything.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from fedapp.config.experiment import known_keys, unknown_key
from fedapp.place import ROOT
from tasks.errors import InputError, nearest
from tasks.settings import flatten

FOLDER = ROOT / "sim" / "recipes"


def recipe_names() -> dict[str, str]:
    """Recipe names and the first line of comment in each file."""
    names = {}
    for file in sorted(FOLDER.glob("*.toml")):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        names[file.stem] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return names


def read_recipe(name: str) -> dict[str, Any]:
    """The keys a recipe sets, flat; ``name`` may also be the path of a TOML file."""
    own = name.endswith((".toml", ".json"))
    file = Path(name) if own else FOLDER / f"{name}.toml"
    if not file.is_file():
        other = ", or a .toml file, or a run's config.json"
        raise InputError("recipe", name, "no such recipe", nearest(name, recipe_names()) + other)
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors begin with a byte order mark
        values = json.loads(text) if file.suffix == ".json" else flatten(tomllib.loads(text))
        if not isinstance(values, dict):
            raise ValueError("not a table of keys")
    except (ValueError, OSError) as error:  # what is no TOML or JSON, or no text at all
        raise InputError(
            "recipe", str(file), f"not valid {file.suffix[1:].upper()}: {error}", "correct the file"
        ) from error
    for key in ("run-dir", "resume") if file.suffix == ".json" else ():  # that run's own
        values.pop(key, None)
    values.setdefault("recipe", file.stem)
    return values


def read_overrides(assignments: list[str]) -> dict[str, Any]:
    """``["learner.inner-steps=8", …]`` as typed values."""
    known, values = known_keys(), {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals:
            raise InputError(
                "-o", assignment, "not of the form key=value", "for example -o rounds=20"
            )
        if key not in known:
            raise unknown_key(key)
        values[key] = _parse(text.strip(), known[key], key)
    return values


def written(value: object) -> str:
    """A config value as ``-o key=value`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(text: str, default: Any, key: str) -> Any:
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise InputError(
            key, text, "must be true or false", f"the default is {str(default).lower()}"
        )
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise InputError(key, text, f"must be {kind}", f"the default is {default}") from None
