"""Made-up data in the layouts of published sets, for whoever has not got those: the recipes of the
paper run on them (``fedapp made petface OUT``), and their curves are in ``docs/fedmenf.md``.

They are no stand-in for the sets: cats are warped copies of one photograph, people are procedural
heads, golfers are drawn. What is measured on them is said to be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.registry import resolve

LAYOUTS = {
    "petface": "tasks.data.made.faces:write",
    "golfdb": "tasks.data.made.swings:write",
}  # ``write(folder, holders, first)`` fills a new folder: holders first, first + 1, ...


def writer(layout: str) -> Callable[[Path, int, int], None]:
    """The writer of a layout; the caller has seen to it that there is one."""
    found: Callable[[Path, int, int], None] = resolve(LAYOUTS[layout])
    return found
