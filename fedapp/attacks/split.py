"""``fedapp attack`` on split learning: every attacker on one transcript per design, beside the
floor
that the same attacker reaches on transcripts that hold nothing.

A transcript is a training of the first scene again, by the halves that nodes and server use, with
the
messages' own formats; attackers are shown what the server would be. On a *null* transcript
everything
is as before but the gradients, which are noise of the same row norms (of a sealed table: shares
that
nobody made from anything): what attackers score there they owe to the cameras and to the choice of
the best of their guesses. An attack *succeeds* where its edges exceed mean + 3 standard deviations
of
its null scores.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedapp.config.designs import DESIGNS, sealed_rate
from fedapp.config.experiment import Experiment
from privacy.attacks.split import (
    Attacker,
    KnownStart,
    OneImage,
    Probe,
    Score,
    Step,
    Subspace,
    Surrogate,
    View,
    best,
)
from privacy.gradients import GradientDefence
from privacy.node_secret import NodeSecret, expand
from privacy.sealed import (
    GRADIENT_BITS,
    Holder,
    Scaler,
    from_ring,
    joined,
    whole_weights,
)
from strategies.flower.wire16 import narrow, widen
from tasks.metrics import psnr
from tasks.randomness import seed_of
from tasks.settings import SplitSettings
from tasks.split_nerf.grids import Grid
from tasks.split_nerf.halves import ClientHalf, Division, Places, ServerHalf, Whole
from tasks.split_nerf.scene import Scene, scene_seed
from tasks.split_nerf.task import SplitNerf

CHUNK = 4096  # rays rendered at a time
STEPS = 600  # of a transcript, unless one says otherwise
NULLS = 5  # null transcripts per kind
LIMIT = 8.0  # of features in a training on noise
LATE = 0.6  # share of the training after which the late surrogate starts
METRICS = Score._fields
SUCCESS = "edge"  # the metric by which an attack succeeds
DEVIATIONS = 3.0


@dataclass(frozen=True)
class Case:
    """One transcript to attack.

    Attributes:
        name: of the row.
        design: method.
        batches: K.
        sees: ``server`` or ``both`` (holders that pool what they have).
        null: number of a null transcript, from 1; 0: a real one.
    """

    name: str
    design: str
    batches: int
    sees: str = "server"
    null: int = 0

    @property
    def kind(self) -> str:
        """Kind of null transcripts it is held against."""
        if DESIGNS[self.design].kind == "plain":
            return "plain"
        return f"sealed, {self.sees}"


class Outcome(NamedTuple):
    """Scores of one transcript's attackers, and what the client itself reached."""

    case: Case
    psnr: float
    scores: dict[str, Score]
    pictures: dict[str, Tensor]  # of the first scored view [H, W, 3]


def cases_of(experiment: Experiment) -> list[Case]:
    """Designs that something crosses in, sealed ones at several K and with both holders pooling,
    and
    the null transcripts."""
    own = experiment.split.batches
    found: list[Case] = []
    for design in ("split", "s2nerf", "constant-noise"):
        found.append(Case(f"{design}, K = 1", design, 1))
        if own > 1:
            found.append(Case(f"{design}, K = {own}", design, own))
    for batches in sorted({1, own, 16}):
        found.append(Case(f"sealed, K = {batches}", "sealed", batches))
    found.append(Case("sealed, both holders together", "sealed", 1, "both"))
    for number in range(1, NULLS + 1):
        found.append(Case("null", "split", 1, null=number))
        found.append(Case("null", "sealed", 1, null=number))
        found.append(Case("null", "sealed", 1, "both", number))
    return found


