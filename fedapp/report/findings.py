"""Sentences a reader should not have to dig for, generated from the numbers and only where they
hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from privacy.exact import HIDES, PROVES
from strategies.local import LOCAL

if TYPE_CHECKING:
    from strategies.settings import LearnerSettings

CAPPED = ("fedmenf", "fedmenf-first-order")  # bounded from below by learner.fedmenf.cap
BEHIND = 1.0  # dB below no federation: it does not adapt
USEFUL = 10.0  # an epsilon above which nobody here speaks of privacy
# dB above the constant-colour baseline from which a fitted rendering is said to show something
AFFINE_MARGIN = 0.5


def findings(
    result: dict[str, Any],
    titles: dict[str, str],
    rates: list[float],
    learner: LearnerSettings | None = None,
) -> list[tuple[str, str]]:
    """``(kind, sentence)`` with kind good, plain or warning; ``rates`` are the step sizes that were
    searched, ``learner`` the local loop's settings."""
    methods = result["methods"]
    sentences: list[tuple[str, str]] = []
    if "maml" in methods and "fedmenf" in methods:
        sentences += _fedmenf_against_maml(methods, titles)
    for name, row in methods.items():
        sentences += _outside(name, row, titles[name], learner)
        sentences += _does_not_adapt(row, methods.get(LOCAL), titles[name])
        sentences += _what_rendering_misses(row, titles[name])
    sentences += _tuned_local(methods, titles)
    for name, row in methods.items():  # a remark on the search is nobody's first question
        sentences += _edge_of_the_search(row, titles[name], rates)
    seen = min((row["psnr_p"]["n"] for row in methods.values() if row["psnr_p"]), default=0)
    if 0 < seen < result["population"]:
        text = (
            f"PSNR_p is over the {seen} of {result['population']} clients that were drawn "
            "at least once."
        )
        sentences.append(("plain", text))
    if result["release"] != "plain":
        return [*release_finding(result), *_against_local(methods, titles), *sentences]
    sentences.append(
        (
            "plain",
            "PSNR_p is what a server sees that merely renders an upload. It bounds nothing: "
            "the update itself can be "
            "inverted by stronger attacks. Only secure aggregation and differential privacy "
            "limit those; this run used "
            f"the release “{result['release']}”.",
        )
    )
    return sentences


def _outside(
    name: str, row: dict[str, Any], title: str, learner: LearnerSettings | None
) -> list[tuple[str, str]]:
    """What a server sees of a field outside the data range, and an objective below zero: a fact
    about renderings, no verdict on how it adapts."""
    lowest = row["objective_min"]
    below = lowest is not None and lowest < 0
    if row["outside_range"]:
        bottom = f" Its objective fell to {lowest:.2f}." if below else ""
        text = (
            f"{title} renders outside the data range before adaptation: its PSNR_p says little "
            f"about what an upload holds.{bottom}"
        )
        return [("warning", text)]
    if not below:
        return []
    capped = name in CAPPED and learner is not None and learner.fedmenf.cap > 0
    limit = (
        f"Its cap keeps it above {-learner.fedmenf.gamma * learner.fedmenf.cap:.3f}."
        if capped and learner is not None
        else "It has no lower limit; what it gains below zero it gains by making the shared field "
        "worse."
    )
    return [
        ("plain" if capped else "warning", f"{title}: its objective fell to {lowest:.2f}. {limit}")
    ]


def _does_not_adapt(
    row: dict[str, Any], local: dict[str, Any] | None, title: str
) -> list[tuple[str, str]]:
    """A verdict, with the step size tuned for both: a start that ends clearly below no federation
    at all wherever it was judged does not adapt; one that does so on pixels nobody fitted alone
    has not helped there."""
    behind: dict[str, str] = {}
    judged = 0
    for key, where in (("psnr_unseen_tuned", "unseen pixels"), ("psnr_tuned", "the fitted pixels")):
        own, other = row.get(key) or {}, (local or {}).get(key) or {}
        steps = [k for k in own if own[k] is not None and other.get(k) is not None]
        if row is local or not steps:
            continue
        judged += 1
        last = max(steps, key=int)
        if own[last] < other[last] - BEHIND:
            behind[key] = (
                f"after {last} steps at its tuned step size it has {own[last]:.1f} dB on {where}, "
                f"no federation {other[last]:.1f}."
            )
    if behind and len(behind) == judged:
        return [("warning", f"{title} does not adapt: {next(iter(behind.values()))}")]
    if "psnr_unseen_tuned" in behind:
        return [("warning", f"{title} is no better start here: {behind['psnr_unseen_tuned']}")]
    return []


def _edge_of_the_search(
    row: dict[str, Any], title: str, rates: list[float]
) -> list[tuple[str, str]]:
    """A best step size at the end of the list may not be the best there is."""
    tuned = row["rates_tuned"] or {}
    chosen = (tuned.get(max(tuned, key=int)) if tuned else None) or []
    if len(rates) > 1 and max(rates) in chosen:
        text = (
            f"{title}: the largest step size searched, {max(rates):g}, was chosen; a larger "
            "one may be better."
        )
        return [("plain", text + " (evaluation.rates)")]
    return []


