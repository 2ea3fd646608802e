"""The terms of the talking head's loss, judges, and metrics that a still picture must not win."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from head_kit import batch_of, model_of, moved

from tasks.errors import InputError
from tasks.talking_head import metrics, people
from tasks.talking_head.audio import BINS, TOKENS
from tasks.talking_head.judges import Judges


def test_each_term_of_the_loss_can_be_switched(
    tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    losses = {}
    for name, change in {"none": {}, "tdc": {"tdc": 0.5}, "identity": {"identity": 0.5}}.items():
        model = model_of(tiny_backbone, **settings | {"tdc": 0.0} | change)
        batch = batch_of(model, 2)._replace(steps=torch.full((2, 4), 100))
        losses[name] = model.gradient(moved(model, 2), batch)[0]
    assert (losses["tdc"] > losses["none"]).all() and (losses["identity"] > losses["none"]).all()


def test_identity_is_not_asked_of_noise(tiny_backbone: Path, settings: dict[str, Any]) -> None:
    both = [
        model_of(tiny_backbone, **settings | {"tdc": 0.0, "identity": weight})
        for weight in (0.0, 9.0)
    ]
    batch = batch_of(both[0], 1)._replace(steps=torch.full((1, 4), 900))
    assert torch.equal(*(model.gradient(moved(model, 1), batch)[0] for model in both))


class Distance(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean(dim=[1, 2, 3])


class Means(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=[2, 3])


class Loud(torch.nn.Module):
    def forward(self, x: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        return x.mean() + mel.mean()


def test_judges_are_used_where_given_and_absent_scores_are_none(tmp_path: Path) -> None:
    files = {}
    for name, module in {
        "lpips": Distance(),
        "features": Means(),
        "face": Means(),
        "sync": Loud(),
    }.items():
        files[name] = str(tmp_path / f"{name}.pt")
        torch.jit.script(module).save(files[name])
    judges = Judges.of(json.dumps(files))
    nobody = Judges.of("{}")
    a, b = torch.rand(9, 8, 8, 3), torch.rand(9, 8, 8, 3)
    scores = judges.scores(a, b, torch.zeros(9, TOKENS, BINS), a[0])
    assert scores["lpips"] == pytest.approx(float(2 * (a - b).abs().mean()), rel=1e-5)
    assert scores["sync_confidence"] == pytest.approx(float((a * 2 - 1).mean()), abs=1e-6)
    assert nobody.scores(a, b, torch.zeros(9, TOKENS, BINS), a[0]) == dict.fromkeys(scores)
    shifted = judges.frechet(a, a + 0.25)
    assert judges.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert shifted == pytest.approx(3 * 0.5**2, rel=1e-3), (
        "three features move by 2 x 0.25 in [-1, 1]"
    )
    assert nobody.frechet(a, b) is None and judges.frechet(a[:3], b[:3]) is None


def test_a_wrong_judge_is_one_named_error(
    tmp_path: Path, tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    (tmp_path / "not.pt").write_text("no network", encoding="utf-8")
    for text in ('{"lpipps": "x"}', json.dumps({"lpips": str(tmp_path / "not.pt")})):
        with pytest.raises(InputError, match=r"talking-head\.judges"):
            Judges.of(text)
    with pytest.raises(InputError, match=r"talking-head\.perceptual"):
        model_of(tiny_backbone, **settings, perceptual=0.1)


def test_still_pictures_win_nothing() -> None:
    video = people.person(0, 2, "ordinary", 1, 0, 12, 32).train[0].frames
    still = video[:1].expand(12, -1, -1, -1)
    assert metrics.jitter(still) == 0 < metrics.jitter(video)
    assert metrics.correlation(metrics.mouth_trace(still), metrics.mouth_trace(video)) is None


def test_the_appearance_of_a_person_is_nearest_to_their_own_reference() -> None:
    cohort = [people.person(0, n, "ordinary", 1, 0, 4, 32) for n in range(12)]
    gallery = torch.stack([metrics.appearance(who.reference[None]) for who in cohort])
    assert [
        metrics.nearest(metrics.appearance(who.train[0].frames), gallery) for who in cohort
    ] == list(range(12))
