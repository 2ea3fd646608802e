r"""The budget report: what was promised to whom, what it cost, and what it does not cover, in
twelve parts.

Everything is computed from the ledger (never from what a config says was planned), the release
object and the table of fields that leave a node. A number that was not computed is ``null``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privacy.accounting import gaussian_epsilon, gaussian_mu, gdp, pld, prv, rdp
from privacy.budget.ledger import Head
from privacy.budget.plan import Plan, noise_to_signal
from privacy.budget.spent import Spent
from privacy.entropy import LARGEST_NORMAL
from privacy.releases.lattice import LatticeRelease

SCHEMA = 1
TOLERANCE = (
    0.25  # relative spread of valid accountants above which the report says that they disagree
)
CURVE = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
FALSE_POSITIVES = (0.001, 0.01, 0.1)
TAIL = (
    2.0**-64
)  # two-sided mass of a normal beyond what 64-bit uniforms reach, per coordinate, generously


@dataclass(frozen=True)
class Facts:
    """What a report is made from; ``fields`` is the wire table {field: (kind, why)}."""

    entries: Sequence[Mapping[str, Any]]
    head: Head
    ledger_id: str
    release_name: str
    release: LatticeRelease
    sampling: str
    population: int
    per_round: int
    expected: float  # clients a round on average: what sums are divided by
    run: str
    population_name: str
    planned_rounds: int  # of one arm
    arms: int
    separation: int
    delta: float
    epsilon_max: float
    colluding: int
    parameters: int
    fields: Mapping[str, tuple[str, str]]
    realised: Sequence[
        Mapping[str, Any]
    ] = ()  # per round: clip norm, noise and signal norms, where they were logged
    audit: Sequence[Mapping[str, Any]] = ()
    attacks: Sequence[Mapping[str, Any]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def build_report(facts: Facts) -> dict[str, Any]:
    """The report as one JSON object; keys are the twelve parts."""
    spent = Spent.of(dict(entry) for entry in facts.entries)
    accounting = _accounting(facts, spent)
    return {
        "schema": SCHEMA,
        "claim": _claim(facts, accounting),
        "against": _against(facts, accounting),
        "mechanism": _mechanism(facts),
        "sampling": _sampling(facts, spent),
        "accounting": accounting,
        "meaning": _meaning(spent),
        "not_covered": _not_covered(facts),
        "budget": _budget(facts, spent, accounting),
        "utility": _utility(facts),
        "audit": {"rows": [dict(row) for row in facts.audit], "attacks": [dict(row) for row in facts.attacks],
                  "verdict": _verdict(facts)},
        "provenance": {**facts.provenance, "ledger": facts.ledger_id, "ledger_seq": facts.head.seq,
                       "ledger_head": facts.head.hash, "restarts": _count(facts, "resume"),
                       "noise_seed": "operating system entropy; not reproducible by design"},
        "checklist": _checklist(facts, accounting),
    }  # fmt: skip


# ---------------------------------------------------------------- 1 and 2: the claim, and against whom
def _claim(facts: Facts, accounting: Mapping[str, Any]) -> str:
    placement, masked = weakest(facts)
    if placement == "none":
        sees = (
            "the exact sum over the nodes and no node's own vector"
            if masked
            else "each node's clipped sum"
        )
        return f"No differential privacy: rounds without noise are in this ledger. The server saw {sees}."
    distributed = placement == "distributed"
    against = "everyone, the server included," if distributed else "whoever sees the models"
    assumption = (
        f"assuming that {_nodes(max(facts.colluding, 1))} in a sum work against the others"
        if distributed
        else "assuming that the server adds the noise it says and keeps the noiseless sums to itself"
    )
    return (
        f"Each client (all its data, all {accounting['charged']} charged rounds of this population) is protected with "
        f"({_number(accounting['epsilon'])}, {facts.delta:g})-differential privacy under zero-out adjacency in all "
        f"models released so far, against {against} even if they know who took part in which round, {assumption}."
    )


def _against(facts: Facts, accounting: Mapping[str, Any]) -> list[dict[str, str]]:
    placement, masked = weakest(facts)
    budget = (
        f"epsilon {_number(accounting['epsilon'])}"
        if placement != "none"
        else "no differential privacy"
    )
    sums = (
        "sees only the sum over all nodes of each round"
        if masked
        else "sees each node's clipped sum"
    )
    server = {
        "none": sums, "central": f"{sums}, without noise", "distributed": f"sees only the noisy sum: {budget}",
    }[placement]  # fmt: skip
    lying = (
        f"{server}, where nodes pin release, noise and epsilon in a policy.json; without one they follow the "
        "configuration a run brings. Nodes refuse split views, other models or orders, weaker thresholds and reused "
        "keys. Nodes that run any code the server sends are not protected from it"
        if masked
        else "no protection: it can ask for anything the release lets a node send"
    )
    colluding = {
        "distributed": f"{budget} if {_nodes(max(facts.colluding, 1))} work with it; more take their noise shares "
        "out of the guarantee",
        "central": f"as the server; the models: {budget}",
        "none": "as the server, and they know their own vectors",
    }[placement]
    return [
        {"who": "recipients of the models", "protection": budget},
        {"who": "other clients", "protection": budget + " (they receive the models)"},
        {"who": "server, honest but curious", "protection": server},
        {"who": "server, malicious", "protection": lying},
        {"who": "server with colluding nodes", "protection": colluding},
    ]


def weakest(facts: Facts) -> tuple[str, bool]:
    """(placement, masked): the least that any charged round in the ledger gave; this run's own if
    none was charged."""
    reserves = [entry for entry in facts.entries if entry["type"] == "reserve"]
    if not reserves:
        return facts.release.placement, facts.release.masked
    order = ("none", "central", "distributed")
    return min((str(entry["placement"]) for entry in reserves), key=order.index), all(
        e["masked"] for e in reserves
    )


# ---------------------------------------------------------------- 3 and 4: mechanism, sampling
def _mechanism(facts: Facts) -> dict[str, Any]:
    release, joint = facts.release, facts.release.joint
    return {
        "release": facts.release_name, "placement": release.placement, "secure_aggregation": release.masked,
        "noise_multiplier": release.multiplier, "sensitivity": joint.sensitivity,
        "clip_norm_start": release.settings.clip_norm, "adaptive_clip": release.settings.adaptive_clip,
        "clip_norms": [row["clip"] for row in facts.realised if "clip" in row],
        "blocks": {"weight": joint.rho_weight, "clip_bit": joint.rho_bit, "scalar": joint.rho_scalar,
                   "metrics": sorted(joint.ranges)},
        "coordinates": release.length, "ring_bits": 32,
        "denominator": "a public constant, the expected number of clients" if release.noised else "the sum of weights",
        "noise_source": "AES-256-CTR keyed by the operating system; rounded Gaussian on an integer lattice"
        if release.noised else None,
        "delta_slack": min(1.0, release.length * TAIL) if release.noised else None,
        "largest_normal": LARGEST_NORMAL,
    }  # fmt: skip


def _sampling(facts: Facts, spent: Spent) -> dict[str, Any]:
    times = sorted(spent.participations.get(client, 0) for client in range(facts.population))
    cohort_secret = False  # the server draws or sees every cohort
    statement = {
        "fixed": "so many a round, drawn from a public seed: nothing is amplified",
        "round-robin": f"in turns: a client takes part at most once in {facts.separation} consecutive rounds",
        "poisson": "each client by a coin of its own from the operating system's entropy",
    }[facts.sampling]
    return {
        "rule": facts.sampling, "statement": statement, "population": facts.population, "per_round": facts.per_round,
        "rate": facts.per_round / facts.population if facts.sampling == "poisson" else None,
        "separation": facts.separation, "cohort_secret": cohort_secret,
        "participations": {
            "min": times[0], "median": times[len(times) // 2], "max": times[-1],
            "histogram": {str(count): clients for count, clients in sorted(Counter(times).items())},
        },
        "cohort": {"expected": facts.expected, "mean": _mean(spent.cohorts), "min": min(spent.cohorts, default=None),
                   "max": max(spent.cohorts, default=None)},
    }  # fmt: skip


# ---------------------------------------------------------------- 5 and 6: accounting, meaning
def _accounting(facts: Facts, spent: Spent) -> dict[str, Any]:
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
    poisson = bool(spent.events) and not spent.fixed
    primary = values["prv_upper"] if values["prv_upper"] is not None else renyi
    return {
        **base,
        "epsilon": spent.headline(delta),
        "epsilon_is": "exact Gaussian composition of the busiest client's rounds; holds when cohorts are known",
        "mu": mu,
        "epsilon_replace_one": gaussian_epsilon(2 * mu, delta),
        "amplified": {
            "epsilon": primary if poisson else None,
            "assumption": "cohorts drawn by independent secret coins, neither they nor their size known to whoever is "
            "meant: never the server"
            if poisson else "not computed: rounds were not drawn by secret coins",
        },
        "all_rounds": {**values, "rdp_order": order, "gdp_informational": gdp(spent.events, delta),
                       "of": "every charged round at its sampling rate (1 where nothing was drawn by coins)"},
        "disagreement": disagreement,
        "agree": disagreement is None or disagreement <= TOLERANCE * max(valid),
        "curve": [{"delta": at, "epsilon": spent.headline(at)} for at in CURVE],
    }  # fmt: skip


def _meaning(spent: Spent) -> dict[str, Any] | None:
    """What mu means for a test that decides whether a client took part: power at a false-positive
    rate, advantage."""
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


# ---------------------------------------------------------------- 7: not covered
def _not_covered(facts: Facts) -> list[dict[str, str]]:
    wire = [
        {"what": name, "why": why}
        for name, (kind, why) in sorted(facts.fields.items())
        if kind == "public"
    ]
    rest = [
        ("timing and size of messages", "not hidden by any release"),
        (
            "who takes part in which round",
            "the server asks the nodes: membership is not hidden from it",
        ),
        (
            "evaluation pictures and numbers",
            "computed by the server on held-out data that no client owns",
        ),
        ("what stays on a node", "personal state and logs of a node are its owner's to protect"),
        ("other populations' ledgers", "a person in two populations pays in both"),
    ]
    runs = sorted({str(entry["run"]) for entry in facts.entries if entry.get("run")})
    rest.append(
        (
            "tuning runs",
            f"charged here if run on this population; runs in this ledger: {', '.join(runs) or 'none'}",
        )
    )
    return wire + [{"what": what, "why": why} for what, why in rest]


# ---------------------------------------------------------------- 8 to 10: budget, utility, audit
def _budget(facts: Facts, spent: Spent, accounting: Mapping[str, Any]) -> dict[str, Any] | None:
    if accounting["epsilon"] is None:
        return None
    limit, multiplier = facts.epsilon_max, facts.release.multiplier
    most = gaussian_mu(limit, facts.delta) ** 2
    left = max(most - spent.square(), 0.0)
    # a client that pays once in `separation` rounds: others can still be drawn while the busiest
    # one has room
    rounds_left = math.floor(left * multiplier**2 + 1e-9) * facts.separation
    done = sum(entry["type"] == "reserve" and entry["run"] == facts.run for entry in facts.entries)
    missing = max(facts.planned_rounds * facts.arms - done, 0)
    most_left = facts.arms * math.ceil(missing / facts.arms / facts.separation)
    needed = math.sqrt(most_left / left) if most_left and left > 0 else None
    return {
        "epsilon_max": limit, "spent": accounting["epsilon"],
        "remaining": max(limit - float(accounting["epsilon"]), 0.0), "rounds_left": rounds_left,
        "rounds_missing": missing, "noise_multiplier_to_finish": needed,
        "exhausted": any(entry["type"] == "stop" for entry in facts.entries),
    }  # fmt: skip


def _utility(facts: Facts) -> dict[str, Any]:
    plan = Plan(
        facts.release.multiplier, facts.planned_rounds * facts.arms, facts.delta, clients=facts.expected,
        parameters=facts.parameters, sensitivity=facts.release.joint.sensitivity,
    )  # fmt: skip
    measured = [row["update_norm"] for row in facts.realised if row.get("update_norm") is not None]
    return {"noise_to_signal": noise_to_signal(plan) if facts.release.noised else None,
            "is": "z S sqrt(d) / m: expected norm of the noise over the largest norm the mean update can have",
            "update_norms": measured}  # fmt: skip


def _verdict(facts: Facts) -> str:
    verdicts = [str(row.get("verdict")) for row in facts.audit]
    if not verdicts:
        return "not audited"
    return "FAIL" if "FAIL" in verdicts else "WARN" if "WARN" in verdicts else "PASS"


# ---------------------------------------------------------------- 12: the checklist
def _checklist(facts: Facts, accounting: Mapping[str, Any]) -> list[dict[str, str]]:
    """Questions of NIST SP 800-226 (2025), with answers generated from the parts above."""
    release = facts.release
    yes = release.noised
    return [
        {"question": "What is epsilon?", "answer": _number(accounting["epsilon"]) if yes else "none is claimed"},
        {"question": "What is the unit of privacy?", "answer": "a client: all that one participant holds, all rounds"},
        {"question": "Which variant, which adjacency?",
         "answer": "(epsilon, delta), zero-out of a client" if yes else "none"},
        {"question": "Is delta well below 1 over the population?",
         "answer": f"{facts.delta:g} against {1 / facts.population:g}" if yes else "no delta"},
        {"question": "Trust model?",
         "answer": {"none": "no noise", "central": "central: the server is trusted with the noise",
                    "distributed": "distributed: the server is not trusted"}[release.placement]},
        {"question": "Is the sensitivity bounded by code?",
         "answer": f"yes: each client's joint vector has norm {release.joint.sensitivity:.4g} at most"},
        {"question": "Floating point?", "answer": "sums and noise are integers; clipping and rounding in float64"},
        {"question": "Randomness?", "answer": "operating system entropy through AES-256-CTR, no seeds"},
        {"question": "Side channels?", "answer": "timing and sizes of messages are not hidden"},
        {"question": "Was it tested empirically?", "answer": _verdict(facts)},
        {"question": "Is hyper-parameter tuning charged?",
         "answer": f"runs on the population {facts.population_name!r} of this folder share this ledger"
         if facts.population_name else "no: this run has people of its own (privacy.population is empty)"},
        {"question": "Are all releases counted, crashes included?",
         "answer": f"yes: {accounting['charged']} charged, {accounting['released']} released"},
    ]  # fmt: skip


def _count(facts: Facts, kind: str) -> int:
    return sum(entry["type"] == kind for entry in facts.entries)


def _nodes(colluding: int) -> str:
    return f"at most {colluding} of the nodes" if colluding > 1 else "at most one of the nodes"


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: float | None) -> str:
    return (
        "not computed"
        if value is None
        else "infinite"
        if not math.isfinite(value)
        else f"{value:.4g}"
    )
