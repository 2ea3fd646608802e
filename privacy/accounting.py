r"""Epsilon of a sequence of Gaussian events, by Opacus's accountants, checked against the exact
formula.

Opacus composes well but checks nothing: a negative step count gives a negative epsilon, no steps an
exception, and PRV runs out of memory for large epsilon (release 1.6.0, measured). Everything is
validated, clamped and bounded here; one event composed k times without sampling has an exact answer
(Balle, Wang, *Improving the Gaussian Mechanism for Differential Privacy*, ICML 2018,
https://arxiv.org/abs/1805.06530), which is what a server that knows the cohort is told.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.errors import InputError

PRV_ERROR = 0.01  # by which PRV's upper bound may exceed its estimate
PRV_LIMIT = 50.0  # beyond it PRV needs gigabytes; RDP speaks instead
ORDERS = (
    [1 + x / 10.0 for x in range(1, 100)]
    + [float(x) for x in range(12, 64)]
    + [128.0, 256.0, 512.0, 1024.0]
)


class Event(NamedTuple):
    """``steps`` releases with noise multiplier z, each client in each with probability ``rate`` (1:
    always)."""

    multiplier: float
    rate: float
    steps: int


def check_events(events: Sequence[Event]) -> list[Event]:
    """The events with equal neighbours joined; raises :class:`InputError` for anything that is not
    one."""
    joined: list[Event] = []
    for multiplier, rate, steps in events:
        if not (math.isfinite(multiplier) and multiplier >= 0):
            raise InputError(
                "noise-multiplier",
                multiplier,
                "must be a finite number, 0 or more",
                "0 means no noise",
            )
        if not 0 < rate <= 1:
            raise InputError(
                "sample-rate",
                rate,
                "must be above 0 and at most 1",
                "1 means everybody, every round",
            )
        if steps != int(steps) or steps < 0:
            raise InputError(
                "rounds", steps, "must be a whole number, 0 or more", "count released rounds"
            )
        if steps and joined and joined[-1][:2] == (multiplier, rate):
            joined[-1] = Event(multiplier, rate, joined[-1].steps + int(steps))
        elif steps:
            joined.append(Event(float(multiplier), float(rate), int(steps)))
    return joined


def check_delta(delta: float) -> float:
    """``delta`` if accountants can work with it."""
    if not 1e-15 < delta < 1:
        raise InputError(
            "delta",
            delta,
            "must lie between 1e-15 and 1",
            "well below one over the number of clients",
        )
    return delta


# ---------------------------------------------------------------- exact, without sampling
def gaussian_log_delta(epsilon: float, mu: float) -> float:
    r"""log of :math:`\delta(\epsilon) = \Phi(\mu/2 - \epsilon/\mu) - e^\epsilon \Phi(-\mu/2 -
    \epsilon/\mu)`."""
    from scipy.special import log_ndtr

    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    ratio = second - first
    return first + math.log(-math.expm1(ratio)) if ratio < 0 else -math.inf


def gaussian_epsilon(mu: float, delta: float) -> float:
    r"""Exact epsilon of Gaussian releases with :math:`\mu = \sqrt{\sum 1/z^2}`; 0 for none,
    infinite without noise."""
    from scipy.optimize import brentq

    check_delta(delta)
    if mu == 0:
        return 0.0
    if not math.isfinite(mu):
        return math.inf
    target = math.log(delta)
    if gaussian_log_delta(0.0, mu) <= target:
        return 0.0
    high = mu * mu / 2 + mu * 40 + 1
    return float(
        brentq(
            lambda epsilon: max(gaussian_log_delta(epsilon, mu), -1e6) - target,
            0.0,
            high,
            xtol=1e-10,
        )
    )


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu for which :func:`gaussian_epsilon` is ``epsilon``."""
    from scipy.optimize import brentq

    high = 1.0
    while gaussian_epsilon(high, delta) < epsilon:
        high *= 2
    return float(brentq(lambda mu: gaussian_epsilon(mu, delta) - epsilon, 1e-9, high, xtol=1e-12))


# ---------------------------------------------------------------- Opacus
def rdp(events: Sequence[Event], delta: float) -> tuple[float, float | None]:
    """(epsilon, order) by Renyi composition: looser than PRV, never slow."""
    events = check_events(events)
    if not events:
        return 0.0, None
    if any(event.multiplier == 0 for event in events):
        return math.inf, None
    analysis = _opacus("opacus.accountants.analysis.rdp")
    total = sum(_renyi(analysis, event) for event in events)
    epsilon, order = analysis.get_privacy_spent(orders=ORDERS, rdp=total, delta=check_delta(delta))
    return max(0.0, float(epsilon)), float(order)


