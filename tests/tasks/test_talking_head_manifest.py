"""Manifests of recordings: files they may name, and the hashes they hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from recording_kit import SIZE, put, speaking

from tasks.data.recordings.clips import SAMPLES_PER_FRAME
from tasks.data.recordings.writing import write_clip, write_wav
from tasks.errors import InputError
from tasks.talking_head import manifest
from tasks.talking_head.folders import detect, list_people

pytest.importorskip("av")


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.mp4", "ann/../../a.mp4"])
def test_a_manifest_cannot_leave_its_folder(tmp_path: Path, path: str) -> None:
    put(tmp_path, "manifest.json", content=json.dumps({"people": {"ann": [path]}}))
    with pytest.raises(InputError, match="stay below"):
        list_people(tmp_path, "manifest")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"people": {"ann": [1]}}', '{"people": {"ann": [{"paht": "a.mp4"}]}}']
)
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    put(tmp_path, "manifest.json", content=text)
    with pytest.raises(InputError, match="not a manifest"):
        detect(tmp_path)


def test_a_manifest_may_not_name_absent_files(tmp_path: Path) -> None:
    put(tmp_path, "manifest.json", content='{"people": {"ann": ["a.mp4"]}}')
    with pytest.raises(InputError, match="no such file"):
        list_people(tmp_path, "manifest")


def test_a_written_manifest_lists_the_same_and_notices_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "ann/bad.mp4", content="not a video")
    write_clip(tmp_path / "ann" / "a.mp4", speaking(1))
    write_wav(tmp_path / "ann" / "a.wav", speaking(1).audio)
    people = list_people(tmp_path, "own")
    with caplog.at_level(logging.WARNING, "flwr"):
        file = manifest.write(tmp_path, people)
    assert "ann/bad.mp4: unreadable" in caplog.text
    (entry,) = json.loads(file.read_text(encoding="utf-8"))["people"]["ann"]
    assert (entry["path"], entry["audio"], entry["fps"], entry["size"]) == (
        "ann/a.mp4",
        "ann/a.wav",
        25.0,
        [SIZE, SIZE],
    )
    assert detect(tmp_path) == "manifest"
    assert list_people(tmp_path, "manifest", verify=True) == {
        "ann": [r for r in people["ann"] if r.audio]
    }

    write_wav(tmp_path / "ann" / "a.wav", torch.zeros(SAMPLES_PER_FRAME))
    list_people(tmp_path, "manifest")  # hashes are looked at on request
    with pytest.raises(InputError, match=r"ann/a\.wav.*not the file that was hashed"):
        list_people(tmp_path, "manifest", verify=True)
