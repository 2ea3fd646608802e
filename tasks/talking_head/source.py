"""People of a run: parametric ones, or those of a folder. Clients first, people for judging after
them.

Of parametric clients every sixth is reserved, of unseen ones every third: a style most of what is
learned together does not know.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import lru_cache
from pathlib import Path

from tasks.data.recordings.clips import Recording
from tasks.errors import InputError, nearest
from tasks.settings import TalkingHeadSettings, TaskSettings
from tasks.talking_head import people
from tasks.talking_head.person import Person

log = logging.getLogger("flwr")
POPULATION = 0  # the seed of the parametric people that clients are
UNSEEN = 500_000  # numbers of unseen clients start here: people who took part in no round


def person(settings: TaskSettings, number: int) -> Person:
    """Client ``number``, or (from :data:`UNSEEN` on) somebody no client is; raises
    :class:`InputError`."""
    if settings.data.path:
        return _recorded(settings, number)[0]
    head = settings.talking_head
    size = settings.data.size
    return people.person(
        POPULATION, number, _style(number), head.clips, head.held_out_clips, head.frames, size
    )


def _style(number: int) -> str:
    reserved = (number - UNSEEN) % 3 == 2 if number >= UNSEEN else number % 6 == 5
    return people.STYLES[reserved]


def write_people(root: Path, count: int, settings: TaskSettings) -> Path:
    """``count`` parametric clients as real files, ``root/<person>/<clip>.mp4`` and ``.wav``, and a
    manifest (its path).

    A folder like any other: its people's references come from clips of their own, its manifest has
    relative paths.
    """
    from tasks.data.recordings.writing import write_clip, write_wav
    from tasks.talking_head import manifest

    parametric = settings.model_copy(update={"data": settings.data.model_copy(update={"path": ""})})
    listed: dict[str, list[Recording]] = {}
    for number in range(count):
        who = person(parametric, number)
        calm = people.clip_of(
            people.identity(POPULATION, number, _style(number)),
            f"{who.name}/calm",
            settings.talking_head.frames,
            settings.data.size,
            POPULATION,
            number,
            -1,
        )
        place = root / who.name
        place.mkdir(parents=True, exist_ok=True)
        for index, clip in enumerate((calm, *who.train, *who.held_out)):
            file = place / f"{index:02d}.mp4"
            sound = file.with_suffix(".wav")
            write_clip(file, clip)
            write_wav(sound, clip.audio)
            listed.setdefault(who.name, []).append(
                Recording(file, sound, f"{who.name}/{file.name}")
            )
    return manifest.write(root, listed)


def refuse_layout(settings: TaskSettings) -> None:
    """Raise :class:`InputError` for a layout that is none, or one without a folder: before a
    backbone is trained."""
    from tasks.talking_head.folders import LAYOUTS

    layout = settings.talking_head.layout
    if layout == "auto" or (settings.data.path and layout in LAYOUTS):
        return
    if layout not in LAYOUTS:
        valid = nearest(layout, [*LAYOUTS, "auto"])
        raise InputError("talking-head.layout", layout, "unknown layout", valid)
    raise InputError(
        "talking-head.layout", layout, "a layout needs a folder", "give it with -o data.path=…"
    )


def check(settings: TaskSettings, clients: int) -> None:
    """Read everybody once before work starts; raises :class:`InputError` naming who is missing or
    unusable."""
    refuse_layout(settings)
    if not settings.data.path:
        return
    names = _names(settings.data.path, settings.talking_head.layout)
    spare = settings.data.spare
    hosts = settings.data.hosts(clients)
    if len(names) < len(hosts) + spare:
        raise InputError(
            "clients.total",
            clients,
            f"{settings.data.path} holds {len(names)} people, {spare} of them kept for judging "
            "(data.held-out)",
            f"set it to {max(0, len(names) - spare)} or fewer",
        )
    skipped: Counter[str] = Counter()
    for number in (*hosts, *range(UNSEEN, UNSEEN + spare)):
        skipped += _recorded(settings, number)[1]
    if skipped:
        log.warning(
            "clips skipped: %s",
            ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())),
        )


@lru_cache(maxsize=8)
def _names(path: str, layout: str) -> dict[str, list]:
    from tasks.talking_head import folders

    root = Path(path)
    return folders.list_people(root, folders.detect(root) if layout == "auto" else layout)


@lru_cache(maxsize=64)
def _recorded(settings: TaskSettings, number: int) -> tuple[Person, Counter[str]]:
    """People of a folder by name: the last ``data.held-out`` are unseen clients (on a person's own
    device, none)."""
    from tasks.talking_head.windows import load_person

    head: TalkingHeadSettings = settings.talking_head
    listed = _names(settings.data.path, head.layout)
    names = list(listed)
    spare = settings.data.spare
    place = settings.data.place(number) if number < UNSEEN else len(names) - spare + number - UNSEEN
    if number < UNSEEN and place >= len(names) - spare:
        remedy = "add a folder of their clips" if settings.data.hosted else "lower clients.total"
        raise InputError(
            "data.path", settings.data.path, f"holds nobody for client {number}", remedy
        )
    name = names[place]
    return load_person(
        name, listed[name], settings.data.size, head.frames, head.held_out_clips, head.clips
    )
