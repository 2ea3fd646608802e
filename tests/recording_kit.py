"""Small recordings of parametric people, and folders of files that are merely there."""

from __future__ import annotations

from pathlib import Path

from tasks.data.recordings.clips import Clip, Recording
from tasks.talking_head.people import clip_of, identity

SIZE = 32
FRAMES = 5


def speaking(windows: int, number: int = 0) -> Clip:
    return clip_of(
        identity(0, number), f"talk-{number}", windows * FRAMES, SIZE, "folders", number, windows
    )


def put(root: Path, *names: str, content: str = "") -> None:
    """Files that are merely there: a listing opens none."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")


def names(people: dict[str, list[Recording]]) -> dict[str, list[str]]:
    return {
        person: [recording.name for recording in recordings]
        for person, recordings in people.items()
    }
