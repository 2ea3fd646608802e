"""Folders of recordings: every layout as its data set has it, manifests, and how a person's windows
are shared out."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from tasks.data.recordings.clips import FPS, RATE, SAMPLES_PER_FRAME, Clip
from tasks.data.recordings.reading import read_clip
from tasks.data.recordings.writing import write_clip, write_wav
from tasks.errors import InputError
from tasks.talking_head.folders import (
    LAYOUTS,
    Recording,
    detect,
    list_people,
    load_person,
    write_manifest,
)
from tasks.talking_head.people import clip_of, identity

pytest.importorskip("av")
SIZE, FRAMES = 32, 5


def speaking(windows: int, number: int = 0) -> Clip:
    return clip_of(
        identity(0, number), f"talk-{number}", windows * FRAMES, SIZE, "folders", number, windows
    )


def put(root: Path, *names: str, content: str = "") -> None:
    """Files that are merely there: a listing opens none."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def names(people: dict[str, list[Recording]]) -> dict[str, list[str]]:
    return {
        person: [recording.name for recording in recordings]
        for person, recordings in people.items()
    }


# ---------------------------------------------------------------------- layouts
FOUND: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "own": (
        ["ben/b.mp4", "ben/a.MP4", "ben/a.wav", "ben/._a.mp4", "ben/notes.txt", "ann/x.mp4", "loose.mp4", ".git/x.mp4"],
        {"ann": ["ann/x.mp4"], "ben": ["ben/a.MP4", "ben/b.mp4"]},
    ),
    "lrs3": (
        ["0af00UcTOSc/50001.mp4", "0af00UcTOSc/50001.txt", "0af00UcTOSc/50002.mp4", "0af00UcTOSc/50002.txt"],
        {"0af00UcTOSc": ["0af00UcTOSc/50001.mp4", "0af00UcTOSc/50002.mp4"]},
    ),
    "hdtf": (
        ["RD_Radio1_000.mp4", "WDA_BenCardin_001.mp4", "WDA_BenCardin_000.mp4", "nameless.mp4"],
        {"RD_Radio1": ["RD_Radio1_000.mp4"], "WDA_BenCardin": ["WDA_BenCardin_000.mp4", "WDA_BenCardin_001.mp4"]},
    ),
    "voxceleb2": (
        ["dev/mp4/id00012/v2/00001.mp4", "dev/mp4/id00012/v1/00002.mp4", "dev/aac/id00012/v1/00002.m4a"],
        {"id00012": ["dev/mp4/id00012/v1/00002.mp4", "dev/mp4/id00012/v2/00001.mp4"]},
    ),
    "ravdess": (
        [f"Actor_02/{kind}-01-03-01-02-01-02.mp4" for kind in ("01", "02")] + ["Actor_02/03-01-03-01-02-01-02.wav"],
        {"Actor_02": ["Actor_02/01-01-03-01-02-01-02.mp4"]},
    ),
    "manifest": (["deep/er/b.mp4", "a.mp4", "unlisted/c.mp4"], {"ann": ["a.mp4", "deep/er/b.mp4"]}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_detected_and_listed(tmp_path: Path, layout: str) -> None:
    files, expected = FOUND[layout]
    put(tmp_path, *files)
    if layout == "manifest":
        put(
            tmp_path,
            "manifest.json",
            content=json.dumps({"people": {"ann": ["deep/er/b.mp4", "a.mp4"]}}),
        )
    assert detect(tmp_path) == layout
    people = list_people(tmp_path, layout)
    assert names(people) == expected and list(people) == sorted(expected)
    assert all(r.path == tmp_path / r.name for recordings in people.values() for r in recordings)
    sounds = {
        r.audio.relative_to(tmp_path).as_posix()
        for rs in people.values()
        for r in rs
        if r.audio is not None
    }
    assert sounds == {"own": {"ben/a.wav"}, "voxceleb2": {"dev/aac/id00012/v1/00002.m4a"}}.get(
        layout, set()
    )


def test_voxceleb2_without_dev(tmp_path: Path) -> None:
    put(tmp_path, "mp4/id1/v/1.mp4", "aac/id1/v/1.m4a")
    assert detect(tmp_path) == "voxceleb2"
    (recording,) = list_people(tmp_path, "voxceleb2")["id1"]
    assert recording.audio == tmp_path / "aac/id1/v/1.m4a"


def test_one_transcript_does_not_make_own_folders_lrs3(tmp_path: Path) -> None:
    put(tmp_path, "ann/a.mp4", "ann/a.txt", "ann/b.mp4", "ben/a.mov")
    assert detect(tmp_path) == "own"
    assert names(list_people(tmp_path, "own")) == {
        "ann": ["ann/a.mp4", "ann/b.mp4"],
        "ben": ["ben/a.mov"],
    }


def test_what_cameras_and_browsers_write_is_listed(tmp_path: Path) -> None:
    files = ["ann/a.MOV", "ann/b.mov", "ann/c.webm", "ann/d.mkv", "ann/e.m4v", "ann/f.AVI"]
    put(tmp_path, *files, "ann/a.jpg", "ann/a.wav")
    assert detect(tmp_path) == "own" and names(list_people(tmp_path, "own")) == {"ann": files}
    put(tmp_path, "manifest.json", content=json.dumps({"people": {"ann": files}}))
    assert names(list_people(tmp_path, "manifest")) == {"ann": files}


IGNORED: list[tuple[str, list[str], str]] = [
    ("own", ["loose.mov", "ann/deep/b.mp4", "ann/deep/c.mkv", ".trash/d.mp4", "ann/._a.mp4"],
     "own: ignored 3 of the video files, elsewhere than <person>/<clip>.mp4 (or .mov, .m4v, .webm, .mkv, .avi), sound "
     "also in <clip>.wav: ann/ (2), loose.mov"),
    ("lrs3", ["ann/b.mp4", "ben/c.mp4", "ben/d.mp4"],
     "lrs3: ignored 3 of the video files, no transcript next to it: ann/ (1), ben/ (2)"),
    ("lrs3", ["ann/b.webm"], "lrs3: ignored 1 of the video files, not .mp4: ann/ (1)"),
    ("ravdess", ["Actor_01/02-01.mp4"],
     "ravdess: ignored 1 of the video files, not 01-… (picture and sound): Actor_01/ (1)"),
    ("manifest", [f"{name}/{clip}.mp4" for name in "bcdefgh" for clip in range(2)],
     "manifest: ignored 14 of the video files, not named in manifest.json (is it older than they are?): "
     "b/ (2), c/ (2), d/ (2), e/ (2), f/ (2) and 2 more"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "files", "warning"), IGNORED)
def test_what_a_layout_leaves_out_is_named_by_reason_and_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str, files: list[str], warning: str
) -> None:
    put(tmp_path, "ann/a.mp4", "ann/a.txt", "Actor_01/01-01.mp4", "Actor_01/01-01.txt")
    listed = {"people": {"ann": ["ann/a.mp4", "Actor_01/01-01.mp4"]}}
    put(tmp_path, "manifest.json", content=json.dumps(listed))
    with caplog.at_level(logging.WARNING, "flwr"):
        before = list_people(tmp_path, layout)
        caplog.clear()
        put(tmp_path, *files)
        assert list_people(tmp_path, layout) == before
    assert warning in caplog.text


