"""Backbones from the command line: made once and pinned, pretrained, adopted from Stable-Diffusion
folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from fedapp.cli.main import app as cli
from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError
from tasks.settings import TaskSettings
from tasks.talking_head.task import TalkingHeadTask

Run = Callable[..., RunFolder]
SMALL = [
    "data.size=32",
    "talking-head.patch=4",
    "talking-head.channels=6",
    "talking-head.pretrain-people=4",
    "talking-head.pretrain-steps=3",
]


def test_the_small_backbone_is_made_once_and_pinned(
    run: Run, head: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedapp.cli import runs as verbs

    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path / "cache"))
    changes = {key: value for key, value in head.items() if key != "talking-head.backbone"} | {
        "rounds": 1
    }
    given = [
        f"{key}={str(value).lower() if value is False else value}" for key, value in changes.items()
    ]
    experiment, _ = verbs.prepare("talking-head", [*given, *SMALL], tmp_path / "runs", "in-process")
    (made,) = (tmp_path / "cache" / "backbones").iterdir()
    written = (made / "unet" / "config.json").stat().st_mtime_ns
    assert len(experiment.talking_head.digest) == 64
    again, _ = verbs.prepare("talking-head", [*given, *SMALL], tmp_path / "more", "in-process")
    assert again.talking_head.digest == experiment.talking_head.digest
    assert (made / "unet" / "config.json").stat().st_mtime_ns == written, "made once"
    about = json.loads((made / "talking_head.json").read_text(encoding="utf-8"))
    assert about["trained"].startswith("3 steps on 4 parametric people")


def test_pretraining_is_reproducible_and_refuses_to_overwrite(tmp_path: Path) -> None:
    options = [part for change in SMALL for part in ("-o", change)]
    digests = []
    for name in ("a", "b"):
        done = CliRunner().invoke(
            cli,
            [
                "pretrain",
                "talking-head",
                "--out",
                str(tmp_path / name),
                *options,
                "--json",
                str(tmp_path / f"{name}.json"),
            ],
        )
        assert done.exit_code == 0, done.output
        digests.append(
            json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["digest"]
        )
    assert digests[0] == digests[1]
    over = CliRunner().invoke(
        cli, ["pretrain", "talking-head", "--out", str(tmp_path / "a"), *options]
    )
    assert isinstance(over.exception, InputError)
    wrong = CliRunner().invoke(cli, ["pretrain", "image"])
    assert isinstance(wrong.exception, InputError)


def test_stable_diffusion_weights_learn_to_listen(tmp_path: Path) -> None:
    from tasks.talking_head.backbone import Backbone

    save_sd(tmp_path / "sd")
    options = [part for change in SMALL[:1] + SMALL[3:] for part in ("-o", change)]
    command = [
        "pretrain",
        "talking-head",
        "--from",
        str(tmp_path / "sd"),
        "--out",
        str(tmp_path / "out"),
        *options,
    ]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    before, after = Backbone.load(tmp_path / "sd"), Backbone.load(tmp_path / "out")
    assert before.codec.residual_scale == 1.0 != after.codec.residual_scale, (
        "estimated on public people"
    )
    assert after.unet.conv_in.weight[:, 4:].abs().max() > 0, "the reference is looked at"
    same = zip(before.codec.parameters(), after.codec.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same), "the codec stays as it was given"


def pretrain(out: Path, *changes: str, start: Path | None = None) -> Result:
    options = [part for change in changes for part in ("-o", change)]
    given = [] if start is None else ["--from", str(start)]
    return CliRunner().invoke(
        cli, ["pretrain", "talking-head", "--out", str(out), *given, *options]
    )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"talking-head.patch": 2}, "talking-head.channels"),  # 3 * 2 * 2 = 12 numbers, 32 channels
        ({"talking-head.channels": 193}, "talking-head.channels"),  # 3 * 8 * 8 = 192
        ({"data.size": 60}, "data.size"),  # not a multiple of 16
        ({"data.size": 8}, "data.size"),  # a single cell
        ({"data.size": 0}, "data.size"),
        # two people, four pictures each, 4 * 4 cells: 128 patches; a cell holds 3 * 14 * 14 numbers
        (
            {
                "data.size": 56,
                "talking-head.patch": 14,
                "talking-head.channels": 129,
                "talking-head.pretrain-people": 2,
            },
            "talking-head.pretrain-people",
        ),
    ],
)
def test_a_backbone_that_cannot_be_is_refused_by_its_key(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    """Both by `pretrain` and by the task, which would train the same."""
    refused = pretrain(
        tmp_path / "out", *(f"{name}={value}" for name, value in changes.items())
    ).exception
    values: dict[str, dict[str, Any]] = {"data": {"size": 64}, "talking-head": {}}
    for name, value in changes.items():
        table, _, field = name.partition(".")
        values[table][field] = value
    with pytest.raises(InputError) as caught:
        TalkingHeadTask(TaskSettings.model_validate(values))
    assert (
        isinstance(refused, InputError)
        and refused.key == caught.value.key == key
        and refused.remedy
    )
    assert not (tmp_path / "out").exists()


def test_the_largest_codec_that_can_be_is_trained(tmp_path: Path) -> None:
    """One step at all the numbers that a cell of 4 x 4 pixels holds, on the smallest pictures there
    are: 16 x 16."""
    changes = [
        "data.size=16",
        "talking-head.patch=4",
        "talking-head.channels=48",
        "talking-head.pretrain-people=2",
    ]
    done = pretrain(tmp_path / "out", *changes, "talking-head.pretrain-steps=1")
    assert done.exit_code == 0, done.output


def test_the_step_size_has_a_plan_for_any_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps or fewer only fall (a rise of 10 x 0.1 = 1 step has no length); from eleven on they
    rise first."""
    from tasks.talking_head import pretrain as training

    rates: list[float] = []

    class Watched(torch.optim.AdamW):
        def step(self, *args: Any) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    recipe = training.Recipe(size=16, factor=4, channels=6, widths=(8, 8), people=2, batch=1)
    for steps, top in (
        (1, 0),
        (2, 0),
        (9, 0),
        (10, 0),
        (11, 1),
        (20, 1),
        (40, 3),
    ):  # the rise ends at 0.1 steps - 1
        rates.clear()
        training.pretrain(replace(recipe, steps=steps))
        peak = rates.index(max(rates))
        assert len(rates) == steps and max(rates) <= recipe.rate and peak == top
        assert all(a > b for a, b in pairwise(rates[peak:])) and all(
            a < b for a, b in pairwise(rates[: peak + 1])
        )


