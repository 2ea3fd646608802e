"""``fedapp bench head``: what obscured views are worth, over people, with the limits beside it.

Every person is fitted by every method, through the same evidence as a run's; a person that is done
is not done again (its result lies in the folder). Distances are means over people with intervals at
95 % (Student's t). Beside them: the *sampling floor* (two samplings of the truth), and the *grid's
own limit* (the mesh of the true distances on the grid that the fits end with).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import read_recipe
from fedapp.identity import fingerprint
from fedapp.store.kept import Kept
from fedapp.studies.ablation import interval
from fedapp.studies.side_by_side import side_by_side
from tasks.head.fit import Fit

METHODS = ("stage1", "stage2", "neutral_rgb", "joint", "gradient_only", "full_rgb")
FINER = {"grid 64": {"head.grid": 64}, "pictures of 128": {"data.size": 128}}
PEOPLE, QUICK, FINE = 10, 2, 2  # people; of --quick; of the finer variants
STAGE2_OVER_STAGE1, STAGE2_OVER_FULL = 0.45, 1.25  # asked for
SHOWN = ("case", "face", "face_half_width", "head", "head_half_width", "normals", "watertight")


def measure(quick: bool, folder: Path | None = None) -> Iterator[dict[str, Any]]:
    """Rows of the table; people are fitted side by side.

    Args:
        quick: two people, a tenth of the steps, no finer variants.
        folder: of results; default ``runs/heads``.
    """
    base = (folder or Path("runs/heads")).resolve()
    people = QUICK if quick else PEOPLE
    variants: dict[str, tuple[dict[str, Any], int]] = {"": ({}, people)}
    if not quick:
        variants |= {name: (changes, FINE) for name, changes in FINER.items()}
    jobs = [(name, client) for name, (_, count) in variants.items() for client in range(count)]
    plans = {name: _experiment(changes, quick) for name, (changes, _) in variants.items()}
    kept = {
        name: Kept(base, plan.digest, fingerprint(plan.to_run_config()))
        for name, plan in plans.items()
    }
    waiting = [job for job in jobs if kept[job[0]].read(job[1]) is None]
    for (name, client), found in side_by_side(
        fitted, waiting, lambda job: (plans[job[0]], job[1]), _say, lambda job: f"person {job[1]}"
        + (f", {job[0]}" if job[0] else "")
    ):  # fmt: skip
        kept[name].write(client, found)
    for name, (_, count) in variants.items():
        results = []
        for client in range(count):
            result = kept[name].read(client)
            assert result is not None
            results.append(result[0])
        yield from table(name, results, asked=not quick and not name)


def _say(text: str) -> None:
    from fedapp.cli.output import console

    console.print(text, style="dim", highlight=False)


def _experiment(changes: dict[str, Any], quick: bool) -> Experiment:
    values = known_keys() | read_recipe("head") | {"methods": ",".join(METHODS)} | changes
    if quick:
        values |= {"head.first-steps": 30, "head.second-steps": 60, "head.samples": 10_000}
    return Experiment.from_run_config(values)


def fitted(experiment: Experiment, client: int) -> dict[str, Any]:
    """One person by every method; stages that methods share are run once."""
    from fedapp.config.uploads import COLOUR, kind_of
    from fedapp.node.upload import obscured_evidence
    from privacy.node_secret import NodeSecret
    from privacy.operators import Chain
    from tasks.fields.distance import representation
    from tasks.head.fit import Budget
    from tasks.head.mesh import compare, floor, is_watertight, surface
    from tasks.head.stages import chosen, described
    from tasks.head.task import HeadTask
    from tasks.head.truth import distances

    data = HeadTask(experiment).client_data(client)
    assert data.truth is not None and data.portrait is not None
    head = experiment.head
    budget = Budget(head.rays, head.patches, head.patch)
    secret = NodeSecret.simulated("upload", client)
    obscured = obscured_evidence(data, Chain.parsed(head.operator), secret, client)
    told: dict[str, Any] = {}
    done: dict[str, Fit] = {}
    seconds = steps = 0.0
    for method in experiment.method_list:
        stages = chosen(method, head)
        kind = kind_of(stages)
        evidence = data.in_colour if kind == COLOUR else obscured
        side = stages[0].grids[0] if stages[0].grids else head.grid
        fit = Fit(evidence, budget, 0, side=side, representation=representation(head.field))
        for number, stage in enumerate(stages, 1):
            same = kind + described(stages[:number])
            if same in done:
                fit.restore(done[same].tensors(), number)
                continue
            started = time.process_time()
            fit.run(stage)
            seconds += time.process_time() - started
            steps += stage.steps
            done[same] = fit
            fit = _copy(fit, evidence, budget)
        try:
            mesh = fit.surface()
        except ValueError:
            told[method] = {"chamfer_face": None, "chamfer_head": None, "normals": None,
                            "watertight": 0.0}  # fmt: skip
            continue
        told[method] = compare(mesh, data.truth, samples=head.samples)
        told[method]["watertight"] = float(is_watertight(mesh))
    told["floor"] = floor(data.truth, head.samples)
    true = distances(data.portrait.vertices, data.portrait.faces, head.grid)
    told["grid"] = compare(surface(true), data.truth, samples=head.samples)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return told | {"work": {"seconds_per_step": seconds / max(steps, 1), "memory_mb": memory}}


def _copy(fit: Fit, evidence: Any, budget: Any) -> Fit:
    found = Fit(evidence, budget, fit.seed, representation=fit.representation)
    found.restore(fit.tensors(), fit.stage)
    return found


def table(variant: str, results: Sequence[dict[str, Any]], asked: bool) -> Iterator[dict[str, Any]]:
    """Rows: methods and limits, the two ratios that targets are ``asked`` of, the order against
    mixtures, and the work."""
    name = f" ({variant})" if variant else ""
    for method in (*METHODS, "floor", "grid"):
        face, face_half = _mean(results, method, "chamfer_face")
        whole, whole_half = _mean(results, method, "chamfer_head")
        normals, _ = _mean(results, method, "normals", 1.0)
        closed = [r[method].get("watertight") for r in results]
        yield {
            **_row(f"{_called(method)}{name}", "1e-3 head heights"),
            "face": face, "face_half_width": face_half,
            "head": whole, "head_half_width": whole_half, "normals": normals,
            "watertight": None if None in closed else sum(closed) / len(closed),
            "people": len(results), "shown": SHOWN,
        }  # fmt: skip
    for other, bound in (("stage1", STAGE2_OVER_STAGE1), ("full_rgb", STAGE2_OVER_FULL)):
        yield _ratio(results, "stage2", other, bound if asked else None, name)
    for other in ("neutral_rgb", "joint", "gradient_only"):
        yield _ratio(results, "stage2", other, None, name)
    for key, unit in (("seconds_per_step", "CPU s"), ("memory_mb", "MB")):
        values = [result["work"][key] for result in results]
        most = max(values) if key == "memory_mb" else sum(values) / len(values)
        yield {**_row(f"{key.replace('_', ' ')}{name}", unit), "ours": most}


def _called(method: str) -> str:
    return {"floor": "sampling floor", "grid": "limit of the grid"}.get(method, method)


def _row(case: str, unit: str) -> dict[str, Any]:
    return {"case": case, "unit": unit, "ours": None, "reference": None, "ratio": None,
            "target": None}  # fmt: skip


def _mean(
    results: Sequence[dict[str, Any]], method: str, name: str, scale: float = 1e3
) -> tuple[float | None, float | None]:
    values = [result[method].get(name) for result in results]
    return interval([None if value is None else scale * value for value in values])


def _ratio(
    results: Sequence[dict[str, Any]], own: str, other: str, bound: float | None, name: str
) -> dict[str, Any]:
    """The ratio of mean faces, and for how many people ``own`` is the nearer one."""
    pairs = [(r[own]["chamfer_face"], r[other]["chamfer_face"]) for r in results]
    known = all(one is not None and two is not None for one, two in pairs)
    value = sum(p[0] for p in pairs) / sum(p[1] for p in pairs) if known else None
    wins = sum(one < two for one, two in pairs) if known else None
    found = {**_row(f"face, {own} over {other}{name}", "×"), "ours": value, "nearer_for": wins,
             "people": len(results)}  # fmt: skip
    if bound is not None and value is not None:
        found |= {"target": 1.0, "reference": bound, "ratio": bound / value,
                  "holds": value <= bound, "by": "ratio" if value <= bound else None}  # fmt: skip
    return found
