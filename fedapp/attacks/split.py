"""``fedapp attack`` on split learning: every attacker on one transcript per design, beside the
floor that the same attacker reaches on transcripts that hold nothing.

A transcript is a training of the first scene again (:mod:`fedapp.attacks.split_transcript`);
attackers are shown what the server would be, or the second holder, or both. What attackers score on
*null* transcripts they owe to the cameras and to the choice of the best of their guesses. An attack
*succeeds* where its edges exceed mean + 3 standard deviations of its null scores; with few null
transcripts some do by chance, and how many to expect is told (:func:`by_chance`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fedapp.attacks import split_signs
from fedapp.attacks.split_parts import Parts
from fedapp.attacks.split_transcript import Case, Outcome, Recording
from fedapp.config.designs import DESIGNS
from fedapp.config.experiment import Experiment
from fedapp.studies.side_by_side import side_by_side
from privacy.attacks.split import (
    Attacker,
    KnownStart,
    OneImage,
    Probe,
    Score,
    Subspace,
    Surrogate,
    best,
)
from privacy.node_secret import NodeSecret
from tasks.errors import InputError
from tasks.metrics import psnr
from tasks.settings import SplitSettings
from tasks.split_nerf.halves import ClientHalf, ServerHalf, Whole
from tasks.split_nerf.scene import Scene, scene_seed
from tasks.split_nerf.task import SplitNerf

CHUNK = 4096  # rays rendered at a time
STEPS = 600  # of a transcript, unless one says otherwise
NULLS = 5  # null transcripts per kind
HOLDER_NULLS = 8  # of what one holder sees: more attacks are held against them
LATE = 0.6  # share of the training after which the late surrogate starts
METRICS = Score._fields
SUCCESS = "edge"  # the metric by which an attack succeeds
DEVIATIONS = 3.0


def cases_of(experiment: Experiment) -> list[Case]:
    """Designs that something crosses in, sealed ones as each holder sees them and as both together
    do, and the null transcripts."""
    own = experiment.split.batches
    found: list[Case] = []
    for design in ("split", "s2nerf", "constant-noise", "label-noise"):
        found += [Case(f"{design}, K = {k}", design, k) for k in sorted({1, own})]
    several = sorted({1, own, 16})
    found += [Case(f"sealed, K = {k}", "sealed", k) for k in several]
    found += [
        Case(f"sealed, K = {k}, second holder", "sealed", k, "peer") for k in sorted({1, own})
    ]
    found.append(Case("sealed, both holders together", "sealed", 1, "both"))
    signs = not experiment.split.hashed
    if signs:
        found.append(Case(split_signs.NAME, "split", 1, "rows"))
    for number in range(1, NULLS + 1):
        found.append(Case("null", "split", 1, null=number))
        found.append(Case("null", "sealed", 1, "both", number))
        if signs:
            found.append(Case(split_signs.NAME, "split", 1, "rows", number))
    for number in range(1, HOLDER_NULLS + 1):
        for sees in ("server", "peer"):
            found.append(Case("null", "sealed", several[number % len(several)], sees, number))
    return found


def attackers_of(recording: Recording) -> dict[str, Attacker]:
    """Everybody who watches, by the name of the row."""
    division, geometry = recording.division, recording.scene.geometry
    found: dict[str, Attacker] = {
        "surrogate, mse, 10/t (published)": Surrogate(division, geometry, "mse", "10/t"),
        "surrogate, mse": Surrogate(division, geometry, "mse", "tenth"),
        "surrogate, cosine": Surrogate(division, geometry, "cosine", "tenth"),
        "surrogate, cosine, late": Surrogate(division, geometry, "cosine", "tenth", LATE),
        "gradient subspace": Subspace(division, geometry),
        "feature probe (no gradient)": Probe(division, geometry),
        "one leaked picture": OneImage(division, geometry),
    }
    if recording.design.kind == "plain":
        found["initial head known (control)"] = KnownStart(division, geometry, recording.start())
    return found


def baselines(scene: Scene, settings: SplitSettings, steps: int) -> tuple[dict[str, float], Tensor]:
    """PSNR of designs in which nothing crosses, and the depths ``[V, H, W]`` that the field that is
    not split finds."""
    geometry = scene.geometry
    shape = (geometry.held_out, geometry.height, geometry.width)
    rays = torch.cat(
        [geometry.pixels[geometry.of_view(v)] for v in range(geometry.train, len(geometry.poses))]
    )
    found: dict[str, float] = {}
    depths = torch.zeros(shape)
    for name, design in DESIGNS.items():
        if design.crosses:
            continue
        division = design.division(settings, steps)
        secret = NodeSecret.simulated("attack", 0)  # the head that every design starts from
        whole = Whole(ServerHalf(division, (0, 0)), ClientHalf(division, secret.uniform("head")))
        for step in range(steps):
            whole.step(geometry, scene.colours, scene_seed(0, 0), step)
        parts = [whole.render(geometry, part) for part in rays.split(CHUNK)]
        shown = torch.cat([colour for colour, _ in parts]).view(*shape, 3)
        found[name] = sum(map(psnr, shown, scene.truth)) / len(shown)
        if name == "unsplit":
            depths = torch.cat([depth for _, depth in parts]).view(shape)
    return found, depths


def attack_case(
    case: Case,
    scene: Scene,
    settings: SplitSettings,
    steps: int,
    depths: Tensor,
) -> Outcome:
    """Record one transcript and score every attacker on it. The first held-out view is the leaked
    one and is not scored; ``depths [V, H, W]`` are the truth of depths."""
    torch.set_num_threads(1)
    if case.sees == "rows":
        return Outcome(case, *split_signs.attack_signs(case, scene, settings, steps, depths))
    recording = Recording(case, scene, settings, steps)
    attackers = attackers_of(recording)
    recording.play(list(attackers.values()))
    geometry = scene.geometry
    own, seen = recording.views()
    shape = (geometry.height, geometry.width)
    rendered = [
        recording.client.render(view.samples, view.crossing, geometry.background) for view in own
    ]
    truths = scene.images[geometry.train :]
    reached = sum(
        psnr(colour.view(*shape, 3), truth)
        for (colour, _), truth in zip(rendered, truths, strict=True)
    ) / len(truths)
    scores, pictures = {}, {"client": rendered[1][0].view(*shape, 3), "truth": truths[1]}
    for name, attacker in attackers.items():
        if isinstance(attacker, OneImage):
            attacker.fit(seen[0], truths[0].reshape(-1, 3))
        guess, scored = best(attacker.guesses(seen[1:]), truths[1:], depths[1:])
        scores[name] = scored
        pictures[name] = guess.pictures[0].view(*shape, 3).clamp(0, 1).nan_to_num()
    return Outcome(case, reached, scores, pictures, {})


# ---------------------------------------------------------------------- the study
def study(
    experiment: Experiment,
    tell: Callable[[str], None],
    workers: int = 2,
    steps: int = STEPS,
    kept: Parts | None = None,
) -> tuple[list[Outcome], dict[str, float]]:
    """All transcripts of :func:`cases_of`, in processes of their own, and the PSNR of designs in
    which nothing crosses.

    Args:
        experiment: of split learning; its first client's scene is attacked.
        tell: is told of every transcript that is done.
        workers: processes.
        steps: of every transcript's training.
        kept: where outcomes are written as they come, and read from if they are there.

    Raises:
        InputError: the first client's scene is not here, or has too few views.
    """
    scene = _scene_of(experiment)
    cases = cases_of(experiment)
    read = [kept.read(case) for case in cases] if kept else []
    found = [outcome for outcome in read if outcome is not None]
    done = len(found)
    there = {outcome.case for outcome in found}
    if done:
        tell(f"{done} of {len(cases)} transcripts are on disk")
    bare, depths = baselines(scene, experiment.split, steps)
    tell("baselines: " + ", ".join(f"{name} {value:.1f} dB" for name, value in bare.items()))
    results = side_by_side(
        attack_case,
        [case for case in cases if case not in there],
        lambda case: (case, scene, experiment.split, steps, depths),
        tell,
        lambda case: f"transcript {case.name}",
        workers,
    )
    for _, outcome in results:
        found.append(outcome)
        if kept:
            kept.write(outcome)
    return sorted(found, key=lambda outcome: cases.index(outcome.case)), bare


def _scene_of(experiment: Experiment) -> Scene:
    """The first client's scene, where it is the one that was trained."""
    if experiment.data.hosted:
        raise InputError(
            "data.hosted",
            experiment.data.hosted,
            "the scenes of this run lie on devices: there is none here to attack",
            "attack a recipe, or a simulation's run",
        )
    if experiment.split.test_views < 2:
        raise InputError(
            "split.test-views", experiment.split.test_views, "one leaks, another is scored",
            "set it to 2 or more",
        )  # fmt: skip
    return SplitNerf(experiment).client_data(0)


