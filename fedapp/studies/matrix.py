"""Rules times learners times modality: what ``fedapp bench methods`` runs, and the table it writes.

Each (modality, rule) is one run with every learner, in its own folder; finished ones are not run
again, half-finished ones go on. ``quick`` is one seed and every rule on images; otherwise three
seeds and every rule on all modalities.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from fedapp.place import cores
from fedapp.report.table import lookup
from fedapp.store.runfolder import RunFolder
from fedapp.studies.ablation import interval
from fedapp.studies.kept_run import QUIET, kept_run
from tasks.atomic import write_json

RULES = ("fedavg", "fedprox", "scaffold", "fednova", "fedexp", "fedacg")
BEHIND = 1.0  # dB below no federation: such a row does not adapt, and is not ranked
LEARNERS = ("maml", "fomaml", "reptile", "meta-nsgd", "fedmenf", "fedmenf-published")
RECIPES = {"image": "methods-image", "video": "video", "nerf": "nerf"}
INVERTED = 2  # clients whose uploads are inverted, a method and seed
OUTCOME = "methods.json"


class Case(NamedTuple):
    """One run of the matrix."""

    modality: str
    rule: str
    seeds: str
    folder: Path
    learners: tuple[str, ...] = LEARNERS

    @property
    def overrides(self) -> dict[str, Any]:
        """Changes to its recipe."""
        return {
            "methods": ",".join(self.learners),
            "rule": self.rule,
            "seeds": self.seeds,
            **QUIET,
        }


def cases(
    quick: bool,
    folder: Path,
    seeds: str,
    rules: Sequence[str] = RULES,
    learners: Sequence[str] = LEARNERS,
) -> list[Case]:
    """Everything there is to run. Local does not depend on the rule, so it is run beside the
    first."""
    chosen, found = seeds or ("0" if quick else "0,1,2"), []
    for modality in RECIPES:
        for rule in rules if modality == "image" or not quick else rules[:1]:
            known = tuple(learners) == LEARNERS
            parts = [modality, rule, chosen, *([] if known else learners)]
            slug = "-".join("".join(c if c.isalnum() else "-" for c in part) for part in parts)
            own = (*learners, "local") if rule == rules[0] else tuple(learners)
            found.append(Case(modality, rule, chosen, folder / slug, own))
    return found


def measure(
    quick: bool,
    folder: Path | None = None,
    seeds: str = "",
    rules: Sequence[str] = (),
    learners: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Rows as cases are done, as many side by side as there are cores; then the table and the plot.

    ``rules`` and ``learners`` may be anybody's, by the names that a config takes.
    """
    base = (folder or Path("runs/methods")).resolve()
    base.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    wanted = cases(quick, base, seeds, rules or RULES, learners or LEARNERS)
    todo = sorted(wanted, key=lambda case: case.modality != "nerf")  # the longest first
    workers = max(1, min(len(todo), cores()))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(play, case) for case in todo]):
            if future.exception():
                pool.shutdown(cancel_futures=True)  # what is done is kept
            for row in future.result():
                rows.append(row)
                yield row
    write_outcome(base, rows)


def play(case: Case) -> list[dict[str, Any]]:
    """Run one case to its end (in a process of its own) and score it."""
    place = kept_run(RECIPES[case.modality], case.overrides, case.folder)
    return score(case, place)


