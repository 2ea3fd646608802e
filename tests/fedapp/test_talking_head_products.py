"""Talking heads: own recordings, exports, attacks, ablation, and who may stay away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fedapp.attacks import attack_run
from fedapp.cli.main import app as cli
from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.export import export_run
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.client_state import ClientState
from fedapp.store.runfolder import RunFolder
from fedapp.studies.ablation import interval, markdown, verdict
from tasks.data.recordings.writing import write_clip
from tasks.errors import InputError, StoppedError
from tasks.talking_head import people
from tasks.talking_head.adapters import SHARED
from tasks.talking_head.backbone import Backbone, fresh
from tasks.talking_head.task import TalkingHeadTask

Run = Callable[..., RunFolder]
PRIVATE = {"release": "secagg", "privacy.clip-norm": 20.0, "clients.total": 5, "rounds": 1}


def model(folder: RunFolder) -> torch.Tensor:
    return load_file(list_checkpoints(folder.checkpoints)[-1])["adapters-0/model"]


def personal(folder: RunFolder, client: int, round: int) -> torch.Tensor:
    return ClientState(folder.client_state / "adapters-0").load(client, round)["personal"]


# ---------------------------------------------------------------------- own files
def test_a_folder_of_recordings_runs_without_code(
    run: Run, head: dict[str, Any], tmp_path: Path
) -> None:
    root = tmp_path / "people"
    for number in range(5):
        who = people.person(3, number, "ordinary", 3, 1, 8, 32)
        (root / who.name).mkdir(parents=True)
        for index, clip in enumerate((*who.train, *who.held_out)):
            write_clip(root / who.name / f"{index}.mp4", clip)
    (root / "person-0001" / "9.mp4").write_text("not a video", encoding="utf-8")
    changes = {**head, "data.path": str(root), "clients.total": 3, "rounds": 1}
    folder = run(**changes)
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    assert event["clients"] == {"ok": 3, "failed": 0}
    with pytest.raises(InputError, match=r"clients\.total"):
        run(**{**changes, "clients.total": 4, "run-dir": str(tmp_path / "more")})


# ---------------------------------------------------------------------- export, attacks, ablation
@pytest.mark.parametrize("kind", ["frame", "motion"])
@pytest.mark.parametrize("client", [2, None])
def test_an_exported_adapter_is_loaded_by_the_lines_on_its_card(
    run: Run,
    head: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    client: int | None,
) -> None:
    """alpha 4, rank 2: a loader that forgot alpha would be off by a factor of two."""
    if kind == "motion":
        codec = Backbone.load(Path(head["talking-head.backbone"])).codec
        about = {
            "trained": "no: a test",
            "history": [{"digest": "f00d", "trained": "2 steps", "steps": 2}],
        }
        fresh(codec, "motion", (16, 32), about).save(tmp_path / "motion")
        head = {**head, "talking-head.backbone": str(tmp_path / "motion")}
    folder = run(**{**head, "rounds": 1})
    facts = export_run(folder, tmp_path / "out", "", -1, client)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert (
        facts["epsilon"] is None
        and "None is claimed" in card
        and facts["backbone"]["digest"] in card
    )
    assert ("went on from `f00d`: 2 steps" in card) == (kind == "motion")

    for part in (tmp_path / "out").rglob("*"):  # to hand on; what is a person's stays private
        closed = part.is_file() and "personal" in part.parts
        assert closed or part.stat().st_mode & 0o044 == 0o044, part
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    task = Pieces(Experiment.from_run_config(folder.config)).task
    ours = task.model(torch.device("cpu"))
    theirs = Backbone(names["unet"].eval(), ours.backbone.codec, ours.backbone.hearing, {})
    own = None if client is None else (task.personal_start() + personal(folder, client, 1))[None]
    x, mel, step = torch.randn(4, 6, 4, 4), torch.randn(4, 16, 32), torch.tensor([10, 10, 800, 800])
    with torch.no_grad():
        wanted = theirs(x, x, mel, step, frames=2)
        with ours.adapters.worn(model(folder)[None], own):
            assert torch.allclose(ours.backbone(x, x, mel, step, frames=2), wanted, atol=1e-5)
        with ours.adapters.worn(ours.adapters.start(SHARED)[None]):
            assert not torch.allclose(ours.backbone(x, x, mel, step, frames=2), wanted, atol=1e-3)
    with pytest.raises(InputError, match="not an empty folder"):
        export_run(folder, tmp_path / "out", "", -1)


@pytest.mark.parametrize("found", [False, True])
def test_a_failed_export_leaves_nothing(
    run: Run, head: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    folder, out = run(**{**head, "rounds": 1}), tmp_path / "out"
    if found:  # an empty folder that was there stays, empty
        out.mkdir()
    monkeypatch.setattr("fedapp.export.card", lambda _: 1 / 0)  # after all the rest is written
    with pytest.raises(ZeroDivisionError):
        export_run(folder, out, "", -1, client=2)
    assert out.exists() == found and (not found or not any(out.iterdir()))


def test_attacks_on_adapters_fill_their_table(run: Run, head: dict[str, Any]) -> None:
    folder = run(**{**head, "rounds": 1})
    rows = attack_run(folder, "all", 4, lambda _: None)
    by = {(row["attack"], row["release"].split(" ")[0], row["metric"]): row for row in rows}
    assert by["linkage", "secagg", "auc"]["value"] == pytest.approx(0.5), (
        "one sum for all tells nobody apart"
    )
    assert (
        by["linkage", "plain", "top1"]["chance"] == pytest.approx(1 / 4)
        and by["linkage", "plain", "top1"]["n"] == 4
    )
    assert by["aggregation error", "lora", "relative"]["value"] < 1e-5
    assert {"membership in a sum", "transcript"} <= {row["attack"] for row in rows}
    with pytest.raises(InputError, match="no such attack"):
        attack_run(folder, "inversion", 4, lambda _: None)


def test_intervals_and_verdicts() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.302653 * 1.0 / np.sqrt(3), rel=1e-5)
    assert interval([1.0]) == (1.0, None) and interval([1.0, None]) == (None, None)
    assert (
        verdict("x", 0.1, 0.2) == "within noise"
        and verdict("x", -0.3, 0.2) == "lower"
        and verdict("x", 0.3, 0.2) == "higher"
    )
    assert verdict("x", 0.1, None) == "not computed"


def test_the_ablation_command_makes_its_table(tmp_path: Path, head: dict[str, Any]) -> None:
    changes = {key: value for key, value in head.items() if key not in ("rule", "methods")}
    changes |= {"rounds": 1, "clients.total": 3, "evaluation.steps": "0"}
    given = [
        part
        for key, value in changes.items()
        for part in ("-o", f"{key}={str(value).lower() if value is False else value}")
    ]
    command = [
        "ablate",
        "talking-head",
        "--seeds",
        "0,1",
        "--folder",
        str(tmp_path / "abl"),
        *given,
    ]
    done = CliRunner().invoke(cli, [*command, "--json", str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert result["rows"][0]["variant"] == "adapters only" and len(result["rows"]) == 7
    private = {row["variant"]: row["epsilon"] for row in result["rows"]}
    assert private["adapters only"] is None and private["+ DP, z = 1"] < private["+ DP, z = 0.1"]
    assert (tmp_path / "abl" / "ablation.md").read_text(encoding="utf-8").strip() == markdown(
        result
    )


NOISED = {
    "release": "distributed-dp",
    "privacy.epsilon-max": 1e6,
    "clients.total": 5,
    "rules.isfa.attendance": 0.05,
}


def test_adaptive_participation_runs_under_noise_of_the_nodes_and_is_not_named(
    run: Run, head: dict[str, Any]
) -> None:
    folder = run(nodes=5, **{**head, **NOISED, "rounds": 4})
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert [event["clients"]["ok"] for event in rounds] == [5] * 4, (
        "the server counts everybody: it is not told"
    )
    assert "stayed away" not in json.dumps(rounds)


@pytest.mark.parametrize(
    "changes",
    [
        {"release": "plain"},
        {"release": "secagg"},
        {"release": "central-dp"},
        {"privacy.adaptive-clip": True},
        {"privacy.metrics": '{"loss": [0, 1]}'},
        {"release": "plain", "rule": "strategies.rules.isfa:Isfa"},
    ],
)
def test_adaptive_participation_is_refused_where_absence_or_a_lone_presence_shows(
    smoke: Any, head: dict[str, Any], changes: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=r"rules\.isfa\.attendance"):
        Experiment.from_run_config(smoke(**{**head, **NOISED, "runtime.nodes": 5, **changes}))


def test_a_masked_sum_of_nothing_is_a_skipped_round(
    run: Run, head: dict[str, Any], monkeypatch: Any, tmp_path: Path
) -> None:
    """All members fail: their sum is random, nobody is named, and the run is none."""
    from tasks.talking_head.task import TalkingHeadTask

    monkeypatch.setattr(TalkingHeadTask, "client_data", lambda *_: 1 / 0)
    with pytest.raises(StoppedError, match="none of the 2 rounds of adapters-0 counted"):
        run(nodes=5, **{**head, **PRIVATE, "rounds": 2})
    folder = RunFolder(tmp_path / "run")
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert ["masks did not cancel" in event["skipped"] for event in rounds] == [True, True]
    task = Pieces(Experiment.from_run_config(folder.config)).task
    assert torch.equal(model(folder), task.init(0))


def test_written_people_are_read_back_as_a_data_set(
    tmp_path: Path, head: dict[str, Any], smoke: Any
) -> None:
    changes = ["-o", "data.size=32", "-o", "talking-head.frames=8", "-o", "talking-head.clips=2"]
    done = CliRunner().invoke(cli, ["people", str(tmp_path / "p"), "--count", "3", *changes])
    assert done.exit_code == 0, done.output
    assert (
        len(list((tmp_path / "p").rglob("*.mp4")))
        == len(list((tmp_path / "p").rglob("*.wav")))
        == 3 * (1 + 2 + 1)
    )
    settings = {
        **head,
        "data.path": str(tmp_path / "p"),
        "data.held-out": 1,
        "data.size": 32,
        "talking-head.frames": 8,
    }
    task = Pieces(Experiment.from_run_config(smoke(**settings))).task
    task.check(2)
    first = task.client_data(0)
    written = people.person(0, 0, "ordinary", 2, 1, 8, 32)
    truth = [clip.frames for clip in (*written.train, *written.held_out)]
    errors = [
        min(float((clip.frames - one).square().mean()) for one in truth)
        for clip in first.person.train
    ]
    assert first.name == "person-0000" and max(errors) < 10**-2.5, "25 dB after H.264"
    again = CliRunner().invoke(cli, ["people", str(tmp_path / "p")])
    assert isinstance(again.exception, InputError)


def test_a_node_with_another_backbone_refuses_although_nobody_pinned_it(
    run: Run, head: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain `flwr run` has no digest in its config: the order says which weights the server has."""
    monkeypatch.setattr(
        TalkingHeadTask, "prepare", lambda self, progress: {"talking-head.digest": "0" * 64}
    )
    with pytest.raises(StoppedError, match="is another one"):
        run(**{**head, "rounds": 1})
