r"""Noise floor: a noised sum cannot be shorter than its noise.

A released mean is :math:`\bar x = s + \sigma g` with :math:`g \sim N(0, I_d)`. Whatever the signal
s, :math:`\lVert \bar x \rVert^2 / \sigma^2` is non-central chi-square with d degrees of freedom and
stochastically at least the central one, so

.. math:: P(\lVert \bar x \rVert \le r) \le P(\chi^2_d \le r^2 / \sigma^2),

an upper bound of the p-value of "the noise was added as claimed". Its norm is known to
:math:`1 / \sqrt{2 d}`: 4 % at d = 371. Nothing is assumed about clients, so it can be read off the
rounds of the run itself. Where a signal as long as the clip allows is longer than the noise, a sum
without noise may pass: then nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import chi2

LEVEL = 1e-3  # of false alarms, over all sums of a test together


@dataclass(frozen=True)
class Released:
    """The norm of one released mean, the deviation of the noise in each of its ``dimension``
    numbers as claimed, and the longest signal there can be in it, all in the same unit."""

    norm: float
    deviation: float
    dimension: int
    signal: float

    @property
    def ratio(self) -> float:
        """Norm over that of the claimed noise alone."""
        return self.norm / (self.deviation * math.sqrt(self.dimension))

    @property
    def p_value(self) -> float:
        """Chance, at most, of a norm as small as this with all of the noise."""
        return float(chi2.cdf((self.norm / self.deviation) ** 2, self.dimension))

    def least(self, level: float) -> float:
        """The ratio below which a sum fails at this level."""
        return math.sqrt(float(chi2.ppf(level, self.dimension)) / self.dimension)

    def tells(self, level: float) -> bool:
        """Whether a sum without any noise would fail, however long its signal."""
        return self.signal < self.least(level) * self.deviation * math.sqrt(self.dimension)


def judge_floor(name: str, sums: Sequence[Released]) -> dict[str, float | str | int | None]:
    """One row: the shortest of the sums against its noise.

    FAIL: shorter than the noise alone can be, at :data:`LEVEL` for all sums together (Bonferroni).
    ``verdict`` is ``NOT TESTED`` where there is no sum, or one without noise could pass as well.
    """
    row: dict[str, float | str | int | None] = {
        "test": name,
        "sums": len(sums),
        "ratio": None,
        "least": None,
        "p_value": None,
        "verdict": "NOT TESTED",
    }
    if not sums:
        return row
    level = LEVEL / len(sums)
    worst = min(sums, key=lambda released: released.p_value)
    row |= {"ratio": worst.ratio, "least": worst.least(level), "p_value": worst.p_value}
    if worst.p_value < level:
        row["verdict"] = "FAIL"
    elif all(released.tells(level) for released in sums):
        row["verdict"] = "PASS"
    return row
