"""Windows of a person's recordings: shared out, cut where they belong, skipped by reason."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from recording_kit import FRAMES, SIZE, put, speaking

from tasks.data.recordings.clips import FPS, RATE, SAMPLES_PER_FRAME, Clip
from tasks.data.recordings.reading import read_clip
from tasks.data.recordings.writing import write_clip
from tasks.errors import InputError
from tasks.talking_head.folders import list_people
from tasks.talking_head.people import clip_of, identity
from tasks.talking_head.windows import load_person

pytest.importorskip("av")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[object, Counter[str]]]:
    """``load({"a": 2, "b": 1}, held_out, most)``: a person with recordings of that many windows."""

    def make(windows: dict[str, int], held_out: int, most: int) -> tuple[object, Counter[str]]:
        (tmp_path / "ann").mkdir(exist_ok=True)
        for number, (stem, count) in enumerate(windows.items()):
            file = tmp_path / "ann" / f"{stem}.mp4"
            if not file.exists():  # written anew, an encoder on a busy machine has other bits
                write_clip(file, speaking(count, number))
        return load_person("ann", list_people(tmp_path, "own")["ann"], SIZE, FRAMES, held_out, most)

    return make


# recordings and their windows, held out, most -> names trained on, names held out
SHARED: list[tuple[dict[str, int], int, int, list[str], list[str]]] = [
    ({"a": 1, "b": 1, "c": 1, "d": 1}, 1, 9, ["c", "d"], ["b"]),  # a gives the reference
    ({"a": 1, "b": 1, "c": 1, "d": 1}, 1, 1, ["c"], ["b"]),
    (
        {"a": 3, "b": 2, "c": 1},
        2,
        9,
        ["a#0", "a#1", "a#2"],
        ["b#0", "b#1"],
    ),  # the shortest that is long enough
    (
        {"a": 1, "b": 1, "c": 3},
        2,
        9,
        ["b"],
        ["c#0", "c#1"],
    ),  # its third window is not used: nothing straddles
    ({"a": 1, "b": 1, "c": 1, "d": 1}, 2, 9, ["d"], ["b", "c"]),
    (
        {"a": 2, "b": 3, "c": 3, "d": 1},
        2,
        4,
        ["b#0", "c#0", "b#1", "c#1"],
        ["a#0", "a#1"],
    ),  # in turn
    ({"a": 3, "b": 1}, 1, 9, ["a#1", "a#2"], ["a#0"]),  # two recordings: the longer one is divided
    ({"a": 4}, 1, 9, ["a#2", "a#3"], ["a#1"]),  # one recording: a#0 gives the reference
    ({"a": 9}, 1, 2, ["a#2", "a#3"], ["a#1"]),
]


@pytest.mark.parametrize(("windows", "held_out", "most", "train", "held"), SHARED)
def test_windows_are_shared_out(
    load: Callable,
    windows: dict[str, int],
    held_out: int,
    most: int,
    train: list[str],
    held: list[str],
) -> None:
    person, skipped = load(windows, held_out, most)
    assert [clip.name.replace("ann/", "").replace(".mp4", "") for clip in person.train] == train
    assert [clip.name.replace("ann/", "").replace(".mp4", "") for clip in person.held_out] == held
    assert not skipped
    used = [frame for clip in (*person.train, *person.held_out) for frame in clip.frames]
    assert person.reference.shape == (SIZE, SIZE, 3)
    assert not any(torch.equal(person.reference, frame) for frame in used)


def test_windows_are_consecutive_and_the_reference_is_the_quietest_frame(
    tmp_path: Path, load: Callable
) -> None:
    """Four windows and 3 frames more: the windows start at 1, 6, 11 and 16."""
    (tmp_path / "ann").mkdir()
    path = tmp_path / "ann" / "a.mp4"
    write_clip(path, clip_of(identity(0, 0), "talk", 4 * FRAMES + 3, SIZE, "folders"))
    person, _ = load({}, 1, 9)
    clips = [read_clip(path, SIZE, FRAMES, 1 + k * FRAMES) for k in range(4)]
    quietest = clips[0].audio.view(FRAMES, SAMPLES_PER_FRAME).square().mean(1).argmin()
    assert torch.equal(person.reference, clips[0].frames[quietest])
    for read, expected in zip((*person.held_out, *person.train), clips[1:], strict=True):
        assert torch.equal(read.frames, expected.frames) and torch.equal(read.audio, expected.audio)


@pytest.mark.parametrize(
    ("kind", "video", "sound"),
    [
        ("mov", "libx264", "aac"),
        ("m4v", "libx264", "aac"),
        ("mkv", "libx264", "pcm_s16le"),
        ("webm", "libvpx", "libopus"),
        ("avi", "mpeg4", "pcm_s16le"),
    ],
)
def test_other_containers_are_read(tmp_path: Path, kind: str, video: str, sound: str) -> None:
    """The same two windows and three frames in each of them; the sound lies where it was."""
    import av

    if not {video, sound} <= av.codecs_available:
        pytest.skip(f"this FFmpeg writes no {video} or {sound}")
    seconds = torch.arange(3 * FRAMES * SAMPLES_PER_FRAME) / RATE
    rising = 0.5 * torch.sin(
        2 * math.pi * (200 + 400 * seconds) * seconds
    )  # loud enough for every codec, no two alike
    clip = clip_of(identity(0, 0), "talk", 3 * FRAMES, SIZE, "folders")._replace(audio=rising)
    (tmp_path / "ann").mkdir()
    rate = 48_000 if sound == "libopus" else RATE
    with av.open(str(tmp_path / "ann" / f"a.{kind}"), "w") as container:
        seen = container.add_stream(video, rate=FPS)
        heard = container.add_stream(sound, rate=rate, layout="mono")
        seen.width = SIZE
        seen.height = SIZE
        seen.pix_fmt = "yuv420p"
        for index, picture in enumerate((clip.frames * 255).round().byte()):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            frame.pts = index
            frame.time_base = Fraction(1, FPS)
            container.mux(seen.encode(frame))
        container.mux(seen.encode(None))
        audio = clip.audio.repeat_interleave(rate // RATE)[None].contiguous().numpy()
        whole = av.AudioFrame.from_ndarray(audio, format="fltp", layout="mono")
        whole.pts = 0
        whole.time_base = Fraction(1, rate)
        whole.sample_rate = rate
        container.mux(heard.encode(whole))
        container.mux(heard.encode(None))
    person, skipped = load_person("ann", list_people(tmp_path, "own")["ann"], SIZE, FRAMES, 1, 1)
    assert not skipped
    (train,) = person.train
    truth = clip.audio[2 * FRAMES * SAMPLES_PER_FRAME :]
    assert float(torch.corrcoef(torch.stack([train.audio, truth]))[0, 1]) > 0.9
    assert float((train.frames - clip.frames[2 * FRAMES :]).square().mean()) < 10**-2, (
        "20 dB: codecs at their defaults"
    )


def test_the_same_files_give_the_same_person(load: Callable) -> None:
    (first, _), (again, _) = (load({"b": 2, "a": 1, "c": 2}, 1, 9) for _ in range(2))
    assert torch.equal(first.reference, again.reference)
    assert [clip.name for clip in first.train] == [clip.name for clip in again.train]
    assert all(
        torch.equal(a.frames, b.frames) for a, b in zip(first.train, again.train, strict=True)
    )


def spoil(folder: Path) -> None:
    """One recording for every reason but "no video"; silence in the middle one of three windows."""
    clip = speaking(1)
    (folder / "1.mp4").write_text("not a video", encoding="utf-8")
    write_clip(folder / "2.mp4", clip._replace(audio=torch.zeros(0)))
    write_clip(folder / "3.mp4", Clip("short", clip.frames[:-1], clip.audio[:-SAMPLES_PER_FRAME]))
    partly = speaking(3)
    partly.audio[SAMPLES_PER_FRAME * FRAMES : 2 * SAMPLES_PER_FRAME * FRAMES] = 0
    write_clip(folder / "4.mp4", clip._replace(audio=torch.zeros_like(clip.audio)))
    write_clip(folder / "5.mp4", partly)


def test_unusable_recordings_are_skipped_counted_and_logged(
    tmp_path: Path, load: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """Usable are b and two windows of 5: b, the shorter, gives the reference, and 5 is divided."""
    (tmp_path / "ann").mkdir()
    spoil(tmp_path / "ann")
    with caplog.at_level(logging.WARNING, "flwr"):
        person, skipped = load({"b": 1}, 1, 9)
    assert [clip.name for clip in person.held_out] == ["ann/5.mp4#0"]
    assert [clip.name for clip in person.train] == ["ann/5.mp4#2"]
    assert skipped == Counter({"unreadable": 1, "no audio": 1, "too short": 1, "silent": 2})
    assert all(f"{number}.mp4: " in caplog.text for number in range(1, 6))


def test_too_little_is_an_error_with_the_counts(tmp_path: Path, load: Callable) -> None:
    """Usable are b and two windows of 5: too few for the reference, two held out and one to train
    on."""
    (tmp_path / "ann").mkdir()
    spoil(tmp_path / "ann")
    with pytest.raises(InputError) as caught:
        load({"b": 1}, 2, 9)
    message = str(caught.value)
    assert (
        "'ann'" in message
        and "2 of 2 held out, 0 to train on" in message
        and "→ add recordings of 0.20 s" in message
    )
    assert "skipped: 1 no audio, 2 silent, 1 too short, 1 unreadable" in message


def test_three_recordings_are_not_divided(load: Callable) -> None:
    """a gives the reference; three held out take b and half of c, and the other half may not be
    trained on."""
    with pytest.raises(InputError, match="3 of 3 held out, 0 to train on; skipped: nothing"):
        load({"a": 2, "b": 2, "c": 2}, 3, 9)


def test_nobody_usable_at_all(load: Callable, tmp_path: Path) -> None:
    put(tmp_path, "ann/a.mp4", content="not a video")
    with pytest.raises(
        InputError,
        match="0 for the reference, 0 of 1 held out, 0 to train on; skipped: 1 unreadable",
    ):
        load({}, 1, 9)
