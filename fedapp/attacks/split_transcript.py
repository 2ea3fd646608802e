"""Transcripts of split learning: one training of one scene, as an attacker sees it.

A transcript is a training by the halves that nodes and server use, with the messages' own formats.
On a *null* transcript everything is as before but the gradients, which are noise of the same row
norms (of a sealed table: shares that nobody made from anything).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedapp.config.designs import DESIGNS, sealed_rate
from privacy.attacks.split import Attacker, Score, Step, View
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
from tasks.randomness import seed_of
from tasks.settings import SplitSettings
from tasks.split_nerf.grids import Grid
from tasks.split_nerf.halves import ClientHalf, Division, Places, ServerHalf
from tasks.split_nerf.scene import Scene, scene_seed

LIMIT = 8.0  # of features in a training on noise


@dataclass(frozen=True)
class Case:
    """One transcript to attack.

    Attributes:
        name: of the row.
        design: method.
        batches: K.
        sees: ``server`` (of a sealed table: the first holder), ``peer`` (the second one) or
            ``both`` (holders that pool what they have).
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
            return self.name if self.sees == "rows" else "plain"
        return f"sealed, {self.sees}"


class Outcome(NamedTuple):
    """Scores of one transcript's attackers, and what the client itself reached."""

    case: Case
    psnr: float
    scores: dict[str, Score]
    pictures: dict[str, Tensor]  # of the first scored view [H, W, 3]
    signs: dict[str, float]  # share of a level's secret signs that was found, where there are any


def order_of(count: int, null: int, number: int) -> Tensor:
    """A permutation for one step of a null transcript."""
    stream = torch.Generator().manual_seed(seed_of("null", null, number))
    return torch.randperm(count, generator=stream)


def noise_like(gradient: Tensor, null: int, number: int) -> Tensor:
    """Noise with the gradient's row norms in another order, ``[N, W]``."""
    stream = torch.Generator().manual_seed(seed_of("null noise", null, number))
    noise = torch.randn(gradient.shape, generator=stream)
    norms = gradient.norm(dim=1)[order_of(len(gradient), null, number)]
    return noise / noise.norm(dim=1, keepdim=True) * norms[:, None]


class Recording:
    """One training of one scene, as its server sees it."""

    def __init__(self, case: Case, scene: Scene, settings: SplitSettings, steps: int) -> None:
        self.case = case
        self.scene = scene
        self.design = DESIGNS[case.design]
        settings = settings.model_copy(update={"batches": case.batches})
        self.division: Division = self.design.division(settings, steps)
        self.defence: GradientDefence = self.design.defence(settings)
        # the same for every design: what differs between rows is the design
        self.secret = NodeSecret.simulated("attack", case.null)
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
        if self.case.sees == "both":
            return whole, whole
        own = shares[1 if self.case.sees == "peer" else 0]
        return whole, own.double().div(2**31).float()

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
                gradient = noise_like(gradient, self.case.null, number)
            gradient = widen(narrow(gradient[None]))[0]
            return gradient, gradient
        if self.case.null:  # a training on noise may leave the range of numbers
            gradient = gradient.nan_to_num(0, 0, 0)
        whole = self.scaler.encode(gradient, division.fade(number))
        if self.case.null:
            order = order_of(whole.numel(), self.case.null, number)
            whole = whole.flatten()[order].view(whole.shape)
        mask = expand(self.secret.bytes("share", number)[:16], whole.numel()).view(whole.shape)
        shares = (whole - mask, mask)
        if self.case.sees == "both":
            return shares, from_ring(whole, GRADIENT_BITS)
        own = shares[1 if self.case.sees == "peer" else 0]
        return shares, own.double().div(2.0**63).float()

    def _learn(self, number: int, places: Places, gradient: Any) -> None:
        if self.holders is None:
            self.half.learn(places, gradient, number)
            return
        for holder, share in zip(self.holders, gradient, strict=True):
            holder.learn(places.visits, share)

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
