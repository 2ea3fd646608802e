"""Recordings of people in folders: the owner of each file, by the layout of its data set.

Six layouts are known (:data:`LAYOUTS`): your own folders, LRS3, HDTF, VoxCeleb2, RAVDESS, and a
manifest that names the files. Files and folders whose name starts with a dot are passed over; other
video files that a layout leaves out are counted by reason and logged.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tasks.data.naming import nobodys
from tasks.data.recordings.clips import Recording
from tasks.errors import InputError, nearest
from tasks.talking_head import manifest

log = logging.getLogger("flwr")

PUBLISHED = frozenset({".mp4"})  # what the data sets come as
# what cameras and browsers write
RECORDED = PUBLISHED | {".mov", ".m4v", ".webm", ".mkv", ".avi", ".3gp", ".mts", ".m2ts"}
RECORDED |= {".mpg", ".mpeg", ".wmv", ".ogv"}
NAMED = 5  # folders that a warning names
# a person's name and one recording of theirs, person by person
Owned = Iterator[tuple[str, Recording]]


# ---------------------------------------------------------------------- layouts
def _folders(parent: Path) -> Iterator[Path]:
    entries = sorted(parent.iterdir()) if parent.is_dir() else []
    return (entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _videos(paths: Iterator[Path], kinds: frozenset[str] = PUBLISHED) -> Iterator[Path]:
    """The files of these kinds among them in the order of their paths (cameras write .MP4)."""
    return (
        p
        for p in sorted(paths)
        if p.suffix.lower() in kinds and p.is_file() and not p.name.startswith(".")
    )


def _recording(root: Path, path: Path, audio: Path | None = None) -> Recording:
    """``audio`` counts only if there is such a file."""
    return Recording(
        path,
        audio if audio is not None and audio.is_file() else None,
        path.relative_to(root).as_posix(),
    )


def _own(root: Path) -> Owned:
    for person in _folders(root):
        for path in _videos(person.iterdir(), RECORDED):
            yield person.name, _recording(root, path, path.with_suffix(".wav"))


def _lrs3(root: Path) -> Owned:
    for folder in _folders(root):
        for path in _videos(folder.iterdir()):
            if path.with_suffix(".txt").is_file():
                yield folder.name, _recording(root, path)


def _hdtf(root: Path) -> Owned:
    for path in _videos(root.rglob("*")):
        person, _, _ = path.stem.rpartition("_")
        if person:
            yield person, _recording(root, path)


def _voxceleb2(root: Path) -> Owned:
    for base in (root, root / "dev"):
        for person in _folders(base / "mp4"):
            for video in _folders(person):
                for path in _videos(video.iterdir()):
                    sound = base / "aac" / person.name / video.name / f"{path.stem}.m4a"
                    yield person.name, _recording(root, path, sound)


def _ravdess(root: Path) -> Owned:
    for actor in _folders(root):
        if actor.name.startswith("Actor_"):
            for path in _videos(actor.iterdir()):
                if path.name.startswith(
                    "01-"
                ):  # 01: picture and sound, 02: picture only, 03: sound only
                    yield actor.name, _recording(root, path)


def _manifest(root: Path) -> Owned:
    for person, entries in manifest.entries(root).items():
        for entry in entries:
            audio = None if entry.audio is None else manifest.below(root, entry.audio)
            yield person, _recording(root, manifest.below(root, entry.path), audio)


class PeopleLayout(NamedTuple):
    """A data set's order of files: as a line for the reader, and as a listing of recordings."""

    expected: str
    recordings: Callable[[Path], Owned]


# The most particular first: the first one that finds a recording is the one detected.
LAYOUTS = {
    "manifest": PeopleLayout(manifest.EXPECTED, _manifest),
    "voxceleb2": PeopleLayout(
        "[dev/]mp4/<id>/<video>/<clip>.mp4, sound also in [dev/]aac/<...>.m4a", _voxceleb2
    ),
    "ravdess": PeopleLayout("Actor_<nn>/01-<...>.mp4", _ravdess),
    "lrs3": PeopleLayout("<person>/<clip>.mp4 with <clip>.txt next to it", _lrs3),
    "own": PeopleLayout(
        "<person>/<clip>.mp4 (or .mov, .m4v, .webm, .mkv, .avi), sound also in <clip>.wav", _own
    ),
    "hdtf": PeopleLayout("<person>_<part>.mp4 at any depth", _hdtf),
}