def rows_of(outcomes: list[Outcome]) -> Iterator[dict[str, Any]]:
    """A row per design, attacker and metric: its value, the mean and the highest plausible score of
    the same attacker on null transcripts, and whether it succeeds."""
    nulls: dict[tuple[str, str], list[Score]] = {}
    for outcome in outcomes:
        if outcome.case.null:
            for name, scored in outcome.scores.items():
                nulls.setdefault((outcome.case.kind, name), []).append(scored)
    for outcome in outcomes:
        if outcome.case.null:
            continue
        for name, scored in outcome.scores.items():
            for metric in METRICS:
                floor = [null._asdict()[metric] for null in nulls[outcome.case.kind, name]]
                band = statistics.fmean(floor) + DEVIATIONS * statistics.stdev(floor)
                value = scored._asdict()[metric]
                yield {
                    "attack": name,
                    "method": outcome.case.design,
                    "release": outcome.case.name,
                    "sees": outcome.case.sees,
                    "metric": metric,
                    "value": value,
                    "floor": statistics.fmean(floor),
                    "chance": band,
                    "n": len(floor),
                    "succeeds": bool(value > band) if metric == SUCCESS else None,
                    "client_psnr": outcome.psnr if math.isfinite(outcome.psnr) else None,
                }


def by_chance(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Attacks on what one holder sees: how many there are, how many succeed, and how many would if
    nothing were there to find (normal scores: Student's t with n - 1 degrees of freedom beyond
    3 / sqrt(1 + 1/n))."""
    from scipy.stats import t

    held = [
        row
        for row in rows
        if row["metric"] == SUCCESS and row["method"] == "sealed" and row["sees"] != "both"
    ]
    expected = sum(
        float(t.sf(DEVIATIONS / math.sqrt(1 + 1 / row["n"]), row["n"] - 1)) for row in held
    )
    succeed = sum(1 for row in held if row["succeeds"])
    return {"attacks": len(held), "succeed": succeed, "expected": expected}


def sheet(outcomes: list[Outcome]) -> Tensor:
    """A contact sheet: a row per design, the client's picture and every attacker's beside the
    truth."""
    rows = []
    shown = [outcome for outcome in outcomes if outcome.case.null <= 1]
    widest = max(len(outcome.scores) for outcome in shown)
    for outcome in shown:
        names = ["truth", "client", *outcome.scores]
        blank = torch.ones_like(outcome.pictures["truth"])
        parts = [outcome.pictures[name] for name in names]
        rows.append(torch.cat(parts + [blank] * (widest + 2 - len(names)), 1))
    return torch.cat(rows, 0)
