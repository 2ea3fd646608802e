"""Numbers of a budget report: mechanism, sampling, accounting, budget left, noise over signal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from privacy.accounting import gaussian_epsilon, gaussian_mu, gdp, pld, prv, rdp
from privacy.budget.facts import Facts, weakest
from privacy.budget.plan import Plan, noise_to_signal
from privacy.budget.spent import Spent
from privacy.entropy import LARGEST_NORMAL

# Relative spread of valid accountants above which the report says that they disagree
TOLERANCE = 0.25
CURVE = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
FALSE_POSITIVES = (0.001, 0.01, 0.1)
# Two-sided mass of a normal beyond what 64-bit uniforms reach, per coordinate, generously
TAIL = 2.0**-64


def mechanism(facts: Facts) -> dict[str, Any]:
    """The release as it ran: sensitivity, clip, blocks of the joint vector, source of the noise."""
    release = facts.release
    joint = release.joint
    denominator = "the sum of weights"
    source = slack = None
    if release.noised:
        denominator = "a public constant, the expected number of clients"
        source = "AES-256-CTR keyed by the operating system; rounded Gaussian on an integer lattice"
        slack = min(1.0, release.length * TAIL)
    return {
        "release": facts.release_name,
        "placement": release.placement,
        "secure_aggregation": release.masked,
        "noise_multiplier": release.multiplier,
        "sensitivity": joint.sensitivity,
        "clip_norm_start": release.settings.clip_norm,
        "adaptive_clip": release.settings.adaptive_clip,
        "clip_norms": [row["clip"] for row in facts.realised if "clip" in row],
        "blocks": {
            "weight": joint.rho_weight,
            "clip_bit": joint.rho_bit,
            "scalar": joint.rho_scalar,
            "metrics": sorted(joint.ranges),
        },
        "coordinates": release.length,
        "ring_bits": 32,
        "denominator": denominator,
        "noise_source": source,
        "delta_slack": slack,
        "largest_normal": LARGEST_NORMAL,
    }


def sampling(facts: Facts, spent: Spent) -> dict[str, Any]:
    """The rule that chose the cohorts, and how often it chose each client."""
    times = sorted(spent.participations.get(client, 0) for client in range(facts.population))
    separation = facts.separation
    statement = {
        "fixed": "so many a round, drawn from a public seed: nothing is amplified",
        "round-robin": (
            f"in turns: a client takes part at most once in {separation} consecutive rounds"
        ),
        "poisson": "each client by a coin of its own from the operating system's entropy",
    }[facts.sampling]
    return {
        "rule": facts.sampling,
        "statement": statement,
        "population": facts.population,
        "per_round": facts.per_round,
        "rate": facts.per_round / facts.population if facts.sampling == "poisson" else None,
        "separation": separation,
        "cohort_secret": False,  # the server draws or sees every cohort
        "participations": {
            "min": times[0],
            "median": times[len(times) // 2],
            "max": times[-1],
            "histogram": {str(count): clients for count, clients in sorted(Counter(times).items())},
        },
        "cohort": {
            "expected": facts.expected,
            "mean": _mean(spent.cohorts),
            "min": min(spent.cohorts, default=None),
            "max": max(spent.cohorts, default=None),
        },
    }


def accounting(facts: Facts, spent: Spent) -> dict[str, Any]:
    """Epsilon of what was charged: the headline with known cohorts, the amplified one beside it,
    and what each accountant says."""
    delta = facts.delta
    base = {
        "charged": spent.charged,
        "released": spent.released,
        "aborted": spent.aborted,
        "delta": delta,
    }
    if weakest(facts)[0] == "none":
        return {
            **base,
            "epsilon": None,
            "epsilon_replace_one": None,
            "amplified": None,
            "curve": None,
            "check": None,
        }
    mu = math.sqrt(max(spent.square(), 0.0))
    renyi, order = rdp(spent.events, delta)
    values = {"prv_upper": prv(spent.events, delta), "rdp": renyi, "pld": pld(spent.events, delta)}
    valid = [value for value in values.values() if value is not None and math.isfinite(value)]
    disagreement = max(valid) - min(valid) if len(valid) > 1 else None
    amplified = None
    assumption = "not computed: rounds were not drawn by secret coins"
    if spent.events and not spent.fixed:
        amplified = values["prv_upper"] if values["prv_upper"] is not None else renyi
        assumption = (
            "cohorts drawn by independent secret coins, neither they nor their size known to "
            "whoever is meant: never the server"
        )
    return {
        **base,
        "epsilon": spent.headline(delta),
        "epsilon_is": (
            "exact Gaussian composition of the busiest client's rounds; holds when cohorts are "
            "known"
        ),
        "mu": mu,
        # Replacing a client's data moves the sum by twice what leaving it out does
        "epsilon_replace_one": gaussian_epsilon(2 * mu, delta),
        "amplified": {"epsilon": amplified, "assumption": assumption},
        "all_rounds": {
            **values,
            "rdp_order": order,
            "gdp_informational": gdp(spent.events, delta),
            "of": ("every charged round at its sampling rate (1 where nothing was drawn by coins)"),
        },
        "disagreement": disagreement,
        "agree": disagreement is None or disagreement <= TOLERANCE * max(valid),
        "curve": [{"delta": at, "epsilon": spent.headline(at)} for at in CURVE],
    }


def meaning(spent: Spent) -> dict[str, Any] | None:
    r"""Mu as a bound on tests that decide whether a client took part.

    Power at a false-positive rate alpha is at most :math:`\Phi(\Phi^{-1}(\alpha) + \mu)`, the
    advantage at most :math:`2 \Phi(\mu/2) - 1`.
    """
    from scipy.stats import norm

    if not spent.events or not math.isfinite(spent.square()):
        return None
    mu = math.sqrt(max(spent.square(), 0.0))
    power = {str(rate): float(norm.cdf(norm.ppf(rate) + mu)) for rate in FALSE_POSITIVES}
    return {
        "mu": mu,
        "max_true_positive_rate": power,
        "max_advantage": float(2 * norm.cdf(mu / 2) - 1),
    }


def budget(facts: Facts, spent: Spent, charged: Mapping[str, Any]) -> dict[str, Any] | None:
    """Remainder of the limit, in epsilon and in rounds; ``charged`` is the accounting."""
    if charged["epsilon"] is None:
        return None
    limit = facts.epsilon_max
    left = max(gaussian_mu(limit, facts.delta) ** 2 - spent.square(), 0.0)
    # A client that pays once in `separation` rounds: others can still be drawn while the busiest
    # one has room
    rounds_left = math.floor(left * facts.release.multiplier**2 + 1e-9) * facts.separation
    done = sum(entry["type"] == "reserve" and entry["run"] == facts.run for entry in facts.entries)
    missing = max(facts.planned_rounds * facts.arms - done, 0)
    most_left = facts.arms * math.ceil(missing / facts.arms / facts.separation)
    needed = math.sqrt(most_left / left) if most_left and left > 0 else None
    return {
        "epsilon_max": limit,
        "spent": charged["epsilon"],
        "remaining": max(limit - float(charged["epsilon"]), 0.0),
        "rounds_left": rounds_left,
        "rounds_missing": missing,
        "noise_multiplier_to_finish": needed,
        "exhausted": any(entry["type"] == "stop" for entry in facts.entries),
    }


def utility(facts: Facts) -> dict[str, Any]:
    """Noise against the largest signal, and the norms of the updates that were measured."""
    plan = Plan(
        facts.release.multiplier,
        facts.planned_rounds * facts.arms,
        facts.delta,
        clients=facts.expected,
        parameters=facts.parameters,
        sensitivity=facts.release.joint.sensitivity,
    )
    return {
        "noise_to_signal": noise_to_signal(plan) if facts.release.noised else None,
        "is": (
            "z S sqrt(d) / m: expected norm of the noise over the largest norm the mean update "
            "can have"
        ),
        "update_norms": [
            row["update_norm"] for row in facts.realised if row.get("update_norm") is not None
        ],
    }


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None
