"""The parts of a talking head: people, sound, codec, diffusion, adapters, judges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sim.bench.talking_head import Problem, agree, small
from tasks.data.recordings.clips import RATE, SAMPLES_PER_FRAME, is_silent
from tasks.errors import InputError
from tasks.settings import TalkingHeadSettings
from tasks.talking_head import metrics, people
from tasks.talking_head.adapters import PERSONAL, SHARED, Adapters, Grouped
from tasks.talking_head.audio import BINS, HOP, TOKENS, log_mel, mel_filters, tokens
from tasks.talking_head.backbone import Backbone, fresh
from tasks.talking_head.codec import Codec, KLCodec, PatchPCA
from tasks.talking_head.diffusion import (
    clean,
    denoising,
    noisy,
    sample,
    schedule,
    start_noise,
    temporal_consistency,
)
from tasks.talking_head.encoding import draw, encode
from tasks.talking_head.model import HeadModel, Noised

CPU = torch.device("cpu")


# ---------------------------------------------------------------------- people
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


# ---------------------------------------------------------------------- codec
def test_all_components_are_lossless_and_fewer_lose_little() -> None:
    pictures = torch.cat(
        [people.person(5, n, "ordinary", 1, 0, 8, 32).train[0].frames for n in range(12)]
    )
    whole, part = (PatchPCA.fit(pictures, 4, channels) for channels in (48, 12))
    assert isinstance(whole, Codec)
    assert torch.allclose(whole.decode(whole.encode(pictures)), pictures, atol=1e-4)
    error = (part.decode(part.encode(pictures)) - pictures).square().mean()
    assert -10 * math.log10(error) > 30 and part.encode(pictures).shape == (96, 12, 8, 8)
    with pytest.raises(ValueError, match="patches cannot give"):
        PatchPCA.fit(pictures[:1, :4, :8], 4, 12)


# ---------------------------------------------------------------------- diffusion
def test_velocity_is_its_definition_and_gives_the_clean_sample_back() -> None:
    residual, noise = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    alpha = torch.tensor([1.0, 0.9, 0.5, 0.1, 0.0])
    x, v = noisy(residual, noise, alpha)
    a, b = alpha.sqrt().view(-1, 1, 1, 1), (1 - alpha).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(x, a * residual + b * noise) and torch.allclose(
        v, a * noise - b * residual
    )
    assert torch.allclose(clean(x, v, alpha), residual, atol=1e-6)


def test_the_schedule_ends_in_pure_noise() -> None:
    alphas = schedule()
    assert (
        alphas[-1] == pytest.approx(0.0, abs=1e-6)
        and alphas[0] > 0.999
        and (alphas.diff() < 0).all()
    )


@given(st.floats(0.17, 0.999))
def test_tdc_in_clean_space_is_the_published_one_in_noise_space(alpha: float) -> None:
    """mean |d eps_hat - d eps| for the noise that belongs to r_hat, at SNR below the ceiling of
    5."""
    alphas = torch.tensor([min(alpha, 5 / 6)])
    r, eps, r_hat = (
        torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    a, b = alphas.sqrt(), (1 - alphas).sqrt()
    eps_hat = (a * r + b * eps - a * r_hat) / b
    published = (eps_hat.diff(dim=1) - eps.diff(dim=1)).abs().mean()
    assert float(temporal_consistency(r_hat, r, alphas)) == pytest.approx(
        float(published), rel=1e-4
    )


def test_tdc_of_one_frame_is_zero_and_of_a_constant_shift_too() -> None:
    r, alpha = torch.randn(1, 4, 2, 3, 3), torch.tensor([0.5])
    assert temporal_consistency(r[:, :1], r[:, :1] + 1, alpha) == 0
    assert float(temporal_consistency(r + 0.7, r, alpha)) == pytest.approx(0, abs=1e-6)
    assert temporal_consistency(torch.randn_like(r), r, alpha) > 0.1


def test_min_snr_weights() -> None:
    alpha = torch.tensor([0.99, 0.5])
    error = denoising(torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), alpha, 5.0)
    snr = [99.0, 1.0]
    assert error.tolist() == pytest.approx([min(s, 5) / (s + 1) for s in snr], rel=1e-4)


def test_a_perfect_denoiser_is_sampled_exactly() -> None:
    alphas, truth = schedule(), torch.randn(2, 3, 4, 4)

    def predict(x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        a, b = alphas[step].sqrt().view(-1, 1, 1, 1), (1 - alphas[step]).sqrt().view(-1, 1, 1, 1)
        return (a * x - truth) / b  # the velocity whose clean sample is the truth

    assert torch.allclose(sample(predict, torch.randn(2, 3, 4, 4), alphas, 4), truth, atol=1e-3)


def test_initial_noise_is_shared_as_much_as_asked() -> None:
    draws = start_noise(2, (50_000,), 0.25, 1.0, torch.Generator().manual_seed(0))
    assert float((draws[0] * draws[1]).mean()) == pytest.approx(0.25, abs=0.02)
    assert float(draws.var()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(*start_noise(2, (9,), 1.0, 1.0, torch.Generator().manual_seed(0)))


# ---------------------------------------------------------------------- adapters
@pytest.fixture
def settings() -> dict[str, Any]:
    return {"rank": 2, "alpha": 4, "window": 2, "sampling_steps": 1, "tdc": 0.05}


def model_of(folder: Path, **settings: Any) -> HeadModel:
    return HeadModel(Backbone.load(folder), TalkingHeadSettings(**settings), CPU)


def batch_of(model: HeadModel, clients: int, frames: int = 4) -> Noised:
    cohort = [
        encode(people.person(0, n, "ordinary", 2, 1, 4, 16), model.backbone.codec, CPU)
        for n in range(clients)
    ]
    keys = [("test", n) for n in range(clients)]
    return draw(cohort, keys, 1, 1, frames, model.settings.window, model.alphas).batch(0, 0)


def moved(model: HeadModel, clients: int, both: bool) -> torch.Tensor:
    start = torch.cat(
        [model.adapters.start(SHARED), model.adapters.start(PERSONAL)]
        if both
        else [model.adapters.start(SHARED)]
    )
    generator = torch.Generator().manual_seed(1)
    return start + 0.3 * torch.randn(clients, len(start), generator=generator)


def test_our_gradient_is_that_of_a_plain_peft_loop() -> None:
    agree(Problem(small, 1, frames=2))


@pytest.mark.parametrize("both", [False, True])
def test_a_cohort_is_its_clients_one_by_one(
    tiny_backbone: Path, settings: dict[str, Any], both: bool
) -> None:
    model = model_of(tiny_backbone, **settings)
    params, batch = moved(model, 3, both), batch_of(model, 3)
    loss, gradient = model.gradient(params, batch)
    for client in range(3):
        alone = Noised(*(tensor[client : client + 1] for tensor in batch))
        one, slope = model.gradient(params[client : client + 1], alone)
        assert float(one) == pytest.approx(float(loss[client]), rel=1e-4)
        assert torch.allclose(
            slope[0], gradient[client], atol=1e-5 + 1e-3 * float(slope.abs().max())
        )


def test_fresh_adapters_change_nothing_and_moved_ones_do(
    tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    bare, model = Backbone.load(tiny_backbone), model_of(tiny_backbone, **settings)
    batch = batch_of(model, 1)
    inputs = [tensor[0] for tensor in (batch.sample, batch.reference, batch.mel, batch.steps)]
    start = torch.cat([model.adapters.start(SHARED), model.adapters.start(PERSONAL)])
    with torch.no_grad():
        expected = bare(*inputs)
        with model.adapters.worn(*model._split(start[None])):
            assert torch.allclose(model.backbone(*inputs), expected, atol=1e-6)
        with model.adapters.worn(*model._split(moved(model, 1, True))):
            assert not torch.allclose(model.backbone(*inputs), expected, atol=1e-3)


def test_checkpointing_gives_the_same_gradient(
    tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    plain = model_of(tiny_backbone, **settings)
    frugal = model_of(tiny_backbone, **settings, checkpointing=True)
    params, batch = moved(plain, 2, True), batch_of(plain, 2)
    assert torch.allclose(
        plain.gradient(params, batch)[1], frugal.gradient(params, batch)[1], atol=1e-6
    )


def test_half_precision_is_close(tiny_backbone: Path, settings: dict[str, Any]) -> None:
    full, half = (
        model_of(tiny_backbone, **settings),
        model_of(tiny_backbone, **settings, precision="bfloat16"),
    )
    params, batch = moved(full, 2, False), batch_of(full, 2)
    a, b = full.gradient(params, batch)[1], half.gradient(params, batch)[1]
    assert 0 < float((a - b).norm() / a.norm()) < 0.1


def test_second_derivatives_are_those_of_the_gradient(
    tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    model = model_of(tiny_backbone, **settings | {"tdc": 0.0})
    params, batch = moved(model, 1, False), batch_of(model, 1)
    direction = torch.randn_like(params) / 30
    product = model.linearise(params, batch).hvp(direction)
    step = 0.05
    slope = (
        model.gradient(params + step * direction, batch)[1]
        - model.gradient(params - step * direction, batch)[1]
    ) / (2 * step)
    assert float((product - slope).norm() / slope.norm()) < 0.05


def test_averaging_one_factor_is_exact_and_two_are_not(
    tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    """Relative to the round's change: a far larger adapter from earlier rounds makes the error no
    smaller."""
    for mode, exact in (("ffa", True), ("ab", False)):
        adapters = Adapters(Backbone.load(tiny_backbone), 2, 4, mode, 0)
        draw, weights = torch.Generator().manual_seed(0), torch.tensor([1.0, 2.0, 3.0])
        updates = torch.randn(3, adapters.shared.size, generator=draw)
        start = adapters.start(SHARED)
        error = adapters.aggregation_error(start, updates, weights)
        assert error < 1e-5 if exact else error > 0.1
        later = start + 3 * torch.randn(adapters.shared.size, generator=draw)
        found, share = adapters.aggregation_error(later, updates, weights), weights / weights.sum()
        mean = adapters.products((later + updates).mul(share[:, None]).sum(0, keepdim=True))
        wrong = change = 0.0
        for layer, each in adapters.products(later + updates).items():
            true = sum(w * product for w, product in zip(share, each, strict=True))
            wrong += float((mean[layer][0] - true).square().sum())
            change += float((true - adapters.products(later[None])[layer][0]).square().sum())
        assert found == pytest.approx((wrong / change) ** 0.5, rel=1e-4, abs=1e-6)


def test_alternating_moves_one_factor_a_round(tiny_backbone: Path) -> None:
    adapters = Adapters(Backbone.load(tiny_backbone), 2, 2, "alternating", 0)
    odd, even = adapters.resting(1), adapters.resting(2)
    assert odd is not None and even is not None and torch.equal(odd, ~even)
    names = adapters.shared.unflatten(odd)
    assert all(
        bool(rests.all()) == ("lora_A" in key) and bool(rests.any()) == ("lora_A" in key)
        for key, rests in names.items()
    )
    assert Adapters(Backbone.load(tiny_backbone), 2, 2, "ffa", 0).resting(1) is None


def test_common_factors_come_from_the_seed(tiny_backbone: Path) -> None:
    one, same, other = (
        Adapters(Backbone.load(tiny_backbone), 2, 2, "ab", seed).start(SHARED) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_grouped_rows_belong_to_clients() -> None:
    weight, rows, total = torch.randn(3, 5, 4), torch.randn(6, 4), torch.randn(6, 5)
    found, added = Grouped(weight)(rows), Grouped(weight).add_to(total.clone(), rows, 0.5)
    for row in range(6):
        assert torch.allclose(found[row], rows[row] @ weight[row // 2].T, atol=1e-6)
        assert torch.allclose(
            added[row], total[row] + 0.5 * rows[row] @ weight[row // 2].T, atol=1e-6
        )


def test_our_forward_is_the_one_of_peft(tiny_backbone: Path) -> None:
    """Both adapters worn, alpha unlike r, B not 0: the layer with PEFT's own forward gives the same
    rows."""
    adapters = Adapters(Backbone.load(tiny_backbone), 2, 6, "ffa", 0)
    shared, personal = (
        torch.randn(1, layout.size) for layout in (adapters.shared, adapters.personal)
    )
    with adapters.worn(shared, personal):
        for layer in adapters._layers:
            rows = torch.randn(2, 3, layer.in_features)
            flat = rows.flatten(0, 1)
            theirs = type(layer).forward(layer, flat)
            assert layer.scaling[SHARED] == 3 and not torch.allclose(
                theirs, layer.base_layer(flat), atol=1e-3
            )
            assert torch.allclose(layer(rows).flatten(0, 1), theirs, atol=1e-5)


# ---------------------------------------------------------------------- backbones on disk
def test_weights_have_one_digest_with_and_without_adapters(tiny_backbone: Path) -> None:
    backbone = Backbone.load(tiny_backbone)
    before = backbone.digest
    Adapters(backbone, 2, 2, "ffa", 0)
    assert backbone.digest == before == Backbone.load(tiny_backbone).digest
    with pytest.raises(ValueError, match="adapters are in"):
        backbone.save(tiny_backbone.with_name("never"))
    with torch.no_grad():
        next(iter(backbone.hearing.parameters())).add_(1e-3)
    assert backbone.digest != before


def save_sd(folder: Path, channels: int) -> None:
    """A tiny model in the layout of Stable Diffusion's repositories."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    UNet2DConditionModel(
        in_channels=channels, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=24, attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, norm_num_groups=8, latent_channels=4,
    ).save_pretrained(folder / "vae")  # fmt: skip