# ---------------------------------------------------------------------- one transcript
class Recording:
    """One training of one scene, as its server sees it."""

    def __init__(self, case: Case, scene: Scene, settings: SplitSettings, steps: int) -> None:
        self.case = case
        self.scene = scene
        self.design = DESIGNS[case.design]
        settings = settings.model_copy(update={"batches": case.batches})
        self.division: Division = self.design.division(settings, steps)
        self.defence: GradientDefence = self.design.defence(settings)
        self.secret = NodeSecret.simulated("attack", case.design, case.batches, case.null)
        self.seed = scene_seed(0, 0)
        self.half = ServerHalf(self.division, (0, 0))
        self.client = self.start()
        self.holders: tuple[Holder, Holder] | None = None
        if self.design.kind == "sealed":
            grid = self.division.encoder
            assert isinstance(grid, Grid), "sealed tables are grids"
            self.holders = (Holder.first(grid, self.half.table.params), Holder.second(grid))
            self.scaler = Scaler(len(grid.cells), sealed_rate(settings))

    def start(self) -> ClientHalf:
        """The client's head as it starts."""
        return ClientHalf(self.division, self.secret.uniform("head"))

    def play(self, attackers: list[Attacker]) -> None:
        """Train to the end, showing every step."""
        division, geometry = self.division, self.scene.geometry
        for first in range(0, division.steps, self.case.batches):
            numbers = range(first, min(first + self.case.batches, division.steps))
            places = [self._places(number) for number in numbers]
            sent = [self._embed(place) for place in places]
            answers = [
                self._answer(number, place, crossing)
                for number, place, (crossing, _) in zip(numbers, places, sent, strict=True)
            ]
            for number, place, (_, seen), (gradient, shown) in zip(
                numbers, places, sent, answers, strict=True
            ):
                pixels = geometry.batch(self.seed, number, division.rays)
                for attacker in attackers:
                    attacker.see(Step(number, pixels, place, seen, shown))
                self._learn(number, place, gradient)

    def _places(self, number: int) -> Places:
        places = self.division.places(self.scene.geometry, self.seed, number)
        if self.holders is None:
            return places
        return Places(places.samples, whole_weights(places.visits))

    def _embed(self, places: Places) -> tuple[Tensor, Tensor]:
        """(what the client gets, what the attacker has of it)."""
        if self.holders is None:
            crossing = widen(narrow(self.half.embed(places)[None]))[0]
            return crossing, crossing
        shares = [holder.embed(places.visits) for holder in self.holders]
        whole = joined(*shares)
        return whole, whole if self.case.sees == "both" else shares[0].double().div(2**31).float()

    def _answer(self, number: int, places: Places, crossing: Tensor) -> tuple[Any, Tensor]:
        """(what the server's half learns from, what the attacker has of it)."""
        division, geometry = self.division, self.scene.geometry
        pixels = geometry.batch(self.seed, number, division.rays)
        draws = self.secret.draws("noise", number)
        targets = self.defence.targets(self.scene.colours[pixels], draws)
        if self.case.null:
            crossing = crossing.clamp(-LIMIT, LIMIT)
        _, gradient = self.client.step(
            places.samples, crossing, targets, geometry.background, number
        )
        if self.holders is None:
            gradient = self.defence.protect(gradient, number / division.steps, draws)
            if self.case.null:
                gradient = self._noise_like(gradient, number)
            gradient = widen(narrow(gradient[None]))[0]
            return gradient, gradient
        if self.case.null:  # a training on noise may leave the range of numbers
            gradient = gradient.nan_to_num(0, 0, 0)
        whole = self.scaler.encode(gradient, division.fade(number))
        if self.case.null:
            whole = whole.flatten()[self._order(whole.numel(), number)].view(whole.shape)
        mask = expand(self.secret.bytes("share", number)[:16], whole.numel()).view(whole.shape)
        if self.case.sees == "both":
            return (whole - mask, mask), from_ring(whole, GRADIENT_BITS)
        return (whole - mask, mask), (whole - mask).double().div(2.0**63).float()

    def _order(self, count: int, number: int) -> Tensor:
        stream = torch.Generator().manual_seed(seed_of("null", self.case.null, number))
        return torch.randperm(count, generator=stream)

    def _noise_like(self, gradient: Tensor, number: int) -> Tensor:
        """Noise with the gradient's row norms in another order."""
        stream = torch.Generator().manual_seed(seed_of("null", self.case.null, number))
        noise = torch.randn(gradient.shape, generator=stream)
        norms = gradient.norm(dim=1)[self._order(len(gradient), number)]
        return noise / noise.norm(dim=1, keepdim=True) * norms[:, None]

    def _learn(self, number: int, places: Places, gradient: Any) -> None:
        if self.holders is None:
            self.half.learn(places, gradient, number)
            return
        for holder, share in zip(self.holders, gradient, strict=True):
            holder.learn(places.visits, share)

    # ------------------------------------------------------------------ afterwards
    def views(self) -> tuple[list[View], list[View]]:
        """Held-out views, as the client sees them and as the attacker does."""
        geometry, division = self.scene.geometry, self.division
        own, seen = [], []
        for view in range(geometry.train, len(geometry.poses)):
            samples = geometry.march(geometry.of_view(view), division.samples)
            visits = division.encoder.visit(samples.points)
            if self.holders is not None:
                visits = whole_weights(visits)
            whole, theirs = self._embed(Places(samples, visits))
            own.append(View(samples, whole))
            seen.append(View(samples, theirs))
        return own, seen


