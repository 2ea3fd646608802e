"""Is the other side running the same code, and does a run go on with the same people's data?

A fingerprint of our source, and of the plug-ins a run names, travels with every message. In
simulation Ray workers may import ``tasks``, ``sim``, ... from the directory in which the SuperLink
was started rather than from the submitted bundle; in a deployment versions can differ. Either would
silently mix code.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedapp.place import PACKAGES, ROOT
from tasks.errors import FedappError, InputError
from tasks.registry import REFERENCE


class ForeignCodeError(FedappError):
    """This process runs other code than the server."""


def fingerprint(config: Mapping[str, Any] | None = None) -> str:
    """SHA-256 over all our Python files as imported by this process, then ``name=SHA-256`` of each
    plug-in package that ``config`` names a task, rule, learner or release of."""
    return " ".join(
        [_own(), *(f"{name}={_of_package(name)}" for name in sorted(_plugins(config or {})))]
    )


@lru_cache(maxsize=1)
def _own() -> str:
    return _digest(
        ROOT, (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    )


@lru_cache(maxsize=64)
def _of_package(name: str) -> str:
    """Of a package outside of ours: all its Python files, without importing any."""
    spec = find_spec(name)
    if spec is None:
        return "missing"
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if not places:
        return _digest(Path(str(spec.origin)).parent, [Path(str(spec.origin))])
    return "+".join(_digest(place, sorted(place.rglob("*.py"))) for place in places)


def _digest(root: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def references(config: Mapping[str, Any]) -> list[str]:
    """Every ``module:attribute`` in the values of a configuration, whatever key holds it and
    whatever stands around it (a list, a link of an operator, JSON): some code may import it."""
    parts = [part for value in config.values() for part in re.split(r"[^\w.:]+", str(value))]
    return sorted({part for part in parts if REFERENCE.fullmatch(part)})


def _plugins(config: Mapping[str, Any]) -> set[str]:
    """Top-level packages outside of ours that a run takes its pieces from."""
    from fedapp.workflows import WORKFLOWS
    from privacy.releases import RELEASES
    from strategies.local import LEARNERS
    from strategies.rules import RULES
    from tasks import TASKS
    from tasks.registry import load, reference

    named = [
        ("task", TASKS, "task"),
        ("rule", RULES, "rule"),
        ("release", RELEASES, "release"),
        ("workflow", WORKFLOWS, "workflow"),
    ]
    pieces = [(axis, table, str(config[key])) for axis, table, key in named if config.get(key)]
    methods = [name.strip() for name in str(config.get("methods", "")).split(",") if name.strip()]
    pieces += [("learner", LEARNERS, method) for method in methods]
    task = str(config.get("task", ""))
    if task and task not in TASKS:  # a plug-in's task may bring a workflow of its own
        pieces.append(("workflow", WORKFLOWS, load("task", task, TASKS).workflow))
    found = set()
    for axis, table, name in pieces:
        try:
            found.add(reference(axis, name, table).split(":")[0].split(".")[0])
        except InputError:
            if axis != "learner":  # methods of another workflow are no learners
                raise
    found |= {name.split(":")[0].split(".")[0] for name in references(config)}
    return found - set(PACKAGES)


def own_files(path: str) -> list[Path]:
    """All files under ``data.path``, in order; clients are numbered by them. None for bundled
    data."""
    root = Path(path).expanduser()
    return [file for file in sorted(root.rglob("[!.]*")) if file.is_file()] if path else []


def people_of(path: str) -> str:
    """SHA-256 of the names under ``data.path``: one more or less, and numbers would stand for other
    people."""
    root = Path(path).expanduser()
    names = "\0".join(file.relative_to(root).as_posix() for file in own_files(path))
    return hashlib.sha256(os.fsencode(names)).hexdigest()[:16]  # names need not be UTF-8


def refuse_foreign(server_fingerprint: str, server_root: str, config: Mapping[str, Any]) -> None:
    """Raise unless this process runs the server's code, that of the plug-ins ``config`` names
    included."""
    # Our own code first: to know the plug-ins' a task may have to be imported
    own, theirs = _own(), server_fingerprint.split(" ")[0]
    if own != theirs:
        raise ForeignCodeError(
            f"the ClientApp runs code from {ROOT}, the ServerApp from {server_root}, and they "
            "differ. "
            "Start the local SuperLink from an empty directory (`fedapp run` does), or install "
            "the same version."
        )
    mine = fingerprint(config)
    if server_fingerprint == mine:
        return
    plugins = mine.split(" ")[1:]
    different = [
        part.split("=")[0] for part in plugins if part not in server_fingerprint.split(" ")
    ]
    raise ForeignCodeError(
        f"the code of {', '.join(different) or 'the plug-ins'} differs between this node and "
        "the server: install the "
        "same version on both."
    )
