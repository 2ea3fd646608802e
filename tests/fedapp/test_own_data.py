"""A run's meta-learner on one's own data, from the command line, from Python, and read by plain
torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layout_kit import transforms
from PIL import Image
from typer.testing import CliRunner

import fedapp
from fedapp.adapted import ADAM, ADAM_RATES, SGD, Adapted, Start, Steps
from fedapp.api import key_of
from fedapp.cli.main import app
from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError
from tasks.metrics import psnr
from tasks.own import own

Run = Callable[..., RunFolder]
CLI = CliRunner()


def photograph(file: Path, side: int = 90) -> Path:
    """Soft colours: a picture a small field can learn."""
    line = np.linspace(0, 1, side)
    values = np.stack(
        [np.add.outer(line, line) / 2, np.outer(line, 1 - line), line[:, None] + 0 * line], -1
    )
    Image.fromarray((values * 255).astype(np.uint8)).save(file)
    return file


@pytest.fixture
def trained(run: Run) -> RunFolder:
    return run(**{"methods": "maml,local", "data.channels": 3, "evaluation.rates": "0.01,0.05"})


def test_a_picture_of_ones_own_is_fitted_rendered_and_taken_away(
    trained: RunFolder, tmp_path: Path
) -> None:
    mine = photograph(tmp_path / "me.png")
    out = tmp_path / "me.safetensors"
    done = CLI.invoke(
        app,
        ["adapt", str(trained.path), "--picture", str(mine), "--out", str(out), "--render", "64",
         "--json", str(tmp_path / "told.json")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert Image.open(mine).size == (90, 90)  # a rendering never takes the place of what it is of
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert list(told["psnr"]) == ["0", "4", "16", "64"]
    assert told["psnr"]["64"] > told["psnr"]["0"] + 5 and told["rate"] in (0.01, 0.05, *ADAM_RATES)
    assert Image.open(told["rendering"]).size == (64, 64)
    # what is told is what the kept field shows, without the run
    kept = Adapted.load(out)
    start = Start.of(trained)
    signal = own(start.task, start.experiment.data, mine).signal
    side = signal.shape[0]
    assert psnr(kept.render(side), signal.truth) == pytest.approx(told["psnr"]["64"], abs=1e-3)
    small = ["render", str(out), "--out", str(tmp_path / "b.png"), "--size", "40"]
    assert CLI.invoke(app, small).exit_code == 0
    assert Image.open(tmp_path / "b.png").size == (40, 40)
    # nothing that is there is written over unasked
    for command in (small, ["render", str(out), "--out", str(mine)]):
        before = Path(command[3]).read_bytes()
        with pytest.raises(InputError, match="there already"):
            CLI.invoke(app, command, catch_exceptions=False)
        assert Path(command[3]).read_bytes() == before
    assert CLI.invoke(app, [*small, "--force"]).exit_code == 0
    # and a field tells nothing of where it was made
    assert str(tmp_path).encode() not in out.read_bytes()


def test_a_field_from_elsewhere_imports_nothing_and_names_what_is_wrong(
    trained: RunFolder, tmp_path: Path
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    fedapp.load(trained.path).adapt(photograph(tmp_path / "me.png"), steps=1).save(
        tmp_path / "good.safetensors"
    )
    with safe_open(str(tmp_path / "good.safetensors"), "pt") as file:
        about = json.loads(file.metadata()["about"])
        layers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    lies: list[Any] = [
        {**about, "config": {**about["config"], "task": "evil:Task"}},
        {key: value for key, value in about.items() if key != "config"},
        [about],
        {**about, "config": {**about["config"], "field.width": 7}},
    ]
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        for lie in lies:
            save_file(layers, str(tmp_path / "bad.safetensors"), {"about": json.dumps(lie)})
            with pytest.raises(InputError) as refused:
                fedapp.field(tmp_path / "bad.safetensors")
            assert refused.value.key == "field"
    finally:
        sys.path.remove(str(tmp_path))


def test_a_picture_keeps_its_proportions(run: Run, tmp_path: Path) -> None:
    tall = tmp_path / "tall.png"
    Image.new("RGB", (10, 30), (90, 10, 200)).save(tall)
    folder = run(**{"methods": "maml", "data.channels": 3})
    start = Start.of(folder)
    data = start.experiment.data.model_copy(update={"size": 0})
    assert start.adapt(own(start.task, data, tall), [1]).render(60).shape == (60, 20, 3)


def test_the_lines_of_the_docs_read_a_field_without_us(trained: RunFolder, tmp_path: Path) -> None:
    """In a process that has torch and safetensors alone, to single precision."""
    field = fedapp.load(trained.path).adapt(photograph(tmp_path / "me.png"), steps=8)
    field.save(tmp_path / "me.safetensors")
    (tmp_path / "like").touch()
    modes = {(tmp_path / name).stat().st_mode for name in ("me.safetensors", "like")}
    assert len(modes) == 1  # as the umask says
    text = (Path(fedapp.ROOT) / "docs" / "own_data.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(import json.*?)```", text, re.S)
    assert "fedapp" not in lines and len(lines.strip().splitlines()) <= 15
    script = tmp_path / "read.py"
    script.write_text(
        lines + "\nimport numpy\nnumpy.save('seen.npy', picture.numpy())\n", encoding="utf-8"
    )
    subprocess.run([sys.executable, "-I", str(script)], cwd=tmp_path, check=True)
    seen = torch.from_numpy(np.load(tmp_path / "seen.npy"))
    assert seen.shape == (512, 512, 3)
    assert torch.allclose(seen.clamp(0, 1), field.render(512), atol=1e-5)


def test_the_step_size_is_not_the_one_that_learns_pixels_by_heart(
    trained: RunFolder, tmp_path: Path
) -> None:
    """It may cost 2 dB on unseen pixels, no more, whichever optimiser takes the steps."""
    start = Start.of(trained)
    mine = own(start.task, start.experiment.data, photograph(tmp_path / "me.png"))
    half = mine.signal.halved()
    for optimiser, count in (("", 2 + len(ADAM_RATES)), (SGD, 2), (ADAM, len(ADAM_RATES))):
        ways = start._candidates(None, optimiser)
        assert len(ways) == count
        chosen = start._chosen(mine.signal, 32, ways)
        unseen = [start._psnr(start._fitted(half, [one], [32])[32], 0, half) for one in ways]
        assert unseen[ways.index(chosen)] >= max(unseen) - 2.0
    given = start.adapt(mine, [32], 0.05)
    assert (given.about["optimiser"], given.about["rate"]) == (SGD, 0.05)


def test_adams_steps_are_adams(trained: RunFolder, tmp_path: Path) -> None:
    """Held against torch's own on the same picture, gradients clipped alike."""
    start = Start.of(trained)
    signal = own(start.task, start.experiment.data, photograph(tmp_path / "me.png")).signal
    ours = start._fitted(signal, [Steps(ADAM, 0.002)], [5])[5][0]
    params = start.model.clone()
    batch = start._batches(signal, 1)(0)
    theirs = torch.optim.Adam([params], lr=0.002)
    for _ in range(5):
        params.grad = start.task.derivatives.gradient(params[None], batch)[1][0]
        torch.nn.utils.clip_grad_norm_([params], start.experiment.evaluation.clip)
        theirs.step()
    assert torch.allclose(ours, params, atol=2e-5)
    assert not torch.allclose(ours, start.model, atol=1e-3)


