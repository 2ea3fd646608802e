"""Scores of a talking head for unseen clients: their units, controls, and how a personal
adapter is fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.data.recordings.clips import Clip
from tasks.settings import EvaluationSettings
from tasks.talking_head import evaluation, metrics
from tasks.talking_head.audio import BINS, TOKENS
from tasks.talking_head.encoding import Encoded
from tasks.talking_head.judges import Judges
from tasks.talking_head.person import Person
from tasks.types import Episode

FRAMES = 6
SIZE = 8
# A picture of grey 0.8 - 0.2 opening has the trace 0.2 opening - 0.8: luminances add up to 1.
SLOPE = 0.2
BRIGHT = 0.8


def pictures(grey: Tensor) -> Tensor:
    """Plain grey pictures ``[T, H, W, 3]``."""
    return grey[:, None, None, None].expand(-1, SIZE, SIZE, 3).clone()


def someone(number: int) -> Encoded:
    """Somebody whose picture is nothing but grey, darker the wider the mouth is open; closed in the
    reference."""
    opening = torch.rand(FRAMES, generator=torch.Generator().manual_seed(number))
    clip = Clip("said", pictures(BRIGHT - SLOPE * opening), torch.zeros(0), opening)
    mel = torch.full((FRAMES, TOKENS, BINS), float(number))
    person = Person(f"person {number}", pictures(torch.tensor([BRIGHT]))[0], [clip], [clip])
    return Encoded(person, torch.zeros(1, 2, 2), (torch.zeros(FRAMES, 1, 2, 2),), (mel,), (mel,))


class Flat:
    """A codec that loses nothing."""

    @staticmethod
    def encode(frames: Tensor) -> Tensor:
        return frames

    decode = encode


MODEL: Any = SimpleNamespace(judges=Judges(), backbone=SimpleNamespace(codec=Flat()))


# ---------------------------------------------------------------------- units
def test_the_slope_of_the_mouth_is_what_its_trace_rises_by() -> None:
    """A trace of 0.2 opening + c, in one clip or spread over two, has the slope 0.2 whatever c
    is."""
    opening = torch.rand(12, generator=torch.Generator().manual_seed(0))
    for offset in (-0.8, 0.0, 3.0):
        trace = SLOPE * opening + offset
        assert metrics.mouth_slope([trace], [opening]) == pytest.approx(SLOPE, rel=1e-4)
        assert metrics.mouth_slope(trace.split(5), opening.split(5)) == pytest.approx(
            SLOPE, rel=1e-4
        )
    assert metrics.mouth_slope([trace, trace], [opening, None]) is None


def test_mouth_errors_are_in_units_from_closed_to_open() -> None:
    """Everywhere 0.05 too dark, of 0.2 between closed and open: a quarter of the way."""
    data = someone(0)
    video = data.person.held_out[0].frames - 0.05
    assert metrics.mouth_trace(data.person.reference[None]).item() == pytest.approx(
        -BRIGHT, rel=1e-5
    )
    row = evaluation._score_person(MODEL, data, [video])
    assert row["mouth_error"] == pytest.approx(0.05 / SLOPE, rel=1e-3)
    assert row["mouth_corr"] == pytest.approx(1.0, abs=1e-5) and row[
        "jitter_error"
    ] == pytest.approx(0.0, abs=1e-6)
    assert row["psnr"] == pytest.approx(-20 * math.log10(0.05), abs=1e-3)


def test_the_stability_of_a_video_is_relative_to_the_movement_of_the_true_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A video that misses all movement is wrong by all of it: 1 / (1 + 1); three times the
    movement, by twice: 1 / (1 + 2)."""
    cohort = [someone(number) for number in range(3)]
    true = [data.person.held_out[0].frames for data in cohort]
    videos = [[true[0][:1].expand_as(true[0])], [3 * true[1] - 1], [true[2]]]
    monkeypatch.setattr(evaluation, "_speak", lambda *_: videos)
    found = evaluation.reliability(MODEL, torch.zeros(3, 1), cohort)["stability"]
    assert found.tolist() == pytest.approx([1 / (1 + 1), 1 / (1 + 2), 1.0], abs=1e-4)


# ---------------------------------------------------------------------- controls
@pytest.mark.parametrize("count", [2, 3, 6])
def test_nobody_is_driven_by_their_own_voice_as_a_control(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each person speaks with as many other people's voices as there are, at most three, and no
    voice twice."""
    people = [someone(number) for number in range(count)]
    heard: list[list[int]] = []

    def speak(
        model: Any, params: Tensor, cohort: Sequence[Encoded], voices: Sequence[Sequence[Tensor]]
    ) -> Any:
        assert cohort is people
        heard.append([int(voice[0].mean()) for voice in voices])
        return [[people[whose].person.held_out[0].frames] for whose in heard[-1]]

    monkeypatch.setattr(evaluation, "_speak", speak)
    found = [[data.person.held_out[0].frames] for data in people]
    controls = evaluation._controls(MODEL, torch.zeros(count, 1), people, found)
    assert len(heard) == min(3, count - 1)
    for index in range(count):
        whose = [turn[index] for turn in heard]
        assert index not in whose and len(set(whose)) == len(whose)
    openings = [data.person.held_out[0].opening for data in people]
    corr = [
        metrics.correlation(openings[whose], openings[index])
        for turn in heard
        for index, whose in enumerate(turn)
    ]
    assert controls["mouth_corr_shuffled"] == pytest.approx(sum(corr) / len(corr), abs=1e-3)


def test_a_mouth_held_still_is_wrong_by_the_mean_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """In units from closed to open; the reference is closed."""
    people = [someone(number) for number in range(2)]
    found = [[data.person.held_out[0].frames] for data in people]
    monkeypatch.setattr(evaluation, "_speak", lambda *_: found)
    openings = [data.person.held_out[0].opening for data in people]
    expected = float(torch.cat(openings).mean())
    controls = evaluation._controls(MODEL, torch.zeros(2, 1), people, found)
    assert controls["mouth_error_static"] == pytest.approx(expected, rel=1e-3)


# ---------------------------------------------------------------------- personalisation
SHARED = 4
OWN = 3
LAST = 6


def test_personalising_moves_the_personal_adapter_alone_along_a_half_cosine() -> None:
    """Under a constant gradient Adam's steps are its sign times the step size, whatever the
    gradient's size: after k of K steps all numbers have moved by the sum of rate (1 + cos(pi j /
    K)) / 2."""
    draw = torch.Generator().manual_seed(0)
    rate = 0.1
    people = [SimpleNamespace(name=str(n)) for n in range(2)]
    start, gradient = (
        torch.randn(2, SHARED + OWN, generator=draw, dtype=torch.float64) for _ in range(2)
    )
    task: Any = SimpleNamespace(
        layout=SimpleNamespace(size=SHARED),
        episodes=lambda *_: lambda step: Episode([], None),
        gradient=lambda point, batch: (None, gradient.clone()),
    )
    settings = EvaluationSettings(rate=rate, clip=0.0)
    steps = [0, 1, 3, LAST]
    found = dict(evaluation._personalised(task, start.clone(), people, steps, settings))
    assert list(found) == steps
    for step, point in found.items():
        assert torch.equal(point[:, :SHARED], start[:, :SHARED]), (
            "what everybody shares does not move"
        )
        moved = sum(rate * (1 + math.cos(math.pi * j / LAST)) / 2 for j in range(step))
        expected = start[:, SHARED:] - moved * gradient[:, SHARED:].sign()
        torch.testing.assert_close(point[:, SHARED:], expected, rtol=1e-6, atol=1e-6)
