"""Manifests of recordings: the files of each person with their hashes, in ``manifest.json``."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.data.recordings.clips import Recording, UnusableClipError
from tasks.data.recordings.reading import probe
from tasks.errors import InputError

log = logging.getLogger("flwr")

FILE = "manifest.json"
EXPECTED = "manifest.json: {'people': {name: [path below the folder, ...]}}"


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


def below(root: Path, relative: str) -> Path:
    """The file a manifest names; it must lie below the root by its name, whatever links there are,
    and exist."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or Path(relative).is_absolute():
        raise InputError(
            str(root / FILE),
            relative,
            "paths have to stay below the manifest's folder",
            "make it relative",
        )
    path = root / relative
    if not path.is_file():
        raise InputError(
            str(root / FILE), relative, "no such file", "restore it or write the manifest again"
        )
    return path


def entries(root: Path) -> dict[str, list[Entry]]:
    """Entries by person; raises :class:`InputError` for a file that is no manifest."""
    file = root / FILE
    try:
        people = Manifest.model_validate_json(file.read_bytes()).people
    except (OSError, ValidationError) as error:
        raise InputError(
            "data.path", str(file), f"not a manifest: {error}", f"expected {EXPECTED}"
        ) from error
    return {
        person: [Entry(path=entry) if isinstance(entry, str) else entry for entry in listed]
        for person, listed in people.items()
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(root: Path) -> None:
    """Hold every file the manifest names against the hash it gives; :class:`InputError` if one
    differs."""
    listed = [entry for person in entries(root).values() for entry in person]
    promises = [(entry.path, entry.sha256) for entry in listed]
    promises += [(entry.audio, entry.audio_sha256) for entry in listed if entry.audio is not None]
    for relative, promised in promises:
        if _digest(below(root, relative)) != promised:
            unknown = promised is None
            reason = "the manifest has no hash of it" if unknown else "not the file that was hashed"
            remedy = "restore the file, or write the manifest again if the change is meant"
            raise InputError(str(root / FILE), relative, reason, remedy)


def write(root: Path, people: Mapping[str, Sequence[Recording]]) -> Path:
    """``manifest.json`` below ``root``: paths relative to it, hashes, frame rates, picture sizes
    (width, height).

    Recordings that cannot be opened are left out and logged. Returns the manifest's path.
    """
    listed: dict[str, list[Entry | str]] = {}
    for person, recordings in people.items():
        listed[person] = []
        for path, audio, name in recordings:
            try:
                header = probe(path)
            except UnusableClipError as error:
                log.warning("left out of the manifest: %s", error)
                continue
            size = (header.width, header.height)
            entry = Entry(path=name, sha256=_digest(path), fps=header.fps, size=size)
            if audio is not None:
                entry.audio = audio.relative_to(root).as_posix()
                entry.audio_sha256 = _digest(audio)
            listed[person].append(entry)
    file = root / FILE
    file.write_text(
        Manifest(people=listed).model_dump_json(indent=1, exclude_none=True) + "\n",
        encoding="utf-8",
    )
    return file