def test_a_folder_that_is_read_whole_needs_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "ann/a.mp4", "ann/notes.txt", "ben/b.mov", "ben/b.wav", "portrait.jpg")
    with caplog.at_level(logging.WARNING, "flwr"):
        list_people(tmp_path, detect(tmp_path))
    assert not caplog.text


def test_no_known_layout_names_them_all(tmp_path: Path) -> None:
    put(tmp_path, "too/deep/a.mp4", "readme.txt")  # the folder above a data set is no data set
    with pytest.raises(InputError) as caught:
        detect(tmp_path)
    assert all(
        f"{name}: {layout.expected}" in str(caught.value) for name, layout in LAYOUTS.items()
    )


def test_a_wrong_place_or_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        detect(tmp_path / "nowhere")
    with pytest.raises(InputError, match="did you mean 'ravdess'"):
        list_people(tmp_path, "ravdes")
    with pytest.raises(InputError, match="no recordings in layout 'own'"):
        list_people(tmp_path, "own")


# ---------------------------------------------------------------------- manifest
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
        file = write_manifest(tmp_path, people)
    assert "ann/bad.mp4: unreadable" in caplog.text
    (entry,) = json.loads(file.read_text())["people"]["ann"]
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


# ---------------------------------------------------------------------- one person
@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[object, Counter[str]]]:
    """``load({"a": 2, "b": 1}, held_out, most)``: a person with recordings of that many windows."""

    def make(windows: dict[str, int], held_out: int, most: int) -> tuple[object, Counter[str]]:
        (tmp_path / "ann").mkdir(exist_ok=True)
        for number, (stem, count) in enumerate(windows.items()):
            write_clip(tmp_path / "ann" / f"{stem}.mp4", speaking(count, number))
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
    [("mov", "libx264", "aac"), ("m4v", "libx264", "aac"), ("mkv", "libx264", "pcm_s16le"),
     ("webm", "libvpx", "libopus"), ("avi", "mpeg4", "pcm_s16le")],
)  # fmt: skip
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
        seen, heard = (
            container.add_stream(video, rate=FPS),
            container.add_stream(sound, rate=rate, layout="mono"),
        )
        seen.width, seen.height, seen.pix_fmt = SIZE, SIZE, "yuv420p"
        for index, picture in enumerate((clip.frames * 255).round().byte()):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(seen.encode(frame))
        container.mux(seen.encode(None))
        audio = clip.audio.repeat_interleave(rate // RATE)[None].contiguous().numpy()
        whole = av.AudioFrame.from_ndarray(audio, format="fltp", layout="mono")
        whole.pts, whole.time_base, whole.sample_rate = 0, Fraction(1, rate), rate
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
    (folder / "1.mp4").write_text("not a video")
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
