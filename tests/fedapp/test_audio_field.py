"""A modality without pictures: a neural field of sound through a whole run, uploads looked at."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from audio_field import LENGTH, AudioTask, chord

from fedapp.report import write_report
from fedapp.store.runfolder import RunFolder
from tasks.settings import DataSettings, TaskSettings

CLIENTS = 4
CHANGES = {
    "task": "audio_field:AudioTask",
    "methods": "maml,local",
    "clients.total": CLIENTS,
    "rounds": 2,
    "data.held-out": 2,
    "learner.outer-steps": 2,
    "learner.inner-rate": 0.05,
    "evaluation.uploads": True,
    "report.pictures": True,
    "report.page": True,
}


@pytest.mark.parametrize("chords", [1, 8], ids=["one chord", "eight chords"])
def test_a_field_of_sound_is_trained_scored_and_reported(
    run: Callable[..., RunFolder], chords: int
) -> None:
    """Nobody fails for having nothing to look at, and no sound is drawn as a grey picture."""
    folder = run(**CHANGES, **{"data.objects": chords})
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert [event["clients"] for event in rounds] == [{"ok": CLIENTS, "failed": 0}] * 2
    assert not folder.pictures.exists()
    methods = json.loads((folder.path / "result.json").read_text(encoding="utf-8"))["methods"]
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert page == write_report(folder).read_text(encoding="utf-8")
    for found in (methods["maml"]["psnr"]["4"], methods["maml"]["psnr_p"]["mean"]):
        assert 10 < found < 40
        assert f"{found:.2f}" in page or f"{found:.1f}" in page


def test_signals_say_whether_they_are_pictures() -> None:
    task = AudioTask(TaskSettings(data=DataSettings(objects=3)))
    held = task.client_data(0)
    assert held.truth.shape == (3, LENGTH, 1), "which looks like one grey picture"
    assert not chord(0).pictured and task.picture(held, held.truth) is None
    evaluation = task.evaluate(
        task.init(0), TaskSettings().evaluation.model_copy(update={"steps": "0,1"}), False
    )
    assert evaluation.pictures == {} and set(evaluation.metrics["psnr"]) == {"0", "1"}
    assert task.render(torch.stack([task.init(0)]), [held])[0].shape == held.truth.shape