def test_stable_diffusion_weights_are_adopted_and_draw_as_before(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    from diffusers import UNet2DConditionModel

    save_sd(tmp_path, 4)
    backbone = Backbone.load(tmp_path)
    assert (
        isinstance(backbone.codec, KLCodec)
        and backbone.codec.factor == 2
        and "no:" in backbone.about["trained"]
    )
    original = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    x, reference, mel, step = (
        torch.randn(2, 4, 8, 8),
        torch.randn(2, 4, 8, 8),
        torch.randn(2, TOKENS, BINS),
        torch.tensor([3, 900]),
    )
    with torch.no_grad():
        heard = backbone.hearing(mel)
        assert torch.allclose(
            backbone(x, reference, mel, step),
            original(x, step, encoder_hidden_states=heard).sample,
            atol=1e-5,
        )
        pictures = torch.rand(2, 16, 16, 3)
        assert backbone.codec.decode(backbone.codec.encode(pictures)).shape == pictures.shape
    model = HeadModel(backbone, TalkingHeadSettings(**settings), CPU)
    assert model.gradient(moved(model, 2, True), batch_of(model, 2))[1].abs().max() > 0


def test_a_saved_adopted_backbone_comes_back(tmp_path: Path) -> None:
    save_sd(tmp_path / "sd", 4)
    backbone = Backbone.load(tmp_path / "sd")
    backbone.save(tmp_path / "own")
    assert Backbone.load(tmp_path / "own").digest == backbone.digest


@pytest.mark.parametrize("spoil", ["nothing there", "channels", "torn"])
def test_a_wrong_backbone_is_one_named_error(tmp_path: Path, spoil: str) -> None:
    if spoil == "channels":
        save_sd(tmp_path, 5)
    if spoil == "torn":
        save_sd(tmp_path, 4)
        (tmp_path / "unet" / "config.json").write_text("{")
    with pytest.raises(InputError) as caught:
        Backbone.load(tmp_path)
    assert caught.value.key == "talking-head.backbone" and caught.value.remedy


def test_the_motion_denoiser_trains_with_adapters_off_its_motion_modules(
    settings: dict[str, Any],
) -> None:
    backbone = fresh(PatchPCA(4, 6), "motion", (16, 32), {}).requires_grad_(False).eval()
    model = HeadModel(backbone, TalkingHeadSettings(**settings), CPU)
    assert model.backbone.motion and not any(
        "motion" in key for key, _, _ in model.adapters.shared.entries
    )
    batch = batch_of(model, 2)
    loss, gradient = model.gradient(moved(model, 2, False), batch)
    assert loss.shape == (2,) and torch.isfinite(gradient).all() and gradient.abs().max() > 0
