"""Sentences of a budget report: the claim, against whom it holds, and what it does not cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privacy.budget.facts import Facts, audit_verdict, shown, weakest


def claim(facts: Facts, accounting: Mapping[str, Any]) -> str:
    """The guarantee in one sentence, or that there is none."""
    placement, masked = weakest(facts)
    if placement == "none":
        exact = "the exact sum over the nodes and no node's own vector"
        sees = exact if masked else "each node's clipped sum"
        return (
            "No differential privacy: rounds without noise are in this ledger. "
            f"The server saw {sees}."
        )
    if placement == "distributed":
        against = "everyone, the server included,"
        assumption = f"assuming that {_coalition(facts)} in a sum work against the others"
    else:
        against = "whoever sees the models"
        assumption = (
            "assuming that the server adds the noise it says and keeps the noiseless sums to itself"
        )
    return (
        f"Each client (all its data, all {accounting['charged']} charged rounds of this population)"
        f" is protected with ({shown(accounting['epsilon'])}, {facts.delta:g})-differential privacy"
        f" under zero-out adjacency in all models released so far, against {against} even if they "
        f"know who took part in which round, {assumption}."
    )


def against(facts: Facts, accounting: Mapping[str, Any]) -> list[dict[str, str]]:
    """The protection from each adversary, from the weakest round in the ledger."""
    placement, masked = weakest(facts)
    budget = f"epsilon {shown(accounting['epsilon'])}"
    if placement == "none":
        budget = "no differential privacy"
    sums = "sees each node's clipped sum"
    if masked:
        sums = "sees only the sum over all nodes of each round"
    server = {
        "none": sums,
        "central": f"{sums}, without noise",
        "distributed": f"sees only the noisy sum: {budget}",
    }[placement]
    lying = "no protection: it can ask for anything the release lets a node send"
    if masked:
        lying = (
            f"{server}, where nodes pin release, noise and epsilon in their policy.json. Nodes "
            "refuse split views, other models or orders, weaker thresholds and reused keys. Nodes "
            "that run any code the server sends (all but those of `fedapp device`) are not "
            "protected from it"
        )
    colluding = {
        "none": "as the server, and they know their own vectors",
        "central": f"as the server; the models: {budget}",
        "distributed": (
            f"{budget} if {_coalition(facts)} work with it; more take their noise shares out of "
            "the guarantee"
        ),
    }[placement]
    return [
        {"who": "recipients of the models", "protection": budget},
        {"who": "other clients", "protection": budget + " (they receive the models)"},
        {"who": "server, honest but curious", "protection": server},
        {"who": "server, malicious", "protection": lying},
        {"who": "server with colluding nodes", "protection": colluding},
    ]


def not_covered(facts: Facts) -> list[dict[str, str]]:
    """Everything outside the claim: the public fields of replies, and what no release hides."""
    public = {name: why for name, (kind, why) in facts.fields.items() if kind == "public"}
    runs = sorted({str(entry["run"]) for entry in facts.entries if entry.get("run")})
    named = ", ".join(runs) or "none"
    rest = {
        "timing and size of messages": "not hidden by any release",
        "who takes part in which round": (
            "the server asks the nodes: membership is not hidden from it"
        ),
        "evaluation pictures and numbers": (
            "computed by the server on held-out data that no client owns"
        ),
        "what stays on a node": "personal state and logs of a node are its owner's to protect",
        "other populations' ledgers": "a person in two populations pays in both",
        "tuning runs": (f"charged here if run on this population; runs in this ledger: {named}"),
    }
    rows = [*sorted(public.items()), *rest.items()]
    return [{"what": what, "why": why} for what, why in rows]


def checklist(facts: Facts, accounting: Mapping[str, Any]) -> list[dict[str, str]]:
    """Questions of NIST SP 800-226 (2025), with answers generated from the report's parts."""
    release = facts.release
    noised = release.noised
    trust = {
        "none": "no noise",
        "central": "central: the server is trusted with the noise",
        "distributed": "distributed: the server is not trusted",
    }[release.placement]
    tuning = "no: this run has people of its own (privacy.population is empty)"
    if facts.population_name:
        tuning = (
            f"runs on the population {facts.population_name!r} of this folder share this ledger"
        )
    answers = {
        "What is epsilon?": shown(accounting["epsilon"]) if noised else "none is claimed",
        "What is the unit of privacy?": "a client: all that one participant holds, all rounds",
        "Which variant, which adjacency?": (
            "(epsilon, delta), zero-out of a client" if noised else "none"
        ),
        "Is delta well below 1 over the population?": (
            f"{facts.delta:g} against {1 / facts.population:g}" if noised else "no delta"
        ),
        "Trust model?": trust,
        "Is the sensitivity bounded by code?": (
            f"yes: each client's joint vector has norm {release.joint.sensitivity:.4g} at most"
        ),
        "Floating point?": "sums and noise are integers; clipping and rounding in float64",
        "Randomness?": "operating system entropy through AES-256-CTR, no seeds",
        "Side channels?": "timing and sizes of messages are not hidden",
        "Was it tested empirically?": audit_verdict(facts),
        "Is hyper-parameter tuning charged?": tuning,
        "Are all releases counted, crashes included?": (
            f"yes: {accounting['charged']} charged, {accounting['released']} released"
        ),
    }
    return [{"question": question, "answer": answer} for question, answer in answers.items()]


def _coalition(facts: Facts) -> str:
    """The nodes that may work against the others; at least one, since whoever looks may be one."""
    most = max(facts.colluding, 1)
    return f"at most {most} of the nodes" if most > 1 else "at most one of the nodes"