def score(case: Case, place: RunFolder) -> list[dict[str, Any]]:
    """One row a learner; inversions are kept beside the run, so they are made once."""
    from fedapp.results import summarise

    experiment, result = place.experiment, summarise(place)
    events = list(place.events())
    if not (place.path / "inversions.json").exists():
        write_json(place.path / "inversions.json", _invert(place))
    inverted = place.read("inversions.json")
    rows = []
    for method in experiment.method_list:
        row, found = result["methods"][method], inverted.get(method, {})
        last = max(row["psnr"] or {"0": None}, key=int)
        per_seed = [_final(events, method, seed, last) for seed in experiment.seed_list]
        psnr, psnr_half = interval([one["psnr"] for one in per_seed])
        seen, seen_half = interval([one["psnr_p"] for one in per_seed])
        delta, delta_half = interval([_minus(one["psnr"], one["psnr_p"]) for one in per_seed])
        rows.append(
            {
                "case": f"{case.modality} / {'–' if method == 'local' else case.rule} / {method}",
                "unit": "dB",
                "ours": delta,
                "reference": None,
                "ratio": None,
                "target": None,
                "modality": case.modality,
                "rule": case.rule,
                "learner": method,
                "seeds": len(per_seed),
                "psnr": psnr,
                "psnr_tuned": (row["psnr_tuned"] or {}).get(last),
                "psnr_half_width": psnr_half,
                "steps": int(last),
                "psnr_unseen": (row["psnr_unseen_tuned"] or {}).get(last),
                "psnr_p": seen,
                "psnr_p_half_width": seen_half,
                "psnr_p_max": (row["psnr_p"] or {}).get("max"),
                "delta": delta,
                "delta_half_width": delta_half,
                "psnr_floor": (row["psnr_floor"] or {}).get("mean"),
                "member_minus_nonmember": row["member_minus_nonmember"],
                "member_minus_nonmember_over_floor": row["member_minus_nonmember_over_floor"],
                "inversion_psnr": found.get("mean"),
                "inversion_floor": found.get("floor"),
                "outside_range": row["outside_range"],
                "shown": [
                    "case",
                    "psnr",
                    "psnr_p",
                    "delta",
                    "member_minus_nonmember_over_floor",
                    "inversion_psnr",
                    "outside_range",
                ],
            }
        )
    return rows


def _final(
    events: list[dict[str, Any]], method: str, seed: int, step: str
) -> dict[str, float | None]:
    own = [event for event in events if event.get("method") == method and event.get("seed") == seed]
    judged = [event for event in own if event["event"] == "evaluation"][-1:]
    rounds = [event for event in own if event["event"] == "round"][-1:]
    return {
        "psnr": lookup(judged[0]["metrics"], ("psnr", step)) if judged else None,
        "psnr_p": lookup(rounds[0]["metrics"], ("psnr_p", "mean")) if rounds else None,
    }


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _invert(place: RunFolder) -> dict[str, dict[str, float | None]]:
    """PSNR of what simulate-and-match recovers from plain uploads; nothing where the attack does
    not apply."""
    import torch

    from fedapp.attacks.field_round import FieldRound
    from fedapp.attacks.inversion import Inversion
    from privacy.attacks.matching import QUICK

    torch.set_num_threads(1)
    view = FieldRound(place, INVERTED)
    if not view.whole:
        return {}
    attacker = Inversion(view)
    attacker.search = QUICK
    found: dict[str, dict[str, float | None]] = {}
    for method in view.experiment.trained_methods:
        scores = [
            row for seed in view.experiment.seed_list for row in attacker.inverted(method, seed)
        ]
        values = [value for value, _ in scores]
        sound = all(math.isfinite(value) for value in values)
        found[method] = {
            "mean": sum(values) / len(values) if sound else None,
            "floor": sum(floor for _, floor in scores) / len(scores),
        }
    return found


# ---------------------------------------------------------------------- what is written
def write_outcome(base: Path, rows: list[dict[str, Any]]) -> None:
    """``methods.json``, ``methods.md`` and, where matplotlib is there, ``methods.svg``."""
    import importlib.util

    write_json(base / OUTCOME, {"rows": rows, "ordering": ordering(rows)})
    (base / "methods.md").write_text(
        markdown(rows) + "\n\n" + "\n".join(ordering(rows)) + "\n", encoding="utf-8"
    )
    if importlib.util.find_spec("matplotlib"):
        from fedapp.report.figures import matrix_frontier

        (base / "methods.svg").write_text(matrix_frontier(rows), encoding="utf-8")


