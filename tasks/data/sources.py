"""Sources of a field task's signals: made of numbers, one folder of pictures, or a data set in its
own layout."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from tasks.data import folder
from tasks.data.deal import objects_of
from tasks.data.layouts import DatasetLayout, Holder, Kind, detect, open_layout
from tasks.data.naming import nobodys
from tasks.errors import InputError, together
from tasks.settings import NOBODY, DataSettings
from tasks.signals import ClientSignals, Signal

log = logging.getLogger(__name__)

CACHED_CLIENTS = 1024  # clients a process keeps decoded
UNSEEN = 10_000_000  # numbers of unseen clients start here: no client of a run holds these
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")
PICTURE_FOLDER = "pictures"  # a folder of images, one per client: no layout of its own


class Procedural:
    """Signals made of numbers, or bundled under them: client i's follow from i, and held-out ones
    from numbers no client reaches."""

    def __init__(
        self,
        data: DataSettings,
        make: Callable[[int], Signal],
        spare: Callable[[int], Signal] | None = None,
    ):
        self.data = data
        self.make = lru_cache(CACHED_CLIENTS)(make)
        self.spare = spare or (lambda index: self.make(UNSEEN + index))

    def check(self, clients: int) -> None:
        if self.data.layout != "auto":
            raise InputError(
                "data.path",
                "",
                f"layout {self.data.layout} needs a folder",
                "give it with -o data.path=…",
            )
        if self.data.hosted not in ("", NOBODY):
            raise InputError(
                "data.hosted",
                self.data.hosted,
                "bundled and procedural data lie everywhere",
                "leave it empty, or give data.path",
            )
        for client in range(clients) if self.data.objects > 1 and not self.data.size else ():
            _same_size(self.client(client).signals, f"client {client}")

    def client(self, client: int) -> ClientSignals:
        place = client + self.data.skip
        signals = tuple(
            self.make(number) for number in objects_of(place, self.data.objects, self.data.alpha)
        )
        return ClientSignals(signals[0].name, signals)

    def held_out(self) -> Sequence[Signal]:
        return self.non_members(self.data.held_out)

    def non_members(self, count: int) -> Sequence[Signal]:
        return [self.spare(index + self.data.skip) for index in range(count)]


@contextmanager
def kept(faults: list[InputError]) -> Iterator[None]:
    """Bad input inside is put beside the others: all are told at once."""
    try:
        yield
    except InputError as error:
        faults.append(error)


class PictureFolder:
    """A folder of images; client i holds ``data.objects`` of them, the last ``data.held-out`` are
    held by nobody."""

    def __init__(self, data: DataSettings) -> None:
        self.data = data
        self.client = lru_cache(CACHED_CLIENTS)(self._client)
        self.held_out = lru_cache(1)(self._held_out)

    def _numbers(self, client: int) -> range:
        return objects_of(self.data.place(client), self.data.objects, self.data.alpha)

    def _load(self, files: Sequence[Path]) -> list[Signal]:
        return [folder.load(file, self.data.size, self.data.channels) for file in files]

    def check(self, clients: int) -> None:
        hosts = self.data.hosts(clients)
        needed = self._numbers(hosts[-1]).stop if hosts else 0
        private, test = folder.split(
            self.data.path, self.data.spare, needed, len(hosts) if self.data.objects > 1 else 0
        )
        faults: list[InputError] = []
        for client in hosts:
            loaded: list[Signal] = []
            for number in self._numbers(client):
                with kept(faults):
                    loaded += self._load([private[number]])
            with kept(faults):
                _same_size(loaded, f"client {client}")
        for file in test:
            with kept(faults):
                self._load([file])
        if faults:
            raise together(faults)
        used = [*private[:needed], *test]
        every = len(private) + len(test)
        if len(used) < every:
            log.warning("%d of %d pictures are used in %s", len(used), every, self.data.path)
        for group in folder.twins(used):
            names = ", ".join(
                f"{file.name} (held out)" if file in test else file.name for file in group
            )
            log.warning("the same picture under several names: %s", names)

    def _client(self, client: int) -> ClientSignals:
        files = folder.image_files(self.data.path)
        numbers = self._numbers(client)
        if numbers.stop > len(files) - self.data.spare:
            remedy = "add images" if self.data.hosted else "lower clients.total"
            raise InputError(
                "data.path", self.data.path, f"holds no image for client {client}", remedy
            )
        signals = tuple(self._load([files[number] for number in numbers]))
        return ClientSignals(signals[0].name, signals)

    def non_members(self, count: int) -> Sequence[Signal]:
        return self.held_out()[:count]

    def _held_out(self) -> Sequence[Signal]:
        files = folder.image_files(self.data.path)
        return self._load(files[len(files) - self.data.spare :])


class DatasetFolder:
    """A data set in a published layout. People and animals are clients as they are; objects are
    dealt out.

    The last ``data.held-out`` holders are held by no client; each gives its first item for
    test-time optimisation.
    """

    def __init__(
        self, data: DataSettings, kind: Kind, load: Callable[[DatasetLayout, Holder, int], Signal]
    ) -> None:
        self.data = data
        self.root = Path(data.path).expanduser()
        name = detect(self.root, kind) if data.layout == "auto" else data.layout
        self.layout = open_layout(name)
        self.load = load
        self.client = lru_cache(CACHED_CLIENTS)(self._client)
        self.first = lru_cache(CACHED_CLIENTS)(lambda holder: load(self.layout, holder, 0))
        if self.layout.kind != kind:
            raise InputError(
                "data.path",
                data.path,
                f"layout {name} holds {self.layout.kind}, this task fits {kind}",
                "choose the task for it: image (pictures), video (video) or nerf (views)",
            )
        self.holders = self.layout.holders(self.root)
        if data.layout == "auto" and self.layout.owned:
            self._refuse_dates(name)

    def _refuse_dates(self, layout: str) -> None:
        """Folders that a camera made would be clients, and a promise to clients one to days."""
        odd = nobodys(holder.name for holder in self.holders)
        if odd:
            raise InputError(
                "data.path",
                self.data.path,
                f"{len(odd)} of its {len(self.holders)} folders have a date or a camera's number "
                f"for a name, such as {odd[0]!r}: whose they are is not said",
                "make a folder for each person and move theirs into it, or give "
                f"data.layout={layout} if each folder is somebody",
            )

    def check(self, clients: int) -> None:
        if self.layout.owned and self.data.alpha:
            raise InputError(
                "data.alpha",
                self.data.alpha,
                "here owners are clients as they are: nothing is dealt out",
                "set it to 0, or use a layout of objects",
            )
        hosts = self.data.hosts(clients)
        if hosts:
            self._held_by(hosts[-1])
        elif len(self.holders) < self.data.spare:
            self._too_few(0, 0)
        faults: list[InputError] = []
        for client in hosts:
            with kept(faults):
                for holder in self._held_by(client):
                    self.layout.check(holder, self.data.size)
                _same_size(
                    self._client(client).signals, f"client {client}"
                )  # looked at, not kept: a server trains nobody
        for holder in self._spare:
            with kept(faults):
                self.first(holder)
        if faults:
            raise together(faults)
        used = self._held_by(hosts[-1])[-1] if hosts else None
        count = 1 + self.holders.index(used) if used else 0
        if count + self.data.spare < len(self.holders):
            log.warning(
                "%d of %d %s are used in %s", count + self.data.spare, len(self.holders),
                "owners" if self.layout.owned else "objects", self.data.path,
            )  # fmt: skip

    def _held_by(self, client: int) -> list[Holder]:
        place = self.data.place(client)
        numbers = range(place, place + 1)
        if not self.layout.owned:
            numbers = objects_of(place, self.data.objects, self.data.alpha)
        if numbers.stop > len(self.holders) - self.data.spare:
            self._too_few(client + 1, numbers.stop)
        return [self.holders[number] for number in numbers]

    def _too_few(self, clients: int, needed: int) -> NoReturn:
        what = "owners" if self.layout.owned else "objects"
        raise InputError(
            "data.path",
            self.data.path,
            f"{len(self.holders)} {what} are too few for {clients} clients ({needed}) and "
            f"{self.data.spare} held out",
            "lower clients.total, data.objects or data.held-out, or add data",
        )

    def _client(self, client: int) -> ClientSignals:
        signals = []
        for holder in self._held_by(client):
            items = range(len(holder.items))[: self.data.objects if self.layout.owned else 1]
            signals += [self.load(self.layout, holder, item) for item in items]
        return ClientSignals(self._held_by(client)[0].name, tuple(signals))

    def non_members(self, count: int) -> Sequence[Signal]:
        return self.held_out()[:count]

    @property
    def _spare(self) -> list[Holder]:
        return self.holders[len(self.holders) - self.data.spare :]

    def held_out(self) -> Sequence[Signal]:
        return [self.first(holder) for holder in self._spare]


def is_picture_folder(data: DataSettings) -> bool:
    """Whether ``data.path`` is to be read as a plain folder of pictures."""
    if data.layout != "auto":
        return data.layout == PICTURE_FOLDER
    root = Path(data.path).expanduser()
    try:
        entries = (
            [entry for entry in root.iterdir() if not entry.name.startswith(".")]
            if root.is_dir()
            else []
        )
    except OSError as error:
        raise InputError(
            "data.path", data.path, f"cannot be read ({error.strerror})", "make it readable"
        ) from error
    return not any(e.is_dir() for e in entries) or any(
        e.is_file() and e.suffix.lower() in PICTURES for e in entries
    )


def _same_size(signals: Sequence[Signal], whose: str) -> None:
    if len({signal.shape[-3:] for signal in signals}) > 1:
        found = ", ".join(
            f"{signal.name} {signal.shape[-3]}x{signal.shape[-2]}" for signal in signals[:4]
        )
        raise InputError(
            "data.size",
            0,
            f"the pictures of {whose} differ in size ({found})",
            "set data.size above 0",
        )
    if len({signal.shape for signal in signals}) > 1:
        found = ", ".join(f"{signal.name} {signal.shape[0]}" for signal in signals[:4])
        raise InputError(
            "data.frames",
            found,
            f"the clips of {whose} differ in length",
            "set data.frames to the shortest, or less",
        )
