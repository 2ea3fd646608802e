"""Keys that stay the same over a training are found; keys used once are not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fedapp.attacks.split import attack_case, cases_of, study
from fedapp.attacks.split_parts import Parts
from fedapp.attacks.split_signs import NAME
from fedapp.attacks.split_transcript import Case, Outcome
from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import read_recipe
from fedapp.store.kept import finite
from privacy.attacks.split import Score
from privacy.attacks.split_signs import SignSynchronisation, neighbours
from tasks.errors import InputError
from tasks.split_nerf.grids import Grid

GRID = Grid((4, 6), 3)


def watched(steps: int, once: bool) -> tuple[SignSynchronisation, torch.Tensor]:
    """A watcher of smooth gradients at random points, signs kept or drawn anew for every step."""
    stream = torch.Generator().manual_seed(0)
    watcher = SignSynchronisation(GRID)
    signs = torch.randint(0, 2, (GRID.rows,), generator=stream).float() * 2 - 1
    for _ in range(steps):
        points = torch.rand(400, 3, generator=stream)
        gradient = torch.randn(400, GRID.width, generator=stream)
        rows = GRID.pull_back(gradient, GRID.visit(points))
        kept = signs
        if once:
            kept = torch.randint(0, 2, (GRID.rows,), generator=stream).float() * 2 - 1
        watcher.see(rows * kept[:, None])
    return watcher, signs


def test_signs_that_stay_are_found_and_signs_used_once_are_not() -> None:
    watcher, signs = watched(40, once=False)
    assert min(watcher.agreement(signs)) > 0.98
    watcher, signs = watched(40, once=True)
    assert max(watcher.agreement(signs)) < 0.7


def test_neighbours_are_one_cell_apart() -> None:
    one, other = neighbours(Grid((2,), 1))
    assert len(one) == 3 * 2 * 3 * 3
    corner = torch.stack([torch.arange(27) // 9, torch.arange(27) // 3 % 3, torch.arange(27) % 3])
    apart = (corner[:, other] - corner[:, one]).abs().sum(0)
    assert bool((apart == 1).all())
    with pytest.raises(ValueError, match="hashed"):
        neighbours(Grid((8,), 1, hashed=16))


def test_the_recovered_table_shows_the_scene() -> None:
    from tests.privacy.test_split_attacks import SETTINGS, STEPS, scene

    found = attack_case(
        Case(NAME, "split", 1, "rows"), scene(), SETTINGS, STEPS, torch.rand(3, 20, 20)
    )
    assert min(found.signs.values()) > 0.9
    before = found.scores["one leaked picture, signs unknown"]
    after = found.scores["one leaked picture, signs synchronised"]
    assert after.edge > before.edge + 0.15


def test_the_study_has_every_view_of_a_sealed_table_and_its_nulls() -> None:
    values = known_keys() | read_recipe("split-nerf")
    cases = cases_of(Experiment.from_run_config(values))
    real = {case.kind for case in cases if not case.null}
    assert real == {"plain", "sealed, server", "sealed, peer", "sealed, both", NAME}
    for kind in real:
        assert sum(1 for case in cases if case.null and case.kind == kind) >= 5
    assert {case.batches for case in cases if case.kind == "sealed, server" and case.null} == {
        1, 4, 16
    }  # fmt: skip
    hashed = cases_of(Experiment.from_run_config(values | {"split.hashed": 4096}))
    assert NAME not in {case.kind for case in hashed}


def test_a_study_that_was_cut_goes_on_and_numbers_that_are_none_are_told(tmp_path: Path) -> None:
    """An outcome reads back as it was written, under the same configuration and steps only."""
    experiment = Experiment.from_run_config(known_keys() | read_recipe("split-nerf"))
    parts = Parts(tmp_path, experiment, 50)
    case = Case("split, K = 1", "split", 1)
    picture = torch.rand(4, 4, 3)
    outcome = Outcome(case, math.nan, {"a": Score(10, 0.5, 0.25, 0.125)}, {"a": picture}, {"8": 1})
    assert parts.read(case) is None
    parts.write(outcome)
    again = parts.read(case)
    assert again is not None and math.isnan(again.psnr) and again.scores == outcome.scores
    assert torch.equal(again.pictures["a"], picture) and again.signs == {"8": 1}
    assert Parts(tmp_path, experiment, 51).read(case) is None
    assert parts.read(Case("split, K = 1", "split", 1, null=1)) is None
    assert finite({"a": [math.nan, 1.0], "b": math.inf}) == {"a": [None, 1.0], "b": None}


def test_scenes_on_devices_are_not_attacked_in_the_place_of_another() -> None:
    values = known_keys() | read_recipe("split-nerf") | {"data.hosted": "none"}
    with pytest.raises(InputError, match="lie on devices"):
        study(Experiment.from_run_config(values), print)