def test_a_clip_becomes_a_field_and_a_film(run: Run, tmp_path: Path) -> None:
    changes = {"task": "video", "data.frames": 4, "data.size": 12, "data.channels": 3}
    folder = run(**{"methods": "maml", "evaluation.uploads": False, **changes})
    frames = tmp_path / "clip"
    frames.mkdir()
    for number in range(5):
        photograph(frames / f"frame{number}.png", 20 + number)
    learned = fedapp.load(folder.path)
    found = learned.adapt(frames, steps=16)
    assert found.psnr[16] > found.psnr[0] and found.render(20).shape == (4, 20, 20, 3)
    assert found.render(20, 9).shape == (9, 20, 20, 3)
    found.save(tmp_path / "clip.safetensors")
    out = tmp_path / "clip.gif"
    done = CLI.invoke(
        app, ["render", str(tmp_path / "clip.safetensors"), "--out", str(out), "--size", "20"]
    )
    assert done.exit_code == 0, done.output
    assert getattr(Image.open(out), "n_frames", 1) == 4


def test_an_object_of_ones_own_becomes_a_turntable(run: Run, tmp_path: Path) -> None:
    changes = {
        "task": "nerf", "data.size": 8, "field.samples": 4, "field.width": 8, "field.depth": 1,
        "evaluation.batch-size": 32, "data.support-views": 2, "data.query-views": 1,
        "data.channels": 3, "evaluation.uploads": False, "learner.inner-rate": 0.1,
    }  # fmt: skip
    folder = run(**{"methods": "maml", **changes})
    learned = fedapp.load(folder.path)
    transforms(tmp_path / "scenes")
    with pytest.raises(InputError, match=r"space goes from 2\.0 to 4\.4"):  # theirs go to 6
        learned.adapt(tmp_path / "scenes")
    for file in (tmp_path / "scenes").rglob("transforms*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**content, "near": 2.0, "far": 4.4}), encoding="utf-8")
    found = learned.adapt(tmp_path / "scenes", steps=4)
    assert found.render(8, 3).shape == (3, 8, 8, 3)
    found.save(tmp_path / "car.safetensors")
    again = fedapp.field(tmp_path / "car.safetensors")
    assert torch.equal(again.render(8, 3), found.render(8, 3))


def test_an_object_with_limits_of_its_own_is_rendered_within_them(run: Run, tmp_path: Path) -> None:
    """Beyond them the field was never fitted: a rendering of the whole space would be of fog."""
    transforms(tmp_path / "scenes")
    folder = run(**{
        "methods": "maml", "task": "nerf", "data.path": str(tmp_path / "scenes"),
        "data.size": 8, "data.near": 0.5, "data.far": 12.0, "data.held-out": 1,
        "clients.total": 1, "clients.per-round": 0, "clients.min": 1,
        "field.samples": 16, "field.width": 8,
        "field.depth": 1, "evaluation.batch-size": 32, "data.support-views": 2,
        "data.query-views": 1, "data.channels": 3, "evaluation.uploads": False,
        "learner.inner-rate": 0.1,
    })  # fmt: skip
    found = fedapp.load(folder.path).adapt(tmp_path / "scenes", steps=2)
    assert found.about["limits"] == [2.0, 6.0]
    found.save(tmp_path / "car.safetensors")
    again = fedapp.field(tmp_path / "car.safetensors")
    assert torch.equal(again.render(8, 2), found.render(8, 2))
    whole = Adapted(found.task, found.params, {**found.about, "limits": None})
    assert not torch.allclose(whole.render(8, 2), found.render(8, 2))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "give --picture"),
        (["--clip", "me.png"], "give --picture"),
        (["--picture", "nowhere.png"], "no such file"),
        (["--picture", "broken.png"], "cannot be decoded"),
        (["--picture", "me.png", "--out", "me.txt"], "give it the ending"),
        (["--picture", "me.png", "--out", "no/where.safetensors"], "cannot be written"),
        (["--picture", "me.png", "--rate", "-1"], "no step size"),
        (["--picture", "me.png", "--method", "reptile"], "it trained maml-0"),
        (["--picture", "."], "not a file"),
        (
            ["--picture", "me-8.png", "--out", "me.safetensors", "--render", "8", "--force"],
            "your own data",
        ),
        (["--picture", "me.png", "--out", "me.safetensors", "--render", "8"], "there already"),
        (["--picture", "me.png", "--pixels", "1"], "one pixel"),
    ],
)
def test_what_cannot_be_adapted_is_named_before_the_work(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    word: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("me", "me-8"):
        photograph(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        CLI.invoke(app, ["adapt", str(trained.path), *arguments], catch_exceptions=False)
    assert word in str(refused.value) and refused.value.remedy
    assert not list(tmp_path.glob("*.safetensors"))


def test_another_kind_of_file_is_no_field(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, str(tmp_path / "a.safetensors"))
    (tmp_path / "b.safetensors").write_text("text", encoding="utf-8")
    for name in ("a", "b", "c"):
        with pytest.raises(InputError) as refused:
            fedapp.field(tmp_path / f"{name}.safetensors")
        assert refused.value.key == "field"


def test_a_run_from_python_is_the_commands_run(tmp_path: Path, smoke: Any) -> None:
    values = {key.replace(".", "__").replace("-", "_"): value for key, value in smoke().items()
              if key not in ("run-dir", "recipe")}  # fmt: skip
    assert key_of("clients__per_round") == "clients.per-round"
    one, other = (
        fedapp.run("smoke", folder=tmp_path, **{**values, "rounds": rounds}) for rounds in (1, 2)
    )
    assert one.path != other.path and (one.result["rounds"], other.result["rounds"]) == (1, 2)
    assert one.load().adapt(photograph(tmp_path / "me.png"), steps=4).render(16).shape[:2] == (
        16,
        16,
    )
    rows = fedapp.compare([one.path, other.path], out=tmp_path / "both.html")
    assert {row["rounds"] for row in rows} == {1, 2} and {row["method"] for row in rows}
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "<svg" in page and "<td>rounds</td><td>1</td><td>2</td>" in page
    with pytest.raises(InputError, match="nothing to compare"):
        fedapp.compare([one.path])
    with pytest.raises(AttributeError, match="no attribute"):
        fedapp.walk  # noqa: B018