def attackers_of(recording: Recording) -> dict[str, Attacker]:
    """Everybody who watches, by the name of the row."""
    division, geometry = recording.division, recording.scene.geometry
    found: dict[str, Attacker] = {
        "surrogate, mse, 10/t (published)": Surrogate(division, geometry, "mse", "10/t"),
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
        secret = NodeSecret.simulated("attack", name)
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
    return Outcome(case, reached, scores, pictures)


# ---------------------------------------------------------------------- the study
def study(
    experiment: Experiment, tell: Callable[[str], None], workers: int = 2, steps: int = STEPS
) -> tuple[list[Outcome], dict[str, float]]:
    """All transcripts of :func:`cases_of`, in processes of their own, and the PSNR of designs in
    which nothing crosses.

    Args:
        experiment: of split learning; its first client's scene is attacked.
        tell: is told of every transcript that is done.
        workers: processes.
        steps: of every transcript's training.
    """
    scene = SplitNerf(experiment).client_data(0)
    if scene.geometry.held_out < 2:
        raise ValueError("one held-out view leaks, another is scored: split.test-views >= 2")
    cases = cases_of(experiment)
    found: list[Outcome] = []
    bare, depths = baselines(scene, experiment.split, steps)
    tell("baselines: " + ", ".join(f"{name} {value:.1f} dB" for name, value in bare.items()))
    context = get_context("spawn")  # a forked process would share torch's threads
    with ProcessPoolExecutor(min(workers, len(cases)), mp_context=context) as pool:
        jobs = {
            pool.submit(attack_case, case, scene, experiment.split, steps, depths): case
            for case in cases
        }
        for done, job in enumerate(as_completed(jobs), 1):
            found.append(job.result())
            tell(f"transcript {done}/{len(cases)}: {jobs[job].name}")
    return sorted(found, key=lambda outcome: cases.index(outcome.case)), bare


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
                    "metric": metric,
                    "value": value,
                    "floor": statistics.fmean(floor),
                    "chance": band,
                    "n": len(floor),
                    "succeeds": bool(value > band) if metric == SUCCESS else None,
                    "client_psnr": outcome.psnr,
                }


def sheet(outcomes: list[Outcome]) -> Tensor:
    """A contact sheet: a row per design, the client's picture and every attacker's beside the
    truth."""
    rows = []
    names = ["truth", "client", *next(iter(outcomes)).scores]
    for outcome in outcomes:
        if outcome.case.null <= 1:
            blank = torch.ones_like(outcome.pictures["truth"])
            rows.append(torch.cat([outcome.pictures.get(name, blank) for name in names], 1))
    return torch.cat(rows, 0)
