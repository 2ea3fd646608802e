"""Windows of a person's recordings, shared out: a reference, clips to train on, clips held out.

A recording that cannot be used is skipped, logged with its path and counted by reason; a person
with too little left is an error, because a silently missing client is worse.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from torch import Tensor

from tasks.data.recordings.clips import FPS, SAMPLES_PER_FRAME, Clip, Recording, UnusableClipError
from tasks.data.recordings.reading import probe, read_clip
from tasks.errors import InputError
from tasks.talking_head.person import Person

log = logging.getLogger("flwr")


class _Shelf(NamedTuple):
    """Yield of one recording: the number of windows by its header, and those that prove usable,
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
                return  # a fault of the whole file is counted once


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
    """A person, and the recordings that were skipped, by reason.

    Windows of ``frames`` frames do not overlap. With three usable recordings or more, no recording
    serves two purposes: the shortest gives the reference, the shortest that is long enough (else
    the longest ones) is held out, and the rest takes turns in training. With two, the longer one is
    divided; with one, that one gives everything. Decoding stops when there is enough. Raises
    :class:`InputError` with the counts if fewer than ``held_out`` windows and one to train on are
    left.

    Args:
        name: of the person.
        recordings: of the person, in the order of their names.
        size: pixels per side of the square that frames are cut and scaled to.
        frames: length of a window.
        held_out: number of windows to hold out.
        most: number of windows to train on, at most.
    """
    skipped: Counter[str] = Counter()
    shelves = sorted(
        _shelves(name, recordings, size, frames, skipped), key=lambda shelf: shelf.windows
    )
    calm: Clip | None = None
    while shelves and calm is None:
        shared = shelves.pop(0).clips
        calm = next(shared, None)

    # The shortest that is long enough leaves most to train on; if none is, the longest come first.
    shelves.sort(
        key=lambda s: (s.windows < held_out, s.windows if s.windows >= held_out else -s.windows)
    )
    held: list[Clip] = []
    sources = 0
    while shelves and len(held) < held_out:
        source = shelves.pop(0).clips
        if taken := list(islice(source, held_out - len(held))):
            held += taken
            shared = source
            sources += 1
    train = list(islice(_in_turn(shelves), most))
    # Fewer than three usable recordings: one has to be divided.
    if calm is not None and not train and sources < 2:
        held += islice(shared, held_out - len(held))
        train = list(islice(shared, most))

    if calm is None or not train or len(held) < held_out:
        causes = [f"{count} {reason}" for reason, count in sorted(skipped.items())]
        raise InputError(
            "data.path",
            name,
            f"too few usable windows of {frames} frames in {len(recordings)} recordings: "
            f"{int(calm is not None)} for the reference, {len(held)} of {held_out} held out, "
            f"{len(train)} to train on; skipped: {', '.join(causes) or 'nothing'}",
            f"add recordings of {frames / FPS:.2f} s or more with sound, lower "
            "talking-head.held-out-clips, or leave the person out",
        )
    return Person(name, _at_rest(calm), train, held), skipped
