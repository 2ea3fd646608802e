r"""Planning: cost of a run and size of its noise, before a client trains.

The noise on the mean has norm about :math:`z S C \sqrt d / m`, a clipped update at most C: their
ratio :math:`z S\sqrt d/m` says how far the model is pushed by noise for every step of signal. With
10 clients, z = 1 and 100 000 numbers it is 32: such a run learns nothing, whatever its epsilon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from privacy.accounting import (
    Event,
    calibrate,
    calibrate_known_cohort,
    epsilon,
    gaussian_epsilon,
    gdp,
    pld,
    prv,
    rdp,
)

GOOD_RATIO = 1.0  # noise no larger than the largest possible signal


@dataclass(frozen=True)
class Plan:
    """A run to be judged: ``clients`` per round (m) of ``population``, ``parameters`` contributed
    (d)."""

    multiplier: float
    rounds: int
    delta: float
    rate: float = 1.0  # 1: cohorts known or fixed
    participations: int | None = None  # of the busiest client; None: every round
    clients: float | None = None
    parameters: int | None = None
    sensitivity: float = 1.0
    arms: int = 1  # methods times seeds: each takes its share of ``rounds``
    limit: float | None = None  # the population's epsilon-max, which is held against known cohorts


def predict(plan: Plan) -> dict[str, Any]:
    """Epsilon under each accountant and what would help. ``epsilon`` is the upper value for the
    given sample rate."""
    events = [Event(plan.multiplier, plan.rate, plan.rounds)]
    most = plan.rounds if plan.participations is None else plan.participations
    mu = 0.0
    if most:
        mu = math.sqrt(most) / plan.multiplier if plan.multiplier else math.inf
    renyi, order = rdp(events, plan.delta)
    known = gaussian_epsilon(mu, plan.delta)
    ratio = noise_to_signal(plan)
    return {
        "epsilon": _finite(epsilon(events, plan.delta)),
        "delta": plan.delta,
        "epsilon_known_cohort": _finite(known),
        "accountants": {
            "prv_upper": prv(events, plan.delta) if plan.multiplier else None,
            "rdp": _finite(renyi),
            "rdp_order": order,
            "pld": pld(events, plan.delta),
            "gdp_informational": gdp(events, plan.delta),
        },
        "noise_multiplier": plan.multiplier,
        "sample_rate": plan.rate,
        "rounds": plan.rounds,
        "participations": most,
        "clients": plan.clients,
        "parameters": plan.parameters,
        "noise_to_signal": ratio,
        "epsilon_max": plan.limit,
        "within_budget": None if plan.limit is None else known <= plan.limit,
        "advice": advice(plan, ratio),
    }


def noise_to_signal(plan: Plan) -> float | None:
    """z S sqrt(d) / m; ``None`` if clients or parameters were not given."""
    if plan.clients is None or plan.parameters is None:
        return None
    return plan.multiplier * plan.sensitivity * math.sqrt(plan.parameters) / plan.clients


def advice(plan: Plan, ratio: float | None) -> list[dict[str, Any]]:
    """Effect of one change alone: ``{"change", "to", "epsilon", "noise_to_signal"}`` each.

    Epsilon is the one that is held against the limit: with known cohorts if the plan says how often
    a client takes part.
    """
    rows: list[dict[str, Any]] = []

    def row(change: str, to: float, changed: Plan) -> None:
        if changed.participations is None:
            events = [Event(changed.multiplier, changed.rate, changed.rounds)]
            found = epsilon(events, changed.delta)
        else:
            mu = math.sqrt(changed.participations) / changed.multiplier
            found = gaussian_epsilon(mu, changed.delta)
        rows.append(
            {
                "change": change,
                "to": to,
                "epsilon": _finite(found),
                "noise_to_signal": noise_to_signal(changed),
            }
        )

    half = plan.rounds // plan.arms // 2
    if half:
        row("rounds", half, _with(plan, rounds=half * plan.arms))
    row("noise multiplier", plan.multiplier * 2, _with(plan, multiplier=plan.multiplier * 2))
    if ratio is not None and ratio > GOOD_RATIO and plan.clients and plan.parameters:
        deviation = plan.multiplier * plan.sensitivity
        needed = math.ceil(deviation * math.sqrt(plan.parameters) / GOOD_RATIO)
        row("clients a round", needed, _with(plan, clients=float(needed)))
        fewer = max(1, math.floor((GOOD_RATIO * plan.clients / deviation) ** 2))
        row("numbers shared (smaller field, lower rank)", fewer, _with(plan, parameters=fewer))
    return rows


def multiplier_for(target: float, plan: Plan) -> float:
    """The noise multiplier that meets ``target``: with known cohorts exactly if the plan says how
    often a client takes part, else under the plan's sample rate."""
    if plan.participations is not None:
        return calibrate_known_cohort(target, plan.delta, plan.participations)
    return calibrate(target, plan.delta, plan.rate, plan.rounds)


def _with(plan: Plan, **changes: Any) -> Plan:
    changed = replace(plan, **changes)
    if plan.participations is not None and "rounds" in changes:
        # The product first: a share rounded to a float would lift whole numbers to the next
        most = math.ceil(plan.participations * changed.rounds / plan.rounds)
        changed = replace(changed, participations=most)
    return changed


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
