"""Parametric people: faces, voices, and how speech becomes tokens."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.data.recordings.clips import RATE, SAMPLES_PER_FRAME, is_silent
from tasks.talking_head import metrics, people
from tasks.talking_head.audio import BINS, HOP, TOKENS, log_mel, mel_filters, tokens


def test_a_person_is_the_same_everywhere() -> None:
    one, two = (people.person(0, 3, "ordinary", 1, 1, 4, 32) for _ in range(2))
    assert torch.equal(one.reference, two.reference) and torch.equal(
        one.held_out[0].audio, two.held_out[0].audio
    )
    other = people.person(0, 4, "ordinary", 1, 1, 4, 32)
    assert (one.reference - other.reference).abs().mean() > 0.02


def test_the_reference_is_in_no_clip() -> None:
    who = people.person(0, 1, "ordinary", 2, 1, 6, 32)
    assert all(
        (clip.frames - who.reference).abs().amax((1, 2, 3)).min() > 0.01
        for clip in (*who.train, *who.held_out)
    )


def test_the_mouth_follows_the_voice_and_style_scales_it() -> None:
    ordinary, reserved = (people.identity(0, 7, style) for style in people.STYLES)
    assert reserved.gain == pytest.approx(people.RESERVED_GAIN * ordinary.gain)
    wide, small_ = (people.clip_of(who, "c", 50, 64, "same words") for who in (ordinary, reserved))
    assert torch.equal(wide.audio, small_.audio), "the same sound"
    assert torch.allclose(small_.opening, people.RESERVED_GAIN * wide.opening, atol=1e-6)
    loudness = wide.audio.view(-1, SAMPLES_PER_FRAME).square().mean(1).sqrt()
    assert metrics.correlation(loudness, wide.opening) > 0.6
    assert metrics.correlation(metrics.mouth_trace(wide.frames), wide.opening) > 0.97


def test_private_lips_lead_by_twenty_milliseconds() -> None:
    dubbed = people.identity(0, 7, "ordinary", lead=0.0)
    private = people.identity(0, 7, "ordinary")
    _, envelope = people.speech(private, 2.02, "words")
    early, late = (people.clip_of(who, "c", 50, 8, "words").opening for who in (private, dubbed))
    middle = torch.arange(50) * SAMPLES_PER_FRAME + SAMPLES_PER_FRAME // 2
    assert torch.allclose(early, private.gain * envelope[middle + 320] ** private.power, atol=1e-6)
    assert not torch.allclose(early, late, atol=1e-2)


# ---------------------------------------------------------------------- sound
def test_a_tone_is_heard_in_its_mel_bin() -> None:
    frequency = 1000.0
    audio = 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(RATE) / RATE)
    mel = 2595 * math.log10(1 + frequency / 700)
    step = 2595 * math.log10(1 + 8000 / 700) / (BINS + 1)
    assert log_mel(audio)[50].argmax() == round(mel / step) - 1
    assert mel_filters().max() <= 1 and (mel_filters().sum(0) > 0).all()


@pytest.mark.parametrize("frame", [0, 3, 9])
def test_the_window_of_a_frame_is_centred_on_it(frame: int) -> None:
    """A click in the middle of a frame is loudest in the two middle tokens of that frame, and
    nowhere in far ones."""
    audio = torch.zeros(10 * SAMPLES_PER_FRAME)
    audio[frame * SAMPLES_PER_FRAME + SAMPLES_PER_FRAME // 2] = 1.0
    found = tokens(audio, 10)
    assert found.shape == (10, TOKENS, BINS)
    assert found[frame].sum(1).argmax() == TOKENS // 2
    reach = TOKENS // 2 * HOP // SAMPLES_PER_FRAME + 1
    for other in range(10):
        if abs(other - frame) > reach:
            assert torch.allclose(found[other], found[other][0, 0])


def test_silence_is_named() -> None:
    assert (
        is_silent(torch.zeros(100))
        and is_silent(torch.empty(0))
        and not is_silent(torch.full((100,), 0.01))
    )