def _renyi(analysis: Any, event: Event) -> Any:
    r"""Renyi divergences at all orders. Where Opacus's series for a sampled release gives up (its
    terms cancel at very large z), that of the release without sampling stands, :math:`\alpha T / 2
    z^2`: sampling never makes it larger."""
    import numpy as np

    with np.errstate(over="ignore"):
        unsampled = np.asarray(ORDERS) * (event.steps / 2 / event.multiplier / event.multiplier)
    try:
        found = analysis.compute_rdp(
            q=event.rate, noise_multiplier=event.multiplier, steps=event.steps, orders=ORDERS
        )
    except (ValueError, ArithmeticError):
        return unsampled
    return np.fmin(found, unsampled)


def prv(events: Sequence[Event], delta: float) -> float | None:
    """Upper bound by Opacus's PRV accountant, tight to 0.01; ``None`` where it cannot work (epsilon
    beyond 50)."""
    events = check_events(events)
    if not events:
        return 0.0
    if rdp(events, delta)[0] > PRV_LIMIT:
        return None
    accountant = _opacus("opacus.accountants").PRVAccountant()
    accountant.history = [tuple(event) for event in events]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's divide warning at sample rate 1, which is handled
        try:
            found = accountant.get_epsilon(delta=check_delta(delta), eps_error=PRV_ERROR)
        except (ValueError, RuntimeError, ArithmeticError):
            # at either end of delta its discretisation gives up, or finds nothing
            return None
        return max(0.0, float(found))


def _opacus(module: str) -> Any:
    """A part of Opacus, imported when it is needed and without its warnings about parts that are
    not used here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def gdp(events: Sequence[Event], delta: float) -> float | None:
    """The central-limit estimate, for information: it may lie *below* the truth, so nothing is
    decided by it."""
    events = check_events(events)
    if len(events) != 1 or events[0].multiplier == 0:
        return None
    multiplier, rate, steps = events[0]
    mu = rate * math.sqrt(steps * math.expm1(multiplier**-2)) if multiplier > 0.05 else math.inf
    return gaussian_epsilon(mu, delta) if mu < 100 else None


def pld(events: Sequence[Event], delta: float) -> float | None:
    """Google's privacy-loss distributions (package ``dp-accounting``), ``None`` if that is not
    installed."""
    try:
        from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
        from dp_accounting import pld as distributions
    except ImportError:
        return None
    events = check_events(events)
    if not events:
        return 0.0
    if any(event.multiplier == 0 for event in events) or rdp(events, delta)[0] > PRV_LIMIT:
        return None
    accountant = distributions.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    for event in events:
        accountant.compose(
            PoissonSampledDpEvent(event.rate, GaussianDpEvent(event.multiplier)), event.steps
        )
    return float(accountant.get_epsilon(delta))


def epsilon(events: Sequence[Event], delta: float) -> float:
    """The number that counts: the least of the upper bounds there are, PRV's, RDP's where PRV
    cannot work, and the exact one of the same events without sampling, which helps where noise is
    so large that PRV's own error is all that is left."""
    found = prv(events, delta)
    bound = rdp(events, delta)[0] if found is None else found
    precision = sum(
        event.steps / event.multiplier**2 if event.multiplier else math.inf
        for event in check_events(events)
    )
    return min(bound, gaussian_epsilon(math.sqrt(precision), delta))


def check_target(target: float) -> None:
    """Raise :class:`InputError` for an epsilon that is none."""
    if not (target > 0 and math.isfinite(target)):
        raise InputError("target-epsilon", target, "must be above 0 and finite", "for example 8")


def calibrate(target: float, delta: float, rate: float, rounds: int) -> float:
    """The smallest noise multiplier (to 1 in 1000) whose :func:`epsilon` is at most ``target``.

    Args:
        target: epsilon, above 0.
        delta: of the guarantee, in (1e-15, 1).
        rate: probability of each client in each round, in (0, 1].
        rounds: number of releases.
    """
    check_target(target)
    if rate == 1:
        return calibrate_known_cohort(target, delta, rounds)
    low = 0.0
    high = 1.0
    while epsilon([Event(high, rate, rounds)], delta) > target:
        low = high
        high *= 2
        if high > 1e6:
            raise InputError(
                "target-epsilon",
                target,
                "no noise reaches it at this delta",
                "raise delta or epsilon",
            )
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if epsilon([Event(middle, rate, rounds)], delta) > target:
            low = middle
        else:
            high = middle
    return high


def calibrate_known_cohort(target: float, delta: float, participations: int) -> float:
    """The exact z for which ``participations`` rounds cost ``target``, the server knowing who was
    in them."""
    check_target(target)
    return math.sqrt(participations) / gaussian_mu(target, check_delta(delta))
