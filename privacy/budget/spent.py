r"""From a ledger's entries to what was spent, under each accountant.

Two numbers. The *headline* holds when the server knows who took part (it always does in federated
learning): for the client with the most participations, :math:`\mu^2 = \sum 1/z_t^2` over its
rounds, and the exact Gaussian epsilon of that mu. The *amplified* one counts on cohorts being drawn
by secret coins and kept secret from whoever is meant.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from privacy.accounting import Event, check_events, gaussian_epsilon


@dataclass
class Spent:
    """Everything charged so far. ``squares[client]``: sum of 1/z^2 over the rounds it was charged
    for."""

    squares: dict[int, float] = field(default_factory=dict)
    # Rounds whose cohort is unknown (a crash before it was written): charged to all
    everyone: float = 0.0
    participations: Counter[int] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list)
    charged: int = 0
    released: int = 0
    aborted: int = 0
    cohorts: list[int] = field(default_factory=list)
    fixed: bool = False  # at least one round was not drawn by secret coins
    _open: float | None = None  # cost of the reserve whose cohort is not known yet

    @classmethod
    def of(cls, entries: Iterable[dict[str, Any]]) -> Spent:
        """Sum of a whole ledger."""
        spent = cls()
        for entry in entries:
            spent.add(entry)
        return spent

    def add(self, entry: dict[str, Any]) -> None:
        """Take one more entry in. A reserve is charged at once, to everyone until its cohort is
        known."""
        kind = entry["type"]
        if kind == "reserve":
            self.charged += 1
            self._settle()
            self._open = _cost(entry["multiplier"])
            self.fixed |= entry["rate"] <= 0
            self.events = check_events(
                [*self.events, Event(entry["multiplier"], entry["rate"] or 1.0, 1)]
            )
        elif kind == "cohort" and self._open is not None:
            cost = self._open
            self._open = None
            self.cohorts.append(len(entry["clients"]))
            for client in entry["clients"]:
                self.squares[client] = self.squares.get(client, 0.0) + cost
                self.participations[client] += 1
        elif kind == "release":
            self.released += 1
        elif kind == "abort":
            self.aborted += 1

    def square(self, clients: Iterable[int] | None = None) -> float:
        """The largest mu^2 of any client, or of any of ``clients``."""
        chosen = self.squares if clients is None else clients
        own = max((self.squares.get(client, 0.0) for client in chosen), default=0.0)
        return self.everyone + (self._open or 0.0) + own

    def _settle(self) -> None:
        """A reserve that never got its cohort is charged to everyone for good."""
        self.everyone += self._open or 0.0
        self._open = None

    def headline(self, delta: float) -> float:
        """Epsilon of the client with the most participations, cohorts known."""
        return gaussian_epsilon(math.sqrt(max(self.square(), 0.0)), delta)

    def after(self, multiplier: float, candidates: Iterable[int] | None, delta: float) -> float:
        """The headline if one more round with ``multiplier`` hit the worst of ``candidates``
        (``None``: anyone)."""
        worst = max(self.square(candidates) + _cost(multiplier), self.square())
        return gaussian_epsilon(math.sqrt(worst), delta)


def _cost(multiplier: float) -> float:
    return math.inf if multiplier == 0 else multiplier**-2
