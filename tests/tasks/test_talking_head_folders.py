"""Folders of recordings: every layout as its data set has it, and the files that one leaves out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from recording_kit import names, put

from tasks.errors import InputError
from tasks.talking_head.folders import LAYOUTS, detect, list_people

FOUND: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "own": (
        [
            "ben/b.mp4",
            "ben/a.MP4",
            "ben/a.wav",
            "ben/._a.mp4",
            "ben/notes.txt",
            "ann/x.mp4",
            "loose.mp4",
            ".git/x.mp4",
        ],
        {"ann": ["ann/x.mp4"], "ben": ["ben/a.MP4", "ben/b.mp4"]},
    ),
    "lrs3": (
        [
            "0af00UcTOSc/50001.mp4",
            "0af00UcTOSc/50001.txt",
            "0af00UcTOSc/50002.mp4",
            "0af00UcTOSc/50002.txt",
        ],
        {"0af00UcTOSc": ["0af00UcTOSc/50001.mp4", "0af00UcTOSc/50002.mp4"]},
    ),
    "hdtf": (
        ["RD_Radio1_000.mp4", "WDA_BenCardin_001.mp4", "WDA_BenCardin_000.mp4", "nameless.mp4"],
        {
            "RD_Radio1": ["RD_Radio1_000.mp4"],
            "WDA_BenCardin": ["WDA_BenCardin_000.mp4", "WDA_BenCardin_001.mp4"],
        },
    ),
    "voxceleb2": (
        [
            "dev/mp4/id00012/v2/00001.mp4",
            "dev/mp4/id00012/v1/00002.mp4",
            "dev/aac/id00012/v1/00002.m4a",
        ],
        {"id00012": ["dev/mp4/id00012/v1/00002.mp4", "dev/mp4/id00012/v2/00001.mp4"]},
    ),
    "ravdess": (
        [f"Actor_02/{kind}-01-03-01-02-01-02.mp4" for kind in ("01", "02")]
        + ["Actor_02/03-01-03-01-02-01-02.wav"],
        {"Actor_02": ["Actor_02/01-01-03-01-02-01-02.mp4"]},
    ),
    "manifest": (["deep/er/b.mp4", "a.mp4", "unlisted/c.mp4"], {"ann": ["a.mp4", "deep/er/b.mp4"]}),
}


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
    (
        "own",
        ["loose.mov", "ann/deep/b.mp4", "ann/deep/c.mkv", ".trash/d.mp4", "ann/._a.mp4"],
        "own: ignored 3 of the video files, elsewhere than <person>/<clip>.mp4 (or .mov, .m4v, "
        ".webm, .mkv, .avi), sound also in <clip>.wav: ann/ (2), loose.mov",
    ),
    (
        "lrs3",
        ["ann/b.mp4", "ben/c.mp4", "ben/d.mp4"],
        "lrs3: ignored 3 of the video files, no transcript next to it: ann/ (1), ben/ (2)",
    ),
    ("lrs3", ["ann/b.webm"], "lrs3: ignored 1 of the video files, not .mp4: ann/ (1)"),
    (
        "ravdess",
        ["Actor_01/02-01.mp4"],
        "ravdess: ignored 1 of the video files, not 01-… (picture and sound): Actor_01/ (1)",
    ),
    (
        "manifest",
        [f"{name}/{clip}.mp4" for name in "bcdefgh" for clip in range(2)],
        "manifest: ignored 14 of the video files, not named in manifest.json (is it older than "
        "they are?): b/ (2), c/ (2), d/ (2), e/ (2), f/ (2) and 2 more",
    ),
]


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


@pytest.mark.parametrize(
    "clips",
    [
        ("2024-05-01_1.mp4", "2024-05-02_1.mp4"),
        ("20240501_123456.mp4", "20240502_101112.mp4"),
        ("VID_20240501_123456.mp4", "IMG_0017_2.mp4"),
        ("anna_1.mp4", "2024-05-01_1.mp4"),
        ("WIN_20240101_12_00_00_Pro.mp4", "WIN_20240102_12_00_00_Pro.mp4"),
        ("GMT20240101-120000_Recording.mp4",),
        ("DJI_0001.mp4", "DJI_0002.mp4"),
        ("2024-01-01/VID_1.mp4", "2024-01-02/VID_2.mp4"),
    ],
)
def test_dates_are_not_taken_for_people(tmp_path: Path, clips: tuple[str, ...]) -> None:
    """The unit of privacy would be a day. Named people, and a layout somebody insists on, stay."""
    put(tmp_path, *clips)
    with pytest.raises(InputError, match="whose they are is not said") as refused:
        detect(tmp_path)
    assert "folder of their own" in refused.value.remedy
    assert list_people(tmp_path, "own" if "/" in clips[0] else "hdtf")
    named = tmp_path / "named"
    put(
        named,
        "WDA_BarackObama_000.mp4",
        "RD_Radio10_001.mp4",
        "Vidal_1.mp4",
        "Imogen_2.mp4",
        "001_0001.mp4",
        "T_1.mp4",
    )
    assert detect(named) == "hdtf"
