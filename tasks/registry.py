"""Names to objects: literal tables, ``"module:attribute"`` references, installed entry points.

Order of look-up: the table of the axis, a reference that contains a colon, then entry points of the
group ``fedapp.<axis>``. The entry points of a plug-in are found only where it is pip-installed; a
reference also works inside a Flower bundle.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from tasks.errors import InputError, nearest

# The one grammar of references: what a node's allow-list looks for is what the loader imports
REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@cache
def installed(axis: str) -> Mapping[str, str]:
    """Entry points of ``fedapp.<axis>`` as ``{name: "module:attribute"}``, as this process found
    them (every message asks, and they are files)."""
    return {point.name: point.value for point in entry_points(group=f"fedapp.{axis}")}


def reference(axis: str, name: str, table: Mapping[str, str], key: str | None = None) -> str:
    """The ``"module:attribute"`` that ``name`` stands for on an axis; raises :class:`InputError` if
    none does."""
    if name in table:
        return table[name]
    if ":" in name:
        if not REFERENCE.fullmatch(name):
            raise InputError(
                key or axis, name, "not of the form package.module:Name", "correct the reference"
            )
        return name
    plugins = installed(axis)
    if name in plugins:
        return plugins[name]
    raise InputError(
        key or axis,
        name,
        f"no such {axis}",
        nearest(name, [*table, *plugins]) + ', or "package.module:Name"',
    )


def load(axis: str, name: str, table: Mapping[str, str], key: str | None = None) -> Any:
    """Import and return the object that ``name`` stands for."""
    target = reference(axis, name, table, key)
    module_name, _, attribute = target.partition(":")
    try:
        return resolve(target)
    except ModuleNotFoundError as error:
        raise InputError(
            key or axis,
            name,
            f"cannot import {module_name!r}: {error}",
            "install the package that holds it",
        ) from error
    except AttributeError as error:
        raise InputError(
            key or axis,
            name,
            f"{module_name!r} has no {attribute!r}",
            nearest(attribute, dir(importlib.import_module(module_name))),
        ) from error


def resolve(target: str) -> Any:
    """The object at ``"module:attribute"``; raises ``ValueError`` for another text."""
    if not REFERENCE.fullmatch(target):
        raise ValueError(f"{target!r} is not of the form module:attribute")
    module_name, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module_name), attribute)