def attack_findings(rows: list[dict[str, Any]], titles: dict[str, str]) -> list[tuple[str, str]]:
    """Sentences on what inverting uploads recovered on each release, beside what rendering them
    showed."""
    sentences = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {
            (row["attack"], row["release"].split(" ")[0]): row
            for row in rows
            if row["method"] == method and row["metric"] == "psnr" and row["value"] is not None
        }
        seen, found = own.get(("render", "plain")), own.get(("inversion", "plain"))
        if seen is None or found is None:
            continue
        text = (
            f"{titles.get(method, method)}: rendering an upload shows {seen['value']:.1f} dB "
            "of the private signal, "
            f"inverting it {found['value']:.1f} dB (a constant colour: {found['floor']:.1f}; "
            f"{found['n']} clients)."
        )
        safe = True
        for (attack, _), row in own.items():
            if attack == "inversion" and row is not found:
                safe &= row["value"] <= row["floor"] + 1
                text += f" On {row['release']}: {row['value']:.1f} dB."
        leaks = found["value"] > found["floor"] + 1
        sentences.append(("warning" if leaks or not safe else "plain", text))
    return sentences


def release_finding(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The release's promise; ``epsilon`` is there only if noise was charged."""
    if result["epsilon"] is None:
        if result.get("exact"):
            return [("plain", f"Release {result['release']}, provable mode: a run {PROVES}.")]
        return [
            ("warning", f"Release {result['release']}, a sum without noise, {HIDES}. No epsilon.")
        ]
    text = (
        f"Release {result['release']}: the clients have spent epsilon {result['epsilon']:.2f} "
        "at delta "
        f"{result['delta']:g}, cohorts known (privacy_report.html says against whom and what "
        "is not covered)."
    )
    if result["epsilon"] > USEFUL:
        return [
            (
                "warning",
                f"{text} Above {USEFUL:g} that promises next to nothing: this run is not "
                "called private.",
            )
        ]
    return [("good", text)]


def _against_local(methods: dict[str, Any], titles: dict[str, str]) -> list[tuple[str, str]]:
    """Gain of federation over none behind the release, at the last shown step up to 16."""
    local = (methods.get(LOCAL) or {}).get("psnr") or {}
    step = "16" if "16" in local else next(iter(reversed(local)), None)
    sentences = []
    for name, row in methods.items():
        gain = _get(row["psnr"], step) if step and name != LOCAL else None
        if step is None or gain is None or local.get(step) is None:
            continue
        difference = gain - local[step]
        sentences.append(
            (
                "good" if difference > 0 else "warning",
                f"After {step} steps a new client has {gain:.1f} dB from {titles[name]}'s "
                "shared field, "
                f"{abs(difference):.1f} dB {'more' if difference > 0 else 'less'} than without "
                "federation.",
            )
        )
    return sentences


def _fedmenf_against_maml(methods: dict[str, Any], titles: dict[str, str]) -> list[tuple[str, str]]:
    ours, theirs = methods["fedmenf"], methods["maml"]
    p_ours, p_theirs = (_get(row["psnr_p"], "mean") for row in (ours, theirs))
    if p_ours is None or p_theirs is None:
        return []
    text = (
        f"A server that renders each client's upload gets {p_theirs:.1f} dB of the private "
        "picture under MAML and "
        f"{p_ours:.1f} dB under {titles['fedmenf']}, {abs(p_theirs - p_ours):.1f} dB "
        f"{'less' if p_ours < p_theirs else 'more'}."
    )
    steps = [k for k in (ours["psnr"] or {}) if k in ("16", "64")]
    for k in steps:
        q_ours, q_theirs = _get(ours["psnr"], k), _get(theirs["psnr"], k)
        if q_ours is not None and q_theirs is not None:
            text += f" After {k} steps a new client has {q_ours:.1f} dB (MAML {q_theirs:.1f})."
    return [("good" if p_theirs - p_ours > 0 else "warning", text)]


def _what_rendering_misses(row: dict[str, Any], title: str) -> list[tuple[str, str]]:
    fitted, floor = _get(row["psnr_p_affine"], "mean"), _get(row["psnr_floor"], "mean")
    related, plain = _get(row["correlation_p"], "mean"), _get(row["psnr_p"], "mean")
    if fitted is None or floor is None or related is None or plain is None or plain > floor:
        return []
    if fitted > floor + AFFINE_MARGIN:
        return [
            (
                "warning",
                f"{title}: its renderings score less than a constant colour ({plain:.1f} "
                f"against {floor:.1f} dB), but "
                f"{fitted:.1f} dB after the best affine intensity fit (correlation "
                f"{related:.2f}): PSNR_p understates "
                "what they show, because it punishes a mere shift of colour.",
            )
        ]
    return []


def _tuned_local(methods: dict[str, Any], titles: dict[str, str]) -> list[tuple[str, str]]:
    if LOCAL not in methods or not methods[LOCAL]["psnr_tuned"]:
        return []
    ahead = []
    for k, local in methods[LOCAL]["psnr_tuned"].items():
        if k == "0":  # no step, nothing to tune
            continue
        rivals = [_get(row["psnr_tuned"], k) for name, row in methods.items() if name != LOCAL]
        known = [value for value in rivals if value is not None]
        if local is not None and known and local > max(known):
            ahead.append(k)
    if not ahead:
        return []
    last = max(methods[LOCAL]["psnr_tuned"], key=int)
    text = (
        "With the step size tuned for each method, Local (no federation) is ahead after "
        f"{', '.join(ahead)} steps"
    )
    text += (
        ": on fitting one's own pixels a meta-learned start saves steps, not quality."
        if last in ahead
        else f", and behind the best of the others after {last}."
    )
    here = _get(methods[LOCAL]["psnr_unseen_tuned"], last)
    there = [_get(row["psnr_unseen_tuned"], last) for n, row in methods.items() if n != LOCAL]
    best = max((value for value in there if value is not None), default=None)
    if here is not None and best is not None and round(best - here, 1):
        who = "the best of them is" if best > here else "Local is"
        text += f" On pixels that nobody fitted {who} {abs(best - here):.1f} dB ahead."
    return [("plain", text)]


def _get(table: dict[str, float | None] | None, key: str) -> float | None:
    return (table or {}).get(key)
