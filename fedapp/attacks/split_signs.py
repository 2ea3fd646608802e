"""A control of the study: a table hidden by secret signs that stay the same, and what becomes of
it. No design of ours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedapp.attacks.split_transcript import Case, noise_like
from privacy.attacks.split import OneImage, Probe, Score, View, best
from privacy.attacks.split_signs import SignSynchronisation
from privacy.node_secret import NodeSecret
from tasks.metrics import psnr
from tasks.settings import SplitSettings
from tasks.split_nerf.grids import Grid
from tasks.split_nerf.halves import ClientHalf, Division, ServerHalf
from tasks.split_nerf.scene import Scene, scene_seed

NAME = "secret signs on rows (control)"


class Signed(NamedTuple):
    """What the training under secret signs came to."""

    half: ServerHalf  # its table without the signs
    client: ClientHalf
    signs: Tensor
    watcher: SignSynchronisation


def train(case: Case, scene: Scene, settings: SplitSettings, steps: int) -> Signed:
    """Train a field whose table the client keeps signed, showing a watcher every gradient. The
    table is kept without signs here: Adam commutes with them, so the server's is this one times
    the signs."""
    division = Division.of(settings, steps, cut="features")
    grid = division.encoder
    assert isinstance(grid, Grid)
    secret = NodeSecret.simulated("attack", NAME, case.null)
    half = ServerHalf(division, (0, 0))
    client = ClientHalf(division, secret.uniform("head"))
    signs = (secret.uniform("signs")(grid.rows) > 0.5).float() * 2 - 1
    watcher = SignSynchronisation(grid)
    geometry, seed = scene.geometry, scene_seed(0, 0)
    for number in range(steps):
        places = division.places(geometry, seed, number)
        targets = scene.colours[geometry.batch(seed, number, division.rays)]
        crossing = half.embed(places)
        _, gradient = client.step(places.samples, crossing, targets, geometry.background, number)
        if case.null:
            gradient = noise_like(gradient, case.null, number)
        onto = grid.pull_back(gradient, places.visits) * signs[:, None]
        watcher.see(onto)
        half.table.step(onto * signs[:, None], division.rate_at(number))
    return Signed(half, client, signs, watcher)


def attack_signs(
    case: Case, scene: Scene, settings: SplitSettings, steps: int, depths: Tensor
) -> tuple[float, dict[str, Score], dict[str, Tensor], dict[str, float]]:
    """(client's PSNR, scores and pictures of attackers, share of signs found per level)."""
    geometry, shape = scene.geometry, (scene.geometry.height, scene.geometry.width)
    half, client, signs, watcher = train(case, scene, settings, steps)
    division = client.division
    truths = scene.images[geometry.train :]
    found = watcher.signs()

    def views(factors: Tensor) -> list[View]:
        """What crosses for the held-out views under the table times ``factors [R]``."""
        told = []
        for view in range(geometry.train, len(geometry.poses)):
            samples = geometry.march(geometry.of_view(view), division.samples)
            visits = division.encoder.visit(samples.points)
            table = half.table.params * factors[:, None]
            told.append(View(samples, division.encoder.read(table, visits)))
        return told

    own = views(torch.ones_like(signs))
    shown = [
        client.render(view.samples, view.crossing, geometry.background)[0].view(*shape, 3)
        for view in own
    ]
    reached = sum(map(psnr, shown, truths)) / len(truths)
    scores, pictures = {}, {"client": shown[1], "truth": truths[1]}
    for name, factors in (
        ("one leaked picture, signs unknown", signs),
        ("one leaked picture, signs synchronised", signs * found),
    ):
        seen = views(factors)
        attacker = OneImage(division, geometry)
        attacker.fit(seen[0], truths[0].reshape(-1, 3))
        guess, scores[name] = best(attacker.guesses(seen[1:]), truths[1:], depths[1:])
        pictures[name] = guess.pictures[0].view(*shape, 3).clamp(0, 1).nan_to_num()
    probe = Probe(division, geometry)
    seen = views(signs * found)
    name = "feature probe, signs synchronised"
    guess, scores[name] = best(probe.guesses(seen[1:]), truths[1:], depths[1:])
    pictures[name] = guess.pictures[0].view(*shape, 3).clamp(0, 1).nan_to_num()
    return (
        reached,
        scores,
        pictures,
        dict(zip(map(str, settings.cells.split(",")), watcher.agreement(signs), strict=True)),
    )
