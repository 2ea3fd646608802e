"""Golf swings: GolfDB, each swing as its eight events from address to finish.

McNally et al., "GolfDB: A Video Database for Golf Swing Sequencing", CVPR Workshops 2019,
https://arxiv.org/abs/1903.06528 (https://github.com/wmcnally/golfdb), in the form FedMeNF uses::

    golfDB_slice.csv             an unnamed index, id, youtube_id, player, sex, club, view, ...
    images_160/<id>_<0..7>.png   160 x 160 pixels
    use_ids.txt                  one id per line, optional: the others do not count

A golfer with two or more swings is a client and a swing an item: a video of eight frames. Golfers
with fewer are passed over, as in the published experiments. Other clips than these:
:mod:`tasks.data.layouts.clips`.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

from torch import Tensor

from tasks.data.layouts import DatasetLayout, Holder
from tasks.data.layouts.reading import folder, header, picture, stack, unusable

TABLE = "golfDB_slice.csv"
FRAMES = "images_160"
USED = "use_ids.txt"
EVENTS = 8
LEAST = 2  # one swing to train on and one to test on

Swing = tuple[Path, ...]  # the files of the eight events


def _used(root: Path) -> set[int] | None:
    """The ids that count; ``None`` where no list says so."""
    file = root / USED
    if not file.is_file():
        return None
    try:
        lines = file.read_text(encoding="utf-8-sig").split()
        return {int(line) for line in lines}
    except (OSError, ValueError) as error:
        raise unusable(file, f"malformed ({error})", "write one whole number a line") from error


def _swings(root: Path) -> dict[str, list[int]]:
    """Ids of swings by player, in the order of the table."""
    file = root / TABLE
    used = _used(root)
    players: dict[int, str] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            table = csv.DictReader(text)
            if not {"id", "player"} <= set(table.fieldnames or ()):
                raise ValueError("its first line lacks the columns 'id' and 'player'")
            for row in table:
                identifier = (row["id"] or "").strip()
                player = (row["player"] or "").strip()
                if not identifier.isdecimal() or not player:
                    raise ValueError(
                        f"line {table.line_num} has the id {identifier!r} and the player {player!r}"
                    )
                number = int(identifier)
                if number in players:
                    raise ValueError(f"line {table.line_num} has the id {number} for a second time")
                players[number] = player
    except (OSError, ValueError, csv.Error) as error:
        raise unusable(
            file, f"malformed ({error})", "restore the table as the data set has it"
        ) from error
    swings: dict[str, list[int]] = {}
    for number, player in players.items():
        if used is None or number in used:
            swings.setdefault(player, []).append(number)
    return swings


class GolfDB(DatasetLayout):
    """Golfers with two or more swings; an item is the eight files of one."""

    kind = "video"
    owned = True
    expected = f"{TABLE} with {FRAMES}/<id>_<0..7>.png; {USED} optional"

    def found(self, root: Path) -> bool:
        return (root / TABLE).is_file()

    def holders(self, root: Path) -> list[Holder]:
        root = folder(root)
        if not self.found(root):
            raise unusable(root, f"no {TABLE}", f"expected {self.expected}")
        images = folder(root / FRAMES)
        # One listing: asking for 11 200 files one by one takes long on a network.
        there = frozenset(os.listdir(images))
        golfers = []
        for player, numbers in sorted(_swings(root).items()):
            if len(numbers) >= LEAST:
                swings = tuple(self._swing(images, there, number) for number in sorted(numbers))
                golfers.append(Holder(player, swings))
        if not golfers:
            reason = f"no player with {LEAST} or more swings that count"
            raise unusable(root / TABLE, reason, f"add swings, or list more of them in {USED}")
        return golfers

    @staticmethod
    def _swing(images: Path, there: frozenset[str], number: int) -> Swing:
        names = [f"{number}_{event}.png" for event in range(EVENTS)]
        for name in names:
            if name not in there:
                raise unusable(
                    images / name,
                    f"no such file, but {TABLE} has the swing {number}",
                    f"restore it, or leave {number} out of {USED} "
                    "(write that file with all other ids)",
                )
        return tuple(images / name for name in names)

    def measure(self, item: Swing) -> tuple[Path, tuple[int, int]]:
        return item[0], header(item[0])

    def load_video(self, item: Swing, size: int, channels: int, most: int = 0) -> Tensor:
        files = item[: most or None]
        return stack(((file, picture(file, size, channels)) for file in files), "of the same swing")