def ordering(rows: list[dict[str, Any]]) -> list[str]:
    """Whether the paper's ordering holds: FedMeNF has the largest PSNR - PSNR_p among methods that
    adapt (tuned, they end no more than 1 dB below no federation).

    PSNR as in the paper: after the last step of test-time optimisation at one step size for all
    methods.
    """
    sentences = []
    for modality in RECIPES:
        for rule in dict.fromkeys(row["rule"] for row in sorted(rows, key=_place)):
            known = [
                r
                for r in rows
                if (r["modality"], r["rule"]) == (modality, rule) and r["delta"] is not None
            ]
            stable = sorted(
                (row for row in known if _adapts(row, rows)), key=lambda row: -row["delta"]
            )
            if not stable:
                continue
            ranked = ", ".join(f"{row['learner']} {row['delta']:.1f}" for row in stable)
            verdict = _verdict(stable[0]["learner"])
            gone = [row["learner"] for row in known if not _adapts(row, rows)]
            left = f" Below no federation and not ranked: {', '.join(gone)}." if gone else ""
            sentences.append(
                f"{modality}, {rule}: largest PSNR − PSNR_p is {stable[0]['learner']}'s, "
                f"{verdict} ({ranked} dB).{left}"
            )
    return sentences


def _adapts(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether a row, its step size tuned, ends near Local of its data or above (on unseen pixels
    where there are some). Where it renders before is another question."""
    local = [r for r in rows if r["learner"] == "local" and r["modality"] == row["modality"]]
    key = "psnr_unseen" if row.get("psnr_unseen") is not None else "psnr_tuned"
    limits = [r[key] for r in local if r.get(key) is not None]
    if row.get(key) is None or not limits:
        return True
    return bool(row[key] >= min(limits) - BEHIND)


def _verdict(best: str) -> str:
    """Standing of a winner against the paper's claim, which is about its unbounded objective."""
    if best == "fedmenf-published":
        return "the paper's ordering"
    if best == "fedmenf-unbounded":
        return "the paper's ordering, with our exact derivative of the inner clip"
    return (
        "the paper's ordering but for its bounded variant"
        if best.startswith("fedmenf")
        else "not the paper's ordering"
    )


COLUMNS = {
    "psnr": "PSNR ↑",
    "psnr_tuned": "step size tuned ↑",
    "psnr_unseen": "unseen pixels, tuned ↑",
    "psnr_p": "PSNR_p ↓",
    "psnr_floor": "constant colour",
    "delta": "PSNR − PSNR_p ↑",
    "member_minus_nonmember_over_floor": "member − non-member, over constant colour ↓",
    "inversion_psnr": "inversion of two uploads (their constant colour) ↓",
}


def _place(row: dict[str, Any]) -> list[tuple[int, str]]:
    """Sort key of a row: in our order, then others by name."""
    order = [*RECIPES, *RULES, "local", *LEARNERS]
    names = (row["modality"], row["rule"], row["learner"])
    return [(order.index(name) if name in order else len(order), name) for name in names]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as README and docs show it."""
    lines = [
        "| data | rule | learner | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for row in sorted(rows, key=_place):
        cells = [_cell(row, key) for key in COLUMNS]
        learner = row["learner"] + (" (outside the range)" if row["outside_range"] else "")
        rule = "–" if row["learner"] == "local" else row["rule"]
        lines.append(f"| {row['modality']} | {rule} | {learner} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], key: str) -> str:
    value, half = row[key], row.get(f"{key}_half_width")
    if value is None:
        return "–" if row["learner"] == "local" else "not computed"
    floor = f" ({row['inversion_floor']:.1f})" if key == "inversion_psnr" else ""
    return f"{value:.1f}" + ("" if half is None else f" ± {half:.1f}") + floor
