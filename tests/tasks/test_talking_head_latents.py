"""The one scale of residual latents, wherever they are made or decoded; windows of clips;
guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.settings import TalkingHeadSettings
from tasks.talking_head import metrics, people, pretrain
from tasks.talking_head import model as module
from tasks.talking_head.audio import BINS, TOKENS
from tasks.talking_head.backbone import Backbone
from tasks.talking_head.diffusion import noisy
from tasks.talking_head.encoding import Encoded, draw, encode
from tasks.talking_head.model import HeadModel
from tasks.talking_head.pretrain import Recipe

CPU = torch.device("cpu")
FRAMES = 4


def head_of(folder: Path, **settings: Any) -> HeadModel:
    return HeadModel(
        Backbone.load(folder), TalkingHeadSettings(rank=2, window=FRAMES, **settings), CPU
    )


@pytest.fixture
def someone() -> people.Person:
    return people.person(0, 1, "ordinary", 1, 1, FRAMES, 16)


# ---------------------------------------------------------------------- scale
def test_a_residual_times_its_scale_on_top_of_the_reference_is_the_latent(
    tiny_backbone: Path, someone: Any
) -> None:
    codec = Backbone.load(tiny_backbone).codec
    assert codec.residual_scale == 0.5, "a scale of 1 would show nothing"
    found = encode(someone, codec, CPU)
    torch.testing.assert_close(found.reference, codec.encode(someone.reference[None])[0])
    latent = found.residual[0] * 0.5 + found.reference
    torch.testing.assert_close(latent, codec.encode(someone.train[0].frames), rtol=1e-5, atol=1e-6)


def test_the_identity_term_looks_at_the_decoded_frame(
    tiny_backbone: Path, someone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the velocity that belongs to the truth all that is left of the loss is weight (1 - cos),
    of what the codec makes of the true frames and of the reference."""
    model = head_of(tiny_backbone, tdc=0.0, identity=0.5)
    codec = model.backbone.codec
    data = encode(someone, codec, CPU)
    batch = draw([data], [("test",)], 1, 1, FRAMES, FRAMES, model.alphas).batch(0, 0)
    low = torch.full_like(batch.steps, 100)
    assert model.alphas[100] > 0.5, "the term looks at hardly noised frames"
    noise = torch.randn(batch.sample.shape, generator=torch.Generator().manual_seed(0))
    sample, target = noisy(batch.residual[0], noise[0], model.alphas[low[0]])
    batch = batch._replace(sample=sample[None], target=target[None], steps=low)
    monkeypatch.setattr(model.backbone, "forward", lambda *_: target)
    params = model.adapters.start("shared")[None]
    pictures = [
        codec.decode(codec.encode(frames))
        for frames in (someone.train[0].frames, someone.reference[None])
    ]
    shown, wanted = (metrics.appearance_of_frames(picture) for picture in pictures)
    likeness = [metrics.similarity(row, wanted[0]) for row in shown]
    expected = 0.5 * (1 - sum(likeness) / FRAMES)
    assert expected > 1e-3, "the frames differ from the reference"
    assert float(model.loss(params, batch)) == pytest.approx(expected, rel=1e-3)


def test_generated_frames_are_decoded_at_the_scale(
    tiny_backbone: Path, someone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler that finds the true residuals gives what the codec makes of the true frames."""
    model = head_of(tiny_backbone)
    data = encode(someone, model.backbone.codec, CPU)
    monkeypatch.setattr(module, "sample", lambda *_: data.residual[0])
    video = model.generate(
        model.adapters.start("shared")[None], data.reference[None], data.mel[0][None]
    )
    true = model.backbone.codec.decode(model.backbone.codec.encode(someone.train[0].frames))
    torch.testing.assert_close(video[0], true, rtol=1e-4, atol=1e-5)


def test_pretraining_noises_residuals_of_unit_size(
    tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def watched(residual: Tensor, noise: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(residual)
        return noisy(residual, noise, alpha)

    monkeypatch.setattr(pretrain, "noisy", watched)
    recipe = Recipe(size=16, factor=4, channels=6, people=4, frames=4, steps=3, batch=32)
    found = pretrain.pretrain(recipe, start=Backbone.load(tiny_backbone))
    assert not 0.6 < found.codec.residual_scale < 1.6, (
        "latents that have this size anyway would show nothing"
    )
    assert float(torch.cat(seen).std()) == pytest.approx(1.0, abs=0.2)


# ---------------------------------------------------------------------- windows
def test_every_window_of_a_clip_is_drawn(someone: Any) -> None:
    """Windows of 3 in clips of 4 and of 6 frames start at 0..1 and at 0..3, the last one as
    well."""
    mel = tuple(torch.zeros(frames, TOKENS, BINS) for frames in (4, 6))
    data = Encoded(
        someone, torch.zeros(1, 1, 1), tuple(torch.zeros(len(m), 1, 1, 1) for m in mel), mel, ()
    )
    draws = draw([data], [("windows",)], 20, 2, 9, 3, torch.ones(10))
    clip, first, *_ = draws.picks[0]
    assert {which: sorted(set(first[clip == which].tolist())) for which in (0, 1)} == {
        0: [0, 1],
        1: [0, 1, 2, 3],
    }
    assert all(draws.batch(step, 0).sample.shape[1] == 9 for step in range(20)), (
        "no window is cut short"
    )


# ---------------------------------------------------------------------- guidance
@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 1), (3.0, 2), (0.0, 2)])
def test_guidance_goes_on_from_what_is_said_without_speech(
    tiny_backbone: Path, guidance: float, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 without speech and 7 with it: 2 + g (7 - 2)."""
    model = head_of(tiny_backbone, guidance=guidance)
    seen = []

    def forward(noisy: Tensor, reference: Tensor, mel: Tensor, *_: Any) -> Tensor:
        seen.append(mel)
        return torch.full_like(noisy, 2.0) + 5.0 * mel.mean()

    monkeypatch.setattr(model.backbone, "forward", forward)
    still = torch.zeros(2, 6, 4, 4)
    mel = torch.ones(2, TOKENS, BINS)
    steps = torch.tensor([3, 3])
    found = model._guided(still, steps, still, mel, 2)
    torch.testing.assert_close(found, torch.full_like(still, 2 + guidance * (7 - 2)))
    assert len(seen) == passes
