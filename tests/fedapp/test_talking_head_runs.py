"""Talking heads as whole runs: what leaves, resume, failures, own files, export, attacks,
ablation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.results import summarise
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.client_state import ClientState
from fedapp.store.runfolder import RunFolder
from privacy.flower.wire import OUTGOING
from sim.inprocess import InProcessGrid
from tasks.errors import FedappError, InputError, StoppedError
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


@pytest.mark.usefixtures("named_streams")
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
    page = folder.report_file.read_text(encoding="utf-8")
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


UNCHANGED: list[tuple[torch.Tensor, Any]] = []  # what a run without options comes to, made once
OPTIONS: list[dict[str, Any]] = [
    {"talking-head.precision": "bfloat16"},
    {"talking-head.checkpointing": True},
    {"talking-head.lora": "ab"},
    {"talking-head.lora": "alternating"},
    {"talking-head.tdc": 0.5, "talking-head.window": 2},
    {"talking-head.identity": 0.1},
    {"talking-head.min-snr": 5.0},
    {"talking-head.noise": 1.0, "talking-head.shared-noise": 0.0},
    {"talking-head.guidance": 2.0},
]


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items())
)
def test_every_option_goes_through_a_round_and_changes_something(
    run: Run, head: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    """As a unit each is tested elsewhere; here the model that travels, the sum and the judges."""
    changes = {**head, "clients.total": 2, "rounds": 1}

    def outcome(name: str, **more: Any) -> tuple[torch.Tensor, Any]:
        folder = run(**changes, **more, **{"run-dir": str(tmp_path / name)})
        return model(folder), folder.read("result.json")["methods"]["adapters"]

    if not UNCHANGED:
        UNCHANGED.append(outcome("plain"))
    (one, first), (two, second) = UNCHANGED[0], outcome("other", **options)
    assert two.dtype == torch.float32 and bool(torch.isfinite(two).all())
    same = one.shape == two.shape and torch.equal(one, two) and first == second
    assert same == ("talking-head.checkpointing" in options)