def detect(root: Path) -> str:
    """The name of the first layout that finds a recording; :class:`InputError` with all that were
    looked for.

    LRS3 differs from own folders by transcripts alone and leaves out what has none: it has to find
    all that they find.
    """
    if not root.is_dir():
        raise InputError(
            "data.path", str(root), "no such folder", "give a folder that holds people's recordings"
        )
    for name, layout in LAYOUTS.items():
        if name == "manifest" and not (root / manifest.FILE).is_file():
            continue
        if name == "lrs3" and sum(1 for _ in _lrs3(root)) < sum(1 for _ in _own(root)):
            continue
        if next(layout.recordings(root), None) is not None:
            if name in ("hdtf", "own"):
                _refuse_dates(root, layout, name)
            return name
    looked_for = "".join(f"\n      {name}: {layout.expected}" for name, layout in LAYOUTS.items())
    raise InputError(
        "data.path",
        str(root),
        "no recordings in any known layout",
        f"put them in one of:{looked_for}",
    )


def _refuse_dates(root: Path, layout: PeopleLayout, called: str) -> None:
    """A flat folder of one's own clips looks like HDTF, folders of a camera like people's, with
    dates for people: each would be a client, and a promise to clients one to days."""
    odd = [
        (person, one)
        for person, one in layout.recordings(root)
        # HDTF's people are what stands before a number: DJI of DJI_0001
        if nobodys([person, *([Path(one.name).stem] if called == "hdtf" else [])])
    ]
    if odd:
        person, one = odd[0]
        raise InputError(
            "data.path",
            str(root),
            f"{len(odd)} of its recordings have a date or a camera's number where a person's name "
            f"would stand, such as {one.name}: whose they are is not said",
            f"put each person's into a folder of their own, name people in {manifest.FILE}, or "
            f"give talking-head.layout={called} if {person!r} is somebody",
        )


def list_people(root: Path, layout: str, verify: bool = False) -> dict[str, list[Recording]]:
    """Everybody's recordings, people and recordings by name; ``verify``: the files must have the
    manifest's hashes.

    Raises :class:`InputError` for an unknown layout, no recordings, a manifest that is wrong or
    files that changed.
    """
    if layout not in LAYOUTS:
        raise InputError("talking-head.layout", layout, "unknown layout", nearest(layout, LAYOUTS))
    if verify:
        manifest.verify(root)
    people: dict[str, list[Recording]] = {}
    for person, recording in LAYOUTS[layout].recordings(root):
        people.setdefault(person, []).append(recording)
    if not people:
        expected = f"expected {LAYOUTS[layout].expected}"
        raise InputError("data.path", str(root), f"no recordings in layout {layout!r}", expected)
    _warn(
        root, layout, {recording.name for recordings in people.values() for recording in recordings}
    )
    return {
        person: sorted(people[person], key=lambda recording: recording.name)
        for person in sorted(people)
    }


# ---------------------------------------------------------------------- what a layout leaves out
def _warn(root: Path, layout: str, listed: set[str]) -> None:
    """One warning per reason for which video files below ``root`` are not among ``listed``, with
    the folders."""
    left_out: dict[str, Counter[str]] = {}
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(place, file)
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() in RECORDED and not file.startswith(".") and name not in listed:
                top, below, _ = name.partition("/")
                left_out.setdefault(_why_not(layout, path, name), Counter())[top + below] += 1
    for reason, places in left_out.items():
        named = [
            f"{place} ({count})" if place.endswith("/") else place
            for place, count in sorted(places.items())
        ]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        log.warning(
            "%s, read as %s: ignored %d of the video files, %s: %s%s",
            root,
            layout,
            places.total(),
            reason,
            ", ".join(named[:NAMED]),
            more,
        )


def _why_not(layout: str, path: Path, name: str) -> str:
    """Reason for which a layout does not list a video file."""
    if layout == "manifest":
        return f"not named in {manifest.FILE} (is it older than they are?)"
    if layout != "own" and path.suffix.lower() not in PUBLISHED:
        return f"not {' or '.join(PUBLISHED)}"
    if layout == "lrs3" and name.count("/") == 1 and not path.with_suffix(".txt").is_file():
        return "no transcript next to it"
    if layout == "ravdess" and name.count("/") == 1 and name.startswith("Actor_"):
        return "not 01-… (picture and sound)"
    return f"elsewhere than {LAYOUTS[layout].expected}"
