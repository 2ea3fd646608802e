r"""Epsilon from canary scores: an estimate and two lower bounds.

- *One-shot* (G. Andrew, P. Kairouz, S. Oh, A. Oprea, H. B. McMahan, V. Suriyakumar, *One-shot
  Empirical Privacy Estimation for Federated Learning*, ICLR 2024,
  https://arxiv.org/abs/2302.03098): normals fitted to the scores of canaries inside and outside. An
  estimate, exact in the limit for a Gaussian mechanism; it bounds nothing.
- *Closed-form null*: the cosine of a fixed vector with a random direction has a known distribution,
  so the false-positive rate of any threshold is exact and only the misses are counted.
- *One run* (T. Steinke, M. Nasr, M. Jagielski, *Privacy Auditing with One (1) Training Run*,
  NeurIPS 2023, https://arxiv.org/abs/2305.08846): how many inclusion coins can be guessed from the
  scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.entropy import Entropy

Array = NDArray[np.float64]
LARGEST = 1000.0


# ---------------------------------------------------------------- one-shot
def normal_epsilon(mean0: float, std0: float, mean1: float, std1: float, delta: float) -> float:
    r"""The epsilon at which :math:`N(\mu_0, s_0^2)` and :math:`N(\mu_1, s_1^2)` are (epsilon,
    delta)-close.

    The larger of both directions of

    .. math:: \delta(\epsilon) = P_1[l > \epsilon] - e^\epsilon P_0[l > \epsilon],

    with the log-likelihood ratio :math:`l(y) = a y^2 + b y + c`.

    Args:
        mean0: of the scores without the canary.
        std0: their standard deviation.
        mean1: of the scores with it.
        std1: their standard deviation.
        delta: in (0, 1).
    """
    from scipy.optimize import brentq

    if std0 <= 0 or std1 <= 0:
        return math.inf if mean0 != mean1 else 0.0
    worst = 0.0
    for m0, s0, m1, s1 in ((mean0, std0, mean1, std1), (mean1, std1, mean0, std0)):

        def excess(
            epsilon: float, m0: float = m0, s0: float = s0, m1: float = m1, s1: float = s1
        ) -> float:
            return _hockey_stick(epsilon, m0, s0, m1, s1) - delta

        if excess(0.0) <= 0:
            continue
        if excess(LARGEST) > 0:
            return LARGEST
        worst = max(worst, float(brentq(excess, 0.0, LARGEST, xtol=1e-9)))
    return worst


def _hockey_stick(epsilon: float, m0: float, s0: float, m1: float, s1: float) -> float:
    from scipy.special import log_ndtr

    a = (s0**-2 - s1**-2) / 2
    b = m1 / s1**2 - m0 / s0**2
    c = (m0**2 / s0**2 - m1**2 / s1**2) / 2 + math.log(s0 / s1) - epsilon

    def mass(mean: float, std: float, low: float, high: float) -> float:
        """log P[low < y < high]"""
        left, right = (low - mean) / std, (high - mean) / std
        # In the upper tail both values round to one: its mirror image keeps their difference
        if left > 0:
            left, right = -right, -left
        upper, lower = float(log_ndtr(right)), float(log_ndtr(left))
        return upper + math.log(-math.expm1(lower - upper)) if lower < upper else -math.inf

    if abs(a) < 1e-12 * max(1.0, abs(b)):
        if b == 0:
            return 0.0
        root = -c / b
        pieces = [(root, math.inf)] if b > 0 else [(-math.inf, root)]
    else:
        square = b * b - 4 * a * c
        if square <= 0:
            return 0.0 if a < 0 else max(0.0, 1.0 - math.exp(min(epsilon, 700.0)))
        roots = sorted(((-b - math.sqrt(square)) / (2 * a), (-b + math.sqrt(square)) / (2 * a)))
        low, high = roots
        pieces = [(low, high)] if a < 0 else [(-math.inf, low), (high, math.inf)]
    total = 0.0
    for low, high in pieces:
        total += math.exp(mass(m1, s1, low, high)) - math.exp(
            min(epsilon + mass(m0, s0, low, high), 700.0)
        )
    return total


def one_shot(inside: Array, outside: Array, delta: float) -> float:
    """The estimate from scores of canaries that took part and that did not."""
    return normal_epsilon(
        float(outside.mean()),
        float(outside.std(ddof=1)),
        float(inside.mean()),
        float(inside.std(ddof=1)),
        delta,
    )


def one_shot_low(
    inside: Array, outside: Array, delta: float, confidence: float, resamples: int = 100
) -> float:
    """The estimate's lower bootstrap quantile: fitted variances differ by chance, and delta is far
    in the tail.

    Args:
        inside: scores of canaries that took part.
        outside: scores of those that did not.
        delta: in (0, 1).
        confidence: of the quantile, in (0, 1).
        resamples: drawn with replacement.
    """
    entropy = Entropy()

    def again(scores: Array) -> Array:
        count = len(scores)
        drawn = (entropy.uniform(count) * count).astype(int)
        return scores[np.minimum(drawn, count - 1)]

    drawn = [one_shot(again(inside), again(outside), delta) for _ in range(resamples)]
    return float(np.quantile(drawn, 1 - confidence))


# ---------------------------------------------------------------- closed-form null
def log_null_tail(cosine: float, dimension: int) -> float:
    """log of the probability that a random unit vector has at least this cosine with a fixed
    one."""
    from scipy.special import log_ndtr
    from scipy.stats import beta

    if dimension >= 1000:
        return float(log_ndtr(-cosine * math.sqrt(dimension)))
    half = (dimension - 1) / 2
    return float(beta.logsf((cosine + 1) / 2, half, half))


def null_bound(
    inside: Array, dimension: int, delta: float, confidence: float, thresholds: int = 20
) -> float:
    """Lower bound from the cosines of canaries that took part: exact false positives,
    Clopper-Pearson misses.

    Args:
        inside: their cosines with what was released.
        dimension: of the directions.
        delta: in (0, 1).
        confidence: of the bound, in (0, 1), divided among the thresholds.
        thresholds: on the cosine that are tried.
    """
    from scipy.stats import beta

    count = len(inside)
    level = (1 - confidence) / thresholds
    best = 0.0
    for cosine in np.quantile(inside, np.linspace(0.02, 0.9, thresholds)):
        missed = int((inside < cosine).sum())
        miss = float(beta.ppf(1 - level, missed + 1, count - missed)) if missed < count else 1.0
        found = 1 - miss - delta
        if found > 0:
            best = max(best, math.log(found) - log_null_tail(float(cosine), dimension))
    return best


# ---------------------------------------------------------------- one training run
def one_run_p_value(
    canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    r"""P-value of correct guesses under (epsilon, delta)-DP (theorem 5.2 of Steinke et al.).

    .. math:: p \le P[W \ge v]
        + 2 m \delta \max_{1 \le i \le v} (P[W \ge v - i] - P[W \ge v])/i, \qquad
        W \sim \mathrm{Bin}(r, e^\epsilon/(1 + e^\epsilon))

    Args:
        canaries: m, inclusion coins.
        guesses: r of them that were guessed.
        correct: v of these that were right.
        epsilon: of the hypothesis.
        delta: of the hypothesis, in [0, 1).
    """
    from scipy.stats import binom

    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, chance))
    if delta == 0 or correct == 0:
        return min(1.0, tail)
    steps = np.arange(1, correct + 1)
    slopes = (binom.sf(correct - steps - 1, guesses, chance) - tail) / steps
    return min(1.0, tail + 2 * canaries * delta * float(slopes.max(initial=0.0)))


def one_run_bound(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> float:
    """The largest epsilon at which so many correct guesses would be a surprise.

    Args:
        canaries: inclusion coins.
        guesses: of them that were guessed.
        correct: of these that were right.
        delta: in [0, 1).
        confidence: of the bound, in (0, 1).
    """
    from scipy.optimize import brentq

    def excess(epsilon: float) -> float:
        return one_run_p_value(canaries, guesses, correct, epsilon, delta) - (1 - confidence)

    if excess(0.0) >= 0:
        return 0.0
    return float(brentq(excess, 0.0, 50.0, xtol=1e-6)) if excess(50.0) > 0 else 50.0


def guess(scores: Array, included: NDArray[np.bool_], guesses: int) -> int:
    """Correct guesses when the highest half of ``guesses`` scores is called in and the lowest half
    out."""
    order = np.argsort(scores)
    half = guesses // 2
    return int(included[order[-half:]].sum() + (~included[order[:half]]).sum())


def one_run(
    scores: Array,
    included: NDArray[np.bool_],
    delta: float,
    confidence: float,
    shares: Sequence[float] = (0.1, 0.3, 1.0),
) -> float:
    """The best bound over several numbers of guesses, the confidence divided among them.

    Args:
        scores: of all canaries ``[M]``, higher where they seem to have taken part.
        included: which did ``[M]``.
        delta: in [0, 1).
        confidence: of the bound, in (0, 1).
        shares: of the canaries that are guessed, each tried.
    """
    count = len(scores)
    level = 1 - (1 - confidence) / len(shares)
    best = 0.0
    for share in shares:
        guesses = max(2, int(count * share) // 2 * 2)
        correct = guess(scores, included, guesses)
        best = max(best, one_run_bound(count, guesses, correct, delta, level))
    return best
