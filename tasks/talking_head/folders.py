"""Recordings of people in folders: which file belongs to whom, and one person's files as
:class:`clips.Person`.

Six layouts are known (:data:`LAYOUTS`): your own folders, LRS3, HDTF, VoxCeleb2, RAVDESS, and a
manifest that names the files. Files and folders whose name starts with a dot are passed over; other
video files that a layout leaves out are counted by reason and logged. A recording that cannot be
used is skipped, logged with its path and counted by reason; a person with too little left is an
error, because a silently missing client is worse.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from tasks.data.recordings.clips import FPS, SAMPLES_PER_FRAME, Clip, UnusableClipError
from tasks.data.recordings.reading import probe, read_clip
from tasks.errors import InputError, nearest
from tasks.talking_head.person import Person

log = logging.getLogger("flwr")

MANIFEST = "manifest.json"
PUBLISHED = frozenset({".mp4"})  # what the data sets come as
RECORDED = PUBLISHED | {".mov", ".m4v", ".webm", ".mkv", ".avi"}  # what cameras and browsers write
NAMED = 5  # folders that a warning names


class Recording(NamedTuple):
    """One video file; ``audio`` is a sound file that replaces its own track; ``name`` is its path
    below the root."""

    path: Path
    audio: Path | None
    name: str


Owned = Iterator[
    tuple[str, Recording]
]  # a person's name and one recording of theirs, person by person


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
    for person, entries in _read_manifest(root).items():
        for entry in entries:
            audio = None if entry.audio is None else _below(root, entry.audio)
            yield person, _recording(root, _below(root, entry.path), audio)


class Layout(NamedTuple):
    """How a data set lies on the disk: for the reader, and as a listing of its recordings."""

    expected: str
    recordings: Callable[[Path], Owned]


# The most particular first: the first one that finds a recording is the one detected.
LAYOUTS = {
    "manifest": Layout(
        "manifest.json: {'people': {name: [path below the folder, ...]}}", _manifest
    ),
    "voxceleb2": Layout(
        "[dev/]mp4/<id>/<video>/<clip>.mp4, sound also in [dev/]aac/<...>.m4a", _voxceleb2
    ),
    "ravdess": Layout("Actor_<nn>/01-<...>.mp4", _ravdess),
    "lrs3": Layout("<person>/<clip>.mp4 with <clip>.txt next to it", _lrs3),
    "own": Layout(
        "<person>/<clip>.mp4 (or .mov, .m4v, .webm, .mkv, .avi), sound also in <clip>.wav", _own
    ),
    "hdtf": Layout("<person>_<part>.mp4 at any depth", _hdtf),
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
        if name == "manifest" and not (root / MANIFEST).is_file():
            continue
        if name == "lrs3" and sum(1 for _ in _lrs3(root)) < sum(1 for _ in _own(root)):
            continue
        if next(layout.recordings(root), None) is not None:
            return name
    looked_for = "".join(f"\n      {name}: {layout.expected}" for name, layout in LAYOUTS.items())
    raise InputError(
        "data.path",
        str(root),
        "no recordings in any known layout",
        f"put them in one of:{looked_for}",
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
        _verify(root)
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
    """One warning for every reason why video files below ``root`` are not among ``listed``, with
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
            root, layout, places.total(), reason, ", ".join(named[:NAMED]), more,
        )  # fmt: skip


def _why_not(layout: str, path: Path, name: str) -> str:
    """Why a layout does not list a video file."""
    if layout == "manifest":
        return f"not named in {MANIFEST} (is it older than they are?)"
    if layout != "own" and path.suffix.lower() not in PUBLISHED:
        return f"not {' or '.join(PUBLISHED)}"
    if layout == "lrs3" and name.count("/") == 1 and not path.with_suffix(".txt").is_file():
        return "no transcript next to it"
    if layout == "ravdess" and name.count("/") == 1 and name.startswith("Actor_"):
        return "not 01-… (picture and sound)"
    return f"elsewhere than {LAYOUTS[layout].expected}"


# ---------------------------------------------------------------------- manifest
class Entry(BaseModel):
    """One recording of a manifest; strict, so that a misspelt key is not taken for an absent
    one."""

    model_config = ConfigDict(extra="forbid")
    path: str
    sha256: str | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None
    audio: str | None = None
    audio_sha256: str | None = None


class Manifest(BaseModel):
    """``manifest.json``; other keys next to ``people`` (licence, consent) are the owner's
    business."""

    people: dict[str, list[Entry | str]]