@pytest.mark.parametrize(
    "change", ["talking-head.unet=motion", "talking-head.patch=4", "talking-head.channels=6"]
)
def test_given_weights_keep_their_shape(tmp_path: Path, change: str) -> None:
    save_sd(tmp_path / "sd")
    refused = pretrain(
        tmp_path / "out", *SMALL[:1], *SMALL[3:], change, start=tmp_path / "sd"
    ).exception
    assert isinstance(refused, InputError) and refused.key == change.partition("=")[0]
    assert not (tmp_path / "out").exists()


def test_weights_remember_what_they_came_from(tmp_path: Path) -> None:
    """Twice on from given weights; what is said of them is what they are: cells of 2 x 2 pixels, 4
    channels."""
    from tasks.talking_head.backbone import UNTRAINED, Backbone

    save_sd(tmp_path / "0")
    same = [
        "talking-head.patch=2",
        "talking-head.channels=4",
        "talking-head.unet=frame",
    ]  # no contradiction
    for number, steps in ((0, 2), (1, 3)):
        done = pretrain(
            tmp_path / str(number + 1),
            "data.size=32",
            "talking-head.pretrain-people=4",
            *same,
            f"talking-head.pretrain-steps={steps}",
            start=tmp_path / str(number),
        )
        assert done.exit_code == 0, done.output
    about = json.loads((tmp_path / "2" / "talking_head.json").read_text(encoding="utf-8"))
    recipe = about["recipe"]
    assert (recipe["factor"], recipe["channels"], recipe["widths"], recipe["unet"]) == (
        2,
        4,
        [16, 32],
        "frame",
    )
    digests = [Backbone.load(tmp_path / str(number)).digest for number in range(2)]
    assert [parent["digest"] for parent in about["history"]] == digests
    assert [parent["steps"] for parent in about["history"]] == [None, 2] and recipe["steps"] == 3
    assert about["history"][0]["trained"] == UNTRAINED and about["history"][1][
        "trained"
    ].startswith("2 steps")


def test_clips_are_no_longer_than_the_named_backbone_knows(
    tmp_path: Path, head: dict[str, Any], smoke: Any
) -> None:
    from tasks.talking_head.backbone import LONGEST, fresh
    from tasks.talking_head.codec import PatchPCA

    fresh(PatchPCA(4, 6), "motion", (8, 8), {"trained": "no: a test"}).save(tmp_path / "motion")
    config = tmp_path / "motion" / "unet" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"motion_max_seq_length": 24}),
        encoding="utf-8",
    )
    motion = {**head, "talking-head.backbone": str(tmp_path / "motion")}

    def task(changes: dict[str, Any], frames: int) -> None:
        assert Pieces(
            Experiment.from_run_config(smoke(**{**changes, "talking-head.frames": frames}))
        ).task

    task(motion, 24)
    task(head, LONGEST + 1)  # single frames know no positions
    with pytest.raises(InputError) as caught:
        task(motion, 25)
    assert caught.value.key == "talking-head.frames" and "24 frames" in caught.value.reason


def save_sd(folder: Path) -> None:
    """A tiny model in the layout of Stable Diffusion's repositories."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    UNet2DConditionModel(
        in_channels=4,
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
