"""Why meta-NSGD states no epsilon: floating-point noise gives away that there is something below
it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import privacy.meta_nsgd as meta_nsgd
from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import Pieces
from fedapp.config.recipes import read_recipe
from strategies.local.train import descend
from strategies.types import Broadcast

TRIES = 20  # with the client's own step, and as many without
NEIGHBOURS = 40  # float32 numbers on either side that the noise could have been


def impossible(delta: Tensor, model: Tensor, rate: float, deviation: float) -> int:
    """Coordinates of an update that no float32 noise alone can have given."""
    up = (-delta.double() / (rate * deviation)).float()
    down = up.clone()
    possible = torch.zeros(len(up), dtype=torch.bool)
    for _ in range(NEIGHBOURS):
        for noise in (up, down):
            possible |= ((model - rate * (deviation * noise)) - model) == delta
        up = torch.nextafter(up, torch.tensor(torch.inf))
        down = torch.nextafter(down, torch.tensor(-torch.inf))
    return int((~possible).sum())


def test_noise_of_ten_deviations_tells_present_from_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """sigma = 10 would be epsilon = 0.34 for a step, so that 40 guesses would mostly be coins."""
    changes: dict[str, Any] = {
        "methods": "meta-nsgd",
        "learner.outer-steps": 1,
        "learner.meta-nsgd.noise-multiplier": 10.0,
    }
    values = known_keys() | read_recipe("inversion") | changes
    experiment = Experiment.from_run_config(values)
    pieces = Pieces(experiment)
    learner = pieces.learner("meta-nsgd")
    model = pieces.task.init(0)
    data = [pieces.task.client_data(0)]
    clip: Callable[..., Tensor] = meta_nsgd.clip
    errors = 0
    for number in range(TRIES):
        for present in (False, True):
            monkeypatch.setattr(
                meta_nsgd, "clip", clip if present else lambda x, _: torch.zeros_like(x)
            )
            key = [("batches", 0, number + 1, 0)]
            received = Broadcast(model, {}, 1)
            local = descend(
                learner, pieces.task, pieces.rule, received, data, {}, key, experiment.learner
            )
            deviation = learner.clip * learner.noise_multiplier
            found = impossible(local.delta[0], model, learner.outer_rate, deviation)
            errors += (found > 0) != present
    with capsys.disabled():
        print(f"\nmeta-NSGD at sigma = 10: {errors} errors in {2 * TRIES} guesses")  # noqa: T201
    assert errors <= 4  # of coins more than 35 in a million would guess as well
