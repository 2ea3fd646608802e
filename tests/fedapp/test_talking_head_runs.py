"""Talking heads as whole runs: what leaves, resume, failures, own files, export, attacks,
ablation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file
from typer.testing import CliRunner

from fedapp.attacks import attack_run
from fedapp.cli.main import app as cli
from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.export import export_run
from fedapp.results import summarise
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.client_state import ClientState
from fedapp.store.runfolder import RunFolder
from fedapp.studies.ablation import interval, markdown, verdict
from privacy.flower.wire import OUTGOING
from sim.inprocess import InProcessGrid
from tasks.data.recordings.writing import write_clip
from tasks.errors import FedappError, InputError, StoppedError
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


def recording(log: list[Message]) -> Callable[..., InProcessGrid]:
    class Recording(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            log.extend([message, *replies])
            return replies

    return Recording


def bytes_of(message: Message) -> bytes:
    parts = []
    for content in message.content.values():
        for value in content.values():
            parts.append(value.data if hasattr(value, "data") else str(value).encode())
    return b"|".join(parts)


# ---------------------------------------------------------------------- what leaves
@pytest.mark.parametrize("release", ["plain", "secagg"])
def test_a_personal_adapter_is_in_no_message(
    run: Run, head: dict[str, Any], release: str, tmp_path: Path
) -> None:
    """Its numbers, looked for as bytes in everything that travels; the shared model's are found, as
    a control."""
    log: list[Message] = []
    changes = {**head, **PRIVATE, "release": release, "rounds": 2}
    folder = run(nodes=5, grid=recording(log), **changes)
    sent = b"".join(bytes_of(message) for message in log)
    start = Pieces(Experiment.from_run_config(folder.config)).task.personal_start()
    for client in range(5):
        kept = personal(folder, client, 1)
        assert kept.abs().max() > 0, "it did move"
        for secret in (kept, start + kept):
            for at in range(0, len(kept) - 8, 8):  # any eight numbers in a row would be a leak
                piece = secret[at : at + 8]
                assert not kept[at : at + 8].all() or piece.numpy().tobytes() not in sent
    if (
        release == "plain"
    ):  # the search finds what is there: the model after round 1 went out for round 2
        first = run(nodes=5, **{**changes, "rounds": 1, "run-dir": str(tmp_path / "first")})
        assert model(first).numpy().tobytes() in sent
    assert model(folder).numpy().tobytes() not in sent, (
        "the last model was never sent: nobody trained from it"
    )


def test_under_a_sum_neither_score_nor_count_nor_loss_leaves(
    run: Run, head: dict[str, Any]
) -> None:
    log: list[Message] = []
    run(nodes=5, grid=recording(log), **{**head, **PRIVATE})
    replies = [m for m in log if m.metadata.reply_to_message_id]
    names = {
        f"{record}.{field}"
        for m in replies
        for record, content in m.content.items()
        for field in content
    }
    assert names <= set(OUTGOING) and not any(m.content.metric_records for m in replies)


def test_the_weighted_secure_sum_is_the_clear_one(
    smoke: Any, run: Run, head: dict[str, Any], tmp_path: Path
) -> None:
    clear = model(
        run(nodes=5, **{**head, **PRIVATE, "release": "plain", "run-dir": str(tmp_path / "clear")})
    )
    masked = model(run(nodes=5, **{**head, **PRIVATE, "run-dir": str(tmp_path / "masked")}))
    unweighted = model(
        run(
            nodes=5,
            **{
                **head,
                **PRIVATE,
                "rule": "fedavg",
                "release": "plain",
                "run-dir": str(tmp_path / "avg"),
            },
        )
    )
    quantum = 20.0 * 5 / 2**24
    assert float((masked - clear).abs().max()) < quantum
    assert float((unweighted - clear).abs().max()) > 0, "the weights do something"


# ---------------------------------------------------------------------- laws
def test_packing_changes_nothing_but_rounding(
    run: Run, head: dict[str, Any], tmp_path: Path
) -> None:
    one = model(
        run(nodes=1, **{**head, "runtime.chunk": 4, "rounds": 1, "run-dir": str(tmp_path / "one")})
    )
    many = model(
        run(nodes=4, **{**head, "runtime.chunk": 1, "rounds": 1, "run-dir": str(tmp_path / "many")})
    )
    again = model(
        run(
            nodes=4, **{**head, "runtime.chunk": 1, "rounds": 1, "run-dir": str(tmp_path / "again")}
        )
    )
    assert torch.equal(many, again)
    # Adam divides by the root of the second moment: rounding of tiny gradients shows
    assert float((one - many).norm() / many.norm()) < 1e-2


def test_resume_is_bit_identical_personal_adapters_included(
    run: Run, head: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(**{**head, "rounds": 3, "run-dir": str(tmp_path / "whole")})
    cut = {**head, "run-dir": str(tmp_path / "cut")}
    run(**cut, rounds=2)
    folder = run(**cut, rounds=3, resume=True)
    assert torch.equal(model(whole), model(folder))
    assert torch.equal(personal(whole, 2, 3), personal(folder, 2, 3))


def test_a_personal_adapter_grows_from_round_to_round(run: Run, head: dict[str, Any]) -> None:
    folder = run(**{**head, "rounds": 2})
    assert not torch.equal(personal(folder, 0, 1), personal(folder, 0, 2))


@pytest.mark.falls_back
def test_a_failing_client_is_left_out_with_its_reason(
    run: Run, head: dict[str, Any], monkeypatch: Any
) -> None:
    from tasks.talking_head.task import TalkingHeadTask

    original = TalkingHeadTask.client_data

    def broken(self: TalkingHeadTask, client: int) -> Any:
        if client == 1:
            raise OSError("the camera is gone")
        return original(self, client)

    monkeypatch.setattr(TalkingHeadTask, "client_data", broken)
    folder = run(**{**head, "rounds": 1})
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    assert (
        event["clients"] == {"ok": 3, "failed": 1}
        and "the camera is gone" in event["failures"]["1"]
    )


@pytest.mark.falls_back
def test_a_round_that_everybody_fails_stops_the_run(
    run: Run, head: dict[str, Any], monkeypatch: Any
) -> None:
    from tasks.talking_head.task import TalkingHeadTask

    monkeypatch.setattr(TalkingHeadTask, "client_data", lambda *_: 1 / 0)
    with pytest.raises((StoppedError, FedappError)):
        run(**{**head, "rounds": 1})


def test_alternating_rounds_move_one_factor_each(
    run: Run, head: dict[str, Any], tmp_path: Path
) -> None:
    changes = {**head, "talking-head.lora": "alternating"}
    first = run(**{**changes, "rounds": 1, "run-dir": str(tmp_path / "1")})
    second = run(**{**changes, "rounds": 2, "run-dir": str(tmp_path / "2")})
    task = Pieces(Experiment.from_run_config(first.config)).task
    start = task.init(0)
    names = task.layout.unflatten(torch.stack([start, model(first), model(second)]))
    for key, (zero, one, two) in names.items():
        assert torch.equal(zero, one) == ("lora_A" in key) and torch.equal(one, two) == (
            "lora_B" in key
        ), key


# ---------------------------------------------------------------------- results
def test_the_result_stands_beside_its_controls(run: Run, head: dict[str, Any]) -> None:
    folder = run(
        **{**head, "methods": "adapters,local", "rule": "fedavg", "rounds": 1, "report.page": True}
    )
    for row in summarise(folder)["methods"].values():
        assert {
            "mouth_corr",
            "mouth_corr_shuffled",
            "psnr_static",
            "psnr_codec",
            "identity_top1",
        } <= set(row)
        assert (
            row["lpips"] is None
            and row["frechet"] is None
            and set(row["personalised"]["mouth_error"]) == {"0", "1"}
        )
    page = folder.report_file.read_text()
    assert (
        "not computed" in page
        and "video/mp4" in page
        and "Wrong speech" in page
        and "held still" not in page
    )
    assert (folder.videos / "adapters-0-00.gif").exists()


def test_bad_settings_are_one_named_error(smoke: Any, head: dict[str, Any]) -> None:
    for change, key in (
        ({"data.size": 20}, "data.size"),
        ({"talking-head.window": 9}, "talking-head.window"),
        ({"evaluation.uploads": True}, "evaluation.uploads"),
        ({"talking-head.lora": "both"}, "talking-head.lora"),
        ({"talking-head.backbone": "/nowhere"}, "talking-head.backbone"),
        ({"talking-head.digest": "0" * 64}, "talking-head.digest"),
        ({"rule": "scaffold"}, "rule"),
        ({"rule": "isfa", "methods": "fomaml"}, "rule"),
    ):

        def start(change: dict[str, Any] = change) -> None:
            Pieces(Experiment.from_run_config(smoke(**{**head, **change}))).task.check(4)

        with pytest.raises(InputError) as caught:
            start()
        assert caught.value.key == key and caught.value.remedy


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
    (root / "person-0001" / "9.mp4").write_text("not a video")
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
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        facts["epsilon"] is None
        and "None is claimed" in card
        and facts["backbone"]["digest"] in card
    )
    assert ("went on from `f00d`: 2 steps" in card) == (kind == "motion")

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
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["rows"][0]["variant"] == "adapters only" and len(result["rows"]) == 7
    private = {row["variant"]: row["epsilon"] for row in result["rows"]}
    assert private["adapters only"] is None and private["+ DP, z = 1"] < private["+ DP, z = 0.1"]
    assert (tmp_path / "abl" / "ablation.md").read_text().strip() == markdown(result)


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
        {"release": "plain"}, {"release": "secagg"}, {"release": "central-dp"}, {"privacy.adaptive-clip": True},
        {"privacy.metrics": '{"loss": [0, 1]}'}, {"release": "plain", "rule": "strategies.rules.isfa:Isfa"},
    ],
)  # fmt: skip
def test_adaptive_participation_is_refused_where_absence_or_a_lone_presence_shows(
    smoke: Any, head: dict[str, Any], changes: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=r"rules\.isfa\.attendance"):
        Experiment.from_run_config(smoke(**{**head, **NOISED, "runtime.nodes": 5, **changes}))


def test_a_masked_sum_of_nothing_is_a_skipped_round(
    run: Run, head: dict[str, Any], monkeypatch: Any
) -> None:
    from tasks.talking_head.task import TalkingHeadTask

    monkeypatch.setattr(TalkingHeadTask, "client_data", lambda *_: 1 / 0)
    folder = run(nodes=5, **{**head, **PRIVATE, "rounds": 2})
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert ["nothing to average" in event["skipped"] for event in rounds] == [True, True]
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
