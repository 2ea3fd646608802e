"""Backbones from the command line: made once and pinned, pretrained, adopted from Stable-Diffusion folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fedapp.cli.main import app as cli
from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError

Run = Callable[..., RunFolder]
SMALL = ["data.size=32", "talking-head.patch=4", "talking-head.channels=6", "talking-head.pretrain-people=4",
         "talking-head.pretrain-steps=3"]  # fmt: skip


def test_the_small_backbone_is_made_once_and_pinned(
    run: Run, head: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedapp.cli import runs as verbs
    from tasks.talking_head import model as backbones

    monkeypatch.setattr(backbones, "CACHE", tmp_path / "cache")
    changes = {key: value for key, value in head.items() if key != "talking-head.backbone"} | {"rounds": 1}
    given = [f"{key}={str(value).lower() if value is False else value}" for key, value in changes.items()]
    experiment, _ = verbs.prepare("talking-head", [*given, *SMALL], tmp_path / "runs", "in-process")
    (made,) = (tmp_path / "cache").iterdir()
    written = (made / "unet" / "config.json").stat().st_mtime_ns
    assert len(experiment.talking_head.digest) == 64
    again, _ = verbs.prepare("talking-head", [*given, *SMALL], tmp_path / "more", "in-process")
    assert again.talking_head.digest == experiment.talking_head.digest
    assert (made / "unet" / "config.json").stat().st_mtime_ns == written, "made once"
    about = json.loads((made / "talking_head.json").read_text())
    assert about["trained"].startswith("3 steps on 4 parametric people")


def test_pretraining_is_reproducible_and_refuses_to_overwrite(tmp_path: Path) -> None:
    options = [part for change in SMALL for part in ("-o", change)]
    digests = []
    for name in ("a", "b"):
        done = CliRunner().invoke(
            cli, ["pretrain", "talking-head", "--out", str(tmp_path / name), *options, "--json", str(tmp_path / "j")]
        )
        assert done.exit_code == 0, done.output
        digests.append(json.loads((tmp_path / "j").read_text())["digest"])
    assert digests[0] == digests[1]
    over = CliRunner().invoke(cli, ["pretrain", "talking-head", "--out", str(tmp_path / "a"), *options])
    assert isinstance(over.exception, InputError)
    wrong = CliRunner().invoke(cli, ["pretrain", "image"])
    assert isinstance(wrong.exception, InputError)


def test_stable_diffusion_weights_learn_to_listen(tmp_path: Path) -> None:
    from tasks.talking_head.backbone import Backbone

    save_sd(tmp_path / "sd")
    options = [part for change in SMALL[:1] + SMALL[3:] for part in ("-o", change)]
    command = ["pretrain", "talking-head", "--from", str(tmp_path / "sd"), "--out", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    before, after = Backbone.load(tmp_path / "sd"), Backbone.load(tmp_path / "out")
    assert before.codec.residual_scale == 1.0 != after.codec.residual_scale, "estimated on public people"
    assert after.unet.conv_in.weight[:, 4:].abs().max() > 0, "the reference is looked at"
    same = zip(before.codec.parameters(), after.codec.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same), "the codec stays as it was given"


def save_sd(folder: Path) -> None:
    """A tiny model in the layout of Stable Diffusion's repositories."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=24, attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=8, latent_channels=4,
    ).save_pretrained(folder / "vae")  # fmt: skip
