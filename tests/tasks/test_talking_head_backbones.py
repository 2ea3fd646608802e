"""Backbones on disk: digests, Stable Diffusion's layout, folders that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from head_kit import CPU, batch_of, moved

from tasks.errors import InputError
from tasks.settings import TalkingHeadSettings
from tasks.talking_head.adapters import Adapters
from tasks.talking_head.audio import BINS, TOKENS
from tasks.talking_head.backbone import Backbone
from tasks.talking_head.codec import KLCodec
from tasks.talking_head.model import HeadModel


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
        in_channels=channels,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=24,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
    ).save_pretrained(folder / "vae")


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
    x = torch.randn(2, 4, 8, 8)
    reference = torch.randn(2, 4, 8, 8)
    mel = torch.randn(2, TOKENS, BINS)
    step = torch.tensor([3, 900])
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
        (tmp_path / "unet" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Backbone.load(tmp_path)
    assert caught.value.key == "talking-head.backbone" and caught.value.remedy
