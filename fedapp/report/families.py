"""Families of tasks: one home for what each shows, found by the task's own word for it.

A family is a module-like object with ``tables``, ``findings``, ``exhibits`` and a page
``template``. ``tables`` is the one source for terminal, page and README; whatever its tables leave
out of the numbers that were measured follows in a table of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fedapp.config.pieces import Pieces
from fedapp.report.table import Column, Table, also_measured, by_method
from strategies.local import LOCAL
from tasks.registry import load

if TYPE_CHECKING:
    from fedapp.config.experiment import Experiment
    from fedapp.report.media import Media

FAMILIES: dict[str, str] = {
    "geometry": "fedapp.report.geometry:Geometry",
    "field": "fedapp.report.field:Fields",
    "head": "fedapp.report.head:Heads",
    "plain": "fedapp.report.plain:Plain",
    "split": "fedapp.report.split:Split",
    "template": "fedapp.report.template:Templates",
}
Sentences = list[tuple[str, str]]  # (good, plain or warning; the sentence)

TITLES = {
    "fedmenf": "FedMeNF",
    "fedmenf-published": "FedMeNF as published",
    "fedmenf-unbounded": "FedMeNF unbounded (exact clip)",
    "fedmenf-adaptive": "FedMeNF, γ from a budget",
    "fedmenf-first-order": "FedMeNF, first order",
    "maml": "MAML",
    "fomaml": "FOMAML",
    "reptile": "Reptile",
    "erm": "ERM",
    "meta-nsgd": "meta-NSGD",
    "adapters": "LoRA adapters",
    "sealed": "Sealed split",
    "split": "SplitNeRF",
    "s2nerf": "S²NeRF",
    "constant-noise": "Constant noise",
    "label-noise": "Label noise",
    "unsplit": "Not split",
    "private-grid": "No server, small grid",
    "private-fourier": "No server, Fourier",
    "stage1": "Stage 1, rear views",
    "stage2": "Stages 1 and 2",
    "stage2-published": "Stages 1 and 2, colours dropped",
    "full_rgb": "Full RGB",
    "template": "Template, then frontal views",
    "neutral_rgb": "Rear views, equal steps",
    "joint": "Joint",
    "gradient_only": "Gradients only",
    LOCAL: "Local",
}


@dataclass(frozen=True)
class Shown:
    """A run's result and how its methods are called."""

    pieces: Pieces
    result: dict[str, Any]
    titles: dict[str, str]

    @classmethod
    def of(cls, pieces: Pieces, result: dict[str, Any], titled: bool = True) -> Shown:
        """``titled``: methods by their published names instead of the config's."""
        names = {name: TITLES.get(name, name) if titled else name for name in result["methods"]}
        return cls(pieces, result, names)

    @property
    def experiment(self) -> Experiment:
        return self.pieces.experiment

    @property
    def order(self) -> list[str]:
        """The methods, those without federation last."""
        names = list(self.result["methods"])
        return sorted(names, key=lambda name: (name == LOCAL, names.index(name)))

    @property
    def trained(self) -> list[str]:
        return [name for name in self.order if name != LOCAL]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The methods' results in that order."""
        return {name: self.result["methods"][name] for name in self.order}

    def table(self, title: str, columns: list[Column], note: str = "") -> Table | None:
        """A table with a row for each method that has any of the ``columns``."""
        return by_method(title, self.rows, self.titles, columns, note)


class Family(Protocol):
    """One family of tasks, and its part of a report."""

    template: str
    """Jinja source that extends ``page``."""

    covers: frozenset[str]
    """Names of metrics that its tables show, or that are no measurement."""

    def tables(self, shown: Shown) -> list[Table | None]:
        """Tables of numbers; ``None`` for one that has nothing to show."""

    def findings(self, shown: Shown) -> Sentences:
        """Sentences a reader should not have to dig for, only where they hold."""

    def exhibits(self, shown: Shown, events: list[dict[str, Any]], media: Media) -> dict[str, Any]:
        """Whatever its template needs beside tables and findings."""


def family_of(pieces: Pieces) -> Family:
    """The family of a run's task; raises ``InputError`` for a name that is none."""
    found: Family = load("family", pieces.task_type.family, FAMILIES)()
    return found


def tables_of(shown: Shown) -> list[Table]:
    """All tables of a run, the last of them with every number the others leave out."""
    family = family_of(shown.pieces)
    own = family.tables(shown)
    rest = also_measured(shown.rows, shown.titles, set(family.covers))
    return [table for table in [*own, rest] if table is not None]
