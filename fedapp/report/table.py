"""Tables of numbers: one source for the terminal, the page and the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.table import Table as RichTable

NONE = "–"
MEAN_AND_MAX = {"mean", "max", "n"}  # keys of a value over clients


class Column(NamedTuple):
    """A column: its title, where its value stands in a method's row, and how many digits it has."""

    title: str
    path: tuple[str, ...]
    digits: int = 2


@dataclass(frozen=True)
class Table:
    """A table as it is shown. ``flags`` holds a short remark on a row, by the row's first cell."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(title=self.title)
        for index, name in enumerate(self.head):
            table.add_column(name, justify="right" if index else "left")
        for first, *rest in self.rows:
            flag = self.flags.get(first)
            table.add_row(f"{first} [red]({flag})[/]" if flag else first, *rest)
        return table

    def markdown(self) -> str:
        """For a README."""
        lines = [self.head, ["---"] * len(self.head)]
        for first, *rest in self.rows:
            flag = self.flags.get(first)
            lines.append([f"{first} ({flag})" if flag else first, *rest])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: Any, digits: int = 2) -> str:
    """A number with so many digits; a list of them; a dash for what was not computed."""
    if isinstance(value, bool) or value is None:
        return NONE if value is None else str(value).lower()
    if isinstance(value, list):
        parts = [f"{v:g}" if isinstance(v, float) else number(v, 0) for v in value]
        return ", ".join(parts) or NONE
    return f"{value:.{digits}f}" if isinstance(value, int | float) else str(value)


def lookup(row: Mapping[str, Any], path: Iterable[str]) -> Any:
    """The value at a path of keys; ``None`` where it ends early."""
    found: Any = row
    for key in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def by_method(
    title: str,
    rows: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, str],
    columns: list[Column],
    note: str = "",
) -> Table | None:
    """A table with a row per method; methods without a single value are left out, and so is a table
    without a method.

    Args:
        title: of the table, and of its first column where it has a colon.
        rows: the methods' results by name, in order.
        labels: how methods are called.
        columns: what is shown of each.
        note: below the table.
    """
    shown: list[list[str]] = []
    flags: dict[str, str] = {}
    for name, row in rows.items():
        values = [lookup(row, column.path) for column in columns]
        if all(value is None for value in values):
            continue
        cells = [number(v, c.digits) for v, c in zip(values, columns, strict=True)]
        shown.append([labels[name], *cells])
        if row.get("outside_range"):
            flags[labels[name]] = "renders outside the data range"
    if not shown:
        return None
    return Table(title, ["method", *(c.title for c in columns)], shown, note, flags)


def also_measured(
    rows: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str], seen: set[str]
) -> Table | None:
    """Everything else about the methods, a row per metric: nothing that was measured goes unseen.

    Args:
        rows: the methods' results by name.
        labels: how methods are called.
        seen: names of the metrics that other tables show.
    """
    leaves: dict[tuple[str, ...], None] = {}
    for row in rows.values():
        for name, value in row.items():
            if name not in seen:
                leaves |= dict.fromkeys(_leaves((name,), value))
    known = [path for path in leaves if any(lookup(r, path) is not None for r in rows.values())]
    if not known:
        return None
    table = [
        [
            " ".join(path).replace("_", " "),
            *(short(lookup(row, path)) for row in rows.values()),
        ]
        for path in known
    ]
    return Table("also measured", ["metric", *(labels[name] for name in rows)], table)


def _leaves(path: tuple[str, ...], value: Any) -> list[tuple[str, ...]]:
    """Paths of the plain values below a value; of a mean over clients, the mean and the worst."""
    if isinstance(value, Mapping):
        shown = [key for key in value if key != "n"] if set(value) >= MEAN_AND_MAX else [*value]
        return [leaf for key in shown for leaf in _leaves((*path, str(key)), value[key])]
    return [path]


def short(value: Any) -> str:
    """A value of any kind: four digits of a number, words as they are, a list by its entries."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(short(entry) for entry in value) or NONE
    return number(value, 0)
