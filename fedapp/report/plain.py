"""Tasks that belong to no family of ours (a plug-in's): the numbers they measured, for each
method."""

from __future__ import annotations

from typing import Any

from fedapp.metric_names import ALWAYS
from fedapp.report.families import Sentences, Shown
from fedapp.report.media import Media
from fedapp.report.plain_page import PLAIN_PAGE
from fedapp.report.table import Column, Table, lookup


class Plain:
    """The family of tasks nothing is known about."""

    template = PLAIN_PAGE
    covers: frozenset[str] = frozenset({"outside_range", "psnr_p_quantiles"})

    def tables(self, shown: Shown) -> list[Table | None]:
        names = dict.fromkeys(name for row in shown.rows.values() for name in row)
        plain = [
            name
            for name in names
            if name not in ALWAYS
            and any(isinstance(lookup(row, [name]), int | float) for row in shown.rows.values())
        ]
        self.covers = frozenset({*self.covers, *plain})
        columns = [Column(name.replace("_", " "), (name,), 4) for name in plain]
        note = "After the last round, means over seeds."
        return [shown.table("measured by the task", columns, note)]

    def findings(self, shown: Shown) -> Sentences:
        return []

    def exhibits(self, shown: Shown, events: list[dict[str, Any]], media: Media) -> dict[str, Any]:
        return {}
