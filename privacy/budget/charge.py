"""Charging a round before it happens: the bridge between rounds and the ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy.budget.ledger import Ledger
from privacy.budget.spent import Spent
from privacy.sampling import Sampler
from tasks.errors import StoppedError

REMEDY = (
    "more clients or noise would cost less a round (`fedapp budget plan`); a larger budget is "
    "privacy.epsilon-max"
)


@dataclass
class Charging:
    """A :class:`strategies.types.Charge` for one arm; arms of one population share ``ledger`` and
    ``spent``."""

    ledger: Ledger
    spent: Spent
    sampler: Sampler
    multiplier: float
    delta: float
    epsilon_max: float
    run: str
    arm: str
    release: str = ""
    placement: str = "central"
    masked: bool = False

    def reserve(self, round: int) -> None:
        candidates = None if self.sampler.name == "poisson" else self.sampler.draw(round)
        after = self.spent.after(self.multiplier, candidates, self.delta)
        # Without noise nothing is claimed, and it is on record: no limit stops it
        if self.multiplier > 0 and not after <= self.epsilon_max:
            now = self.spent.headline(self.delta)
            reason = (
                f"privacy budget: round {round} of {self.arm} would bring epsilon from {now:.4g} "
                f"to {after:.4g} (delta {self.delta:g}), "
                f"the population's limit is {self.epsilon_max:g}"
            )
            self._write("stop", round=round, reason=reason)
            raise StoppedError(f"{reason}\n  → {REMEDY}")
        self._write(
            "reserve",
            round=round,
            multiplier=self.multiplier,
            rate=self.sampler.rate,
            sampling=self.sampler.name,
            adjacency="zero-out",
            delta=self.delta,
            epsilon_after=after if math.isfinite(after) else None,
            release=self.release,
            placement=self.placement,
            masked=self.masked,
        )

    def sampled(self, clients: list[int]) -> None:
        self._write("cohort", clients=sorted(clients))

    def released(self, clients: list[int]) -> None:
        epsilon = self.spent.headline(self.delta)
        self._write(
            "release", counted=len(clients), epsilon=epsilon if math.isfinite(epsilon) else None
        )

    def aborted(self, reason: str) -> None:
        self._write("abort", reason=reason.splitlines()[0] if reason else "")

    def witness(self) -> dict[str, int | str]:
        return self.ledger.witness()

    def _write(self, kind: str, **content: object) -> None:
        self.spent.add(self.ledger.append(kind, run=self.run, arm=self.arm, **content))
