"""A run's adapters put to use: one picture and speech in, a video out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fedapp.cli.main import app
from fedapp.speak import speak
from fedapp.store.runfolder import RunFolder
from tasks.data.recordings.clips import FPS, SAMPLES_PER_FRAME
from tasks.data.recordings.reading import probe, read_clip, read_sound
from tasks.data.recordings.writing import write_wav
from tasks.errors import InputError
from tasks.talking_head.people import person

pytest.importorskip("av")


@pytest.fixture
def spoken(run: Callable[..., RunFolder], head: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A trained run, a picture that is not square, speech of half a second and three quarters of a
    frame."""
    folder = run(
        **{
            **head,
            "clients.total": 2,
            "clients.min": 2,
            "rounds": 1,
            "run-dir": str(tmp_path / "run"),
        }
    )
    somebody = person(3, 0, "ordinary", 1, 0, 16, 16)
    pixels = (somebody.reference.clamp(0, 1) * 255).byte().numpy()
    Image.fromarray(pixels).resize((48, 32)).save(tmp_path / "me.png")
    voice = somebody.train[0].audio[: 12 * SAMPLES_PER_FRAME + 480]
    write_wav(tmp_path / "hello.wav", voice)
    return {"folder": folder, "picture": tmp_path / "me.png", "sound": tmp_path / "hello.wav"}


def test_speech_becomes_a_video_of_its_length_with_its_sound(
    spoken: dict[str, Any], tmp_path: Path
) -> None:
    assert speak(**spoken, out=tmp_path / "one" / "me.mp4") == 12
    facts = probe(tmp_path / "one" / "me.mp4")
    assert facts.frames == 12 and facts.fps == FPS and facts.width == facts.height == 256
    clip = read_clip(tmp_path / "one" / "me.mp4", 16, 12, 0)
    heard, given = clip.audio[2000:6000], read_sound(spoken["sound"])[2000:6000]
    assert float(torch.corrcoef(torch.stack([heard, given]))[0, 1]) > 0.9, (
        "what was said, from the start"
    )


def test_whose_adapter_it_is_shows(spoken: dict[str, Any], tmp_path: Path) -> None:
    """With a personal adapter on top the frames differ, and differently for another client."""
    frames = []
    for index, client in enumerate((None, 0, 1)):
        speak(**spoken, out=tmp_path / f"{index}.mp4", client=client)
        frames.append((tmp_path / f"{index}.mp4").read_bytes())
    assert len(set(frames)) == 3
    speak(**spoken, out=tmp_path / "again.mp4", client=1)
    assert (tmp_path / "again.mp4").read_bytes() == frames[2]


def test_what_cannot_be_said_is_one_clear_error(spoken: dict[str, Any], tmp_path: Path) -> None:
    quiet = tmp_path / "quiet.wav"
    write_wav(quiet, torch.zeros(16_000))
    for key, changes in (
        ("--picture", {"picture": spoken["sound"]}),
        ("--sound", {"sound": spoken["picture"]}),
        ("--sound", {"sound": quiet}),
        ("--client", {"client": 7}),
        ("--method", {"method": "other"}),
    ):
        with pytest.raises(InputError) as caught:
            speak(**{**spoken, **changes}, out=tmp_path / "never.mp4")
        assert caught.value.key == key
    assert not (tmp_path / "never.mp4").exists()
    given = [
        str(spoken["folder"].path),
        "--picture",
        str(spoken["picture"]),
        "--sound",
        str(spoken["sound"]),
    ]
    refused = CliRunner().invoke(app, ["speak", *given, "--out", str(tmp_path / "me.avi")])
    assert isinstance(refused.exception, InputError) and refused.exception.key == "--out"
    done = CliRunner().invoke(
        app, ["speak", *given, "--client", "1", "--out", str(tmp_path / "me.mp4")]
    )
    assert done.exit_code == 0 and (tmp_path / "me.mp4").exists()
    assert "client 1: person-0001" in done.output, "whose it is, who knows people by name"