def _below(root: Path, relative: str) -> Path:
    """The file a manifest names; it must lie below the root by its name, whatever links there are,
    and exist."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or Path(relative).is_absolute():
        raise InputError(
            str(root / MANIFEST),
            relative,
            "paths have to stay below the manifest's folder",
            "make it relative",
        )
    path = root / relative
    if not path.is_file():
        raise InputError(
            str(root / MANIFEST), relative, "no such file", "restore it or write the manifest again"
        )
    return path


def _read_manifest(root: Path) -> dict[str, list[Entry]]:
    """Entries by person."""
    file = root / MANIFEST
    try:
        people = Manifest.model_validate_json(file.read_bytes()).people
    except (OSError, ValidationError) as error:
        expected = f"expected {LAYOUTS['manifest'].expected}"
        raise InputError("data.path", str(file), f"not a manifest: {error}", expected) from error
    return {
        person: [Entry(path=entry) if isinstance(entry, str) else entry for entry in listed]
        for person, listed in people.items()
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(root: Path) -> None:
    """Every file the manifest names must have the hash that the manifest gives for it."""
    for entries in _read_manifest(root).values():
        for entry in entries:
            for relative, promised in (
                (entry.path, entry.sha256),
                (entry.audio, entry.audio_sha256),
            ):
                if relative is not None and _digest(_below(root, relative)) != promised:
                    reason = (
                        "the manifest has no hash of it"
                        if promised is None
                        else "not the file that was hashed"
                    )
                    remedy = "restore the file, or write the manifest again if the change is meant"
                    raise InputError(str(root / MANIFEST), relative, reason, remedy)


def write_manifest(root: Path, people: Mapping[str, Sequence[Recording]]) -> Path:
    """``manifest.json`` below ``root``: paths relative to it, hashes, frame rates, picture sizes
    (width, height).

    Recordings that cannot be opened are left out and logged. Returns the manifest's path.
    """
    listed: dict[str, list[Entry | str]] = {}
    for person, recordings in people.items():
        listed[person] = []
        for path, audio, name in recordings:
            try:
                facts = probe(path)
            except UnusableClipError as error:
                log.warning("left out of the manifest: %s", error)
                continue
            entry = Entry(
                path=name, sha256=_digest(path), fps=facts.fps, size=(facts.width, facts.height)
            )
            if audio is not None:
                entry.audio, entry.audio_sha256 = audio.relative_to(root).as_posix(), _digest(audio)
            listed[person].append(entry)
    file = root / MANIFEST
    file.write_text(
        Manifest(people=listed).model_dump_json(indent=1, exclude_none=True) + "\n",
        encoding="utf-8",
    )
    return file


# ---------------------------------------------------------------------- one person
class _Shelf(NamedTuple):
    """What one recording can give: how many windows by its header, and those that prove usable,
    decoded on demand."""

    windows: int
    clips: Iterator[Clip]


def _clips(
    person: str, recording: Recording, size: int, frames: int, length: int, skipped: Counter[str]
) -> Iterator[Clip]:
    """The usable windows of a recording of ``length`` frames in their order, as far from its ends
    as they allow."""
    windows = length // frames
    margin = length % frames // 2
    for index in range(windows):
        name = recording.name if windows == 1 else f"{recording.name}#{index}"
        try:
            yield read_clip(
                recording.path, size, frames, margin + index * frames, recording.audio, name
            )
        except UnusableClipError as error:
            _skip(person, error, skipped)
            if error.reason not in ("silent", "too short"):
                return  # what ails the whole file is counted once


def _skip(person: str, error: UnusableClipError, skipped: Counter[str]) -> None:
    skipped[error.reason] += 1
    log.warning("%s: skipped %s", person, error)


def _shelves(
    person: str, recordings: Sequence[Recording], size: int, frames: int, skipped: Counter[str]
) -> Iterator[_Shelf]:
    for recording in recordings:
        try:
            length = probe(recording.path).frames
            if length < frames:
                raise UnusableClipError("too short", recording.path, f"{length} of {frames} frames")
        except UnusableClipError as error:
            _skip(person, error, skipped)
        else:
            yield _Shelf(length // frames, _clips(person, recording, size, frames, length, skipped))


def _in_turn(shelves: Sequence[_Shelf]) -> Iterator[Clip]:
    """One window of every recording, then the next of every recording, until all are used up."""
    waiting = list(shelves)
    while waiting:
        for shelf in list(waiting):
            clip = next(shelf.clips, None)
            if clip is None:
                waiting.remove(shelf)
            else:
                yield clip


def _at_rest(clip: Clip) -> Tensor:
    """``[H, W, 3]``: the quietest frame, where the mouth is most likely closed; a copy, so that the
    clip can go."""
    loudness = clip.audio.view(-1, SAMPLES_PER_FRAME).square().mean(1)
    return clip.frames[int(loudness.argmin())].clone()


def load_person(
    name: str, recordings: Sequence[Recording], size: int, frames: int, held_out: int, most: int
) -> tuple[Person, Counter[str]]:
    """A person with at most ``most`` windows to train on and ``held_out`` held out, and what was
    skipped, by reason.

    Windows of ``frames`` frames do not overlap. With three usable recordings or more, no recording
    serves two purposes: the shortest gives the reference, the shortest that is long enough (else
    the longest ones) is held out, and the rest takes turns in training. With two, the longer one is
    divided; with one, that one gives everything. Decoding stops when there is enough. Raises
    :class:`InputError` with the counts if fewer than ``held_out`` windows and one to train on are
    left.
    """
    skipped: Counter[str] = Counter()
    shelves = sorted(
        _shelves(name, recordings, size, frames, skipped), key=lambda shelf: shelf.windows
    )
    calm: Clip | None = None
    while shelves and calm is None:
        shared = shelves.pop(0).clips
        calm = next(shared, None)

    shelves.sort(
        key=lambda s: (s.windows < held_out, s.windows if s.windows >= held_out else -s.windows)
    )
    held: list[Clip] = []
    sources = 0
    while shelves and len(held) < held_out:
        source = shelves.pop(0).clips
        if taken := list(islice(source, held_out - len(held))):
            held += taken
            shared, sources = source, sources + 1
    train = list(islice(_in_turn(shelves), most))
    if (
        calm is not None and not train and sources < 2
    ):  # fewer than three usable recordings: one has to be divided
        held += islice(shared, held_out - len(held))
        train = list(islice(shared, most))

    if calm is None or not train or len(held) < held_out:
        causes = (
            ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "nothing"
        )
        raise InputError(
            "data.path",
            name,
            f"too few usable windows of {frames} frames in {len(recordings)} recordings: {int(calm is not None)} for "
            f"the reference, {len(held)} of {held_out} held out, {len(train)} to train on; skipped: {causes}",
            f"add recordings of {frames / FPS:.2f} s or more with sound, lower talking-head.held-out-clips, or leave "
            "the person out",
        )
    return Person(name, _at_rest(calm), train, held), skipped
