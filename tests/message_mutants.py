"""Ways to change one field of a message, for the mutation of a server's messages."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flwr.app import Array, ArrayRecord, Message

SWAPPED = "of another message "
BLUNT = ("missing", "null", "huge", "empty", "cut")  # lies that give themselves away
MOST_OTHERS = 4  # values of a field from other messages, at most


class Mutant(NamedTuple):
    """One field of one message, changed in one way. ``path`` leads into a text that holds JSON."""

    leg: str
    record: str
    key: str
    path: tuple[str, ...]
    way: str

    @property
    def field(self) -> str:
        """The field as ``choices`` name it."""
        return f"{self.record}.{self.key.split('.')[0]}"


# ---------------------------------------------------------------------- ways to change a value
def changed(value: Any) -> dict[str, Any]:
    """Other values of the same kind, and one that is missing."""
    found: dict[str, Any] = {"missing": None}
    if isinstance(value, bool):
        found["the opposite"] = not value
    elif isinstance(value, int):
        found |= {
            "one more": value + 1,
            "negative": -value - 1,
            "huge": 2**60,
            "one less": value - 1,
        }
    elif isinstance(value, float):
        found |= {"double": 2 * value + 1.0, "tiny": 1e-12}
    elif isinstance(value, str):
        found |= {"longer": value + "x", "empty": "", "another's": "/etc/passwd"}
    elif isinstance(value, bytes):
        found |= {"a bit": bytes([value[0] ^ 1, *value[1:]]) if value else b"x", "cut": value[:-1]}
    elif isinstance(value, list):
        found |= {"shorter": value[:-1], "twice": value + value[:1]}
        for way, entry in changed(value[0]).items() if value else ():
            if entry is not None:
                found[f"first {way}"] = [entry, *value[1:]]
    elif isinstance(value, dict):
        found["extra"] = {**value, "extra": 1}
    elif value is None:
        found["something"] = 1
    return {way: new for way, new in found.items() if way == "missing" or new != value}


def other_array(array: Array) -> Array:
    values = array.numpy().copy()
    values.flat[0] += 1
    return Array(values)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in a table of tables, the tables among them."""
    yield path, value
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))


def as_table(value: Any) -> dict[str, Any] | None:
    """The table in a JSON text, if it is one."""
    try:
        found = json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def leg_of(message: Message) -> str:
    """The kind of a message: Flower's, and of a workflow's own legs the name and the records (the
    first message of a conversation may have fewer)."""
    kind: str = message.metadata.message_type
    if "leg" not in message.content:
        return kind
    return " ".join([kind, str(message.content["leg"]["name"]), *sorted(message.content)])


Place = tuple[str, str, str, tuple[str, ...]]  # a mutant's without its way
Others = dict[Place, list[Any]]


def collect(message: Message, others: Others) -> None:
    """Remember what each place of a message holds: for another message it may be a lie that looks
    like the truth."""
    for name, part in message.content.items():
        for key, value in part.items():
            held = [((), None if isinstance(value, Array) else value)]
            held += [(path, leaf) for path, leaf in leaves(as_table(value) or {}) if path]
            for path, leaf in held:
                values = others.setdefault((leg_of(message), name, key, path), [])
                if leaf is not None and leaf not in values and len(values) < MOST_OTHERS:
                    values.append(copy.deepcopy(leaf))


def mutants(message: Message, others: Others) -> Iterator[Mutant]:
    yield from _mutants(message)
    for place, values in others.items():
        if place[0] == leg_of(message):
            yield from (Mutant(*place, f"{SWAPPED}{number}") for number in range(len(values)))


def _mutants(message: Message) -> Iterator[Mutant]:
    leg = leg_of(message)
    for name, part in message.content.items():
        for key, value in part.items():
            if isinstance(value, Array):
                yield from (Mutant(leg, name, key, (), way) for way in ("one number", "missing"))
                continue
            table = as_table(value)
            if table is not None:
                for path, leaf in leaves(table):
                    for way in (*changed(leaf), "null"):
                        if path or way == "extra":
                            yield Mutant(leg, name, key, path, way)
            yield from (Mutant(leg, name, key, (), way) for way in changed(value) if way != "extra")


def mutate(message: Message, mutant: Mutant, others: Others) -> None:
    """Change the message in place."""
    part = message.content[mutant.record]
    value = part.get(mutant.key)
    if value is None:
        return
    if isinstance(value, Array):
        arrays = {key: array for key, array in part.items() if key != mutant.key}
        if mutant.way != "missing":
            arrays[mutant.key] = other_array(value)
        message.content[mutant.record] = ArrayRecord(arrays)
        return
    swapped = None
    if mutant.way.startswith(SWAPPED):
        swapped = others[mutant[:4]][int(mutant.way.removeprefix(SWAPPED))]
    table = as_table(value) if mutant.path or mutant.way == "extra" else None
    if table is None:
        new = changed(value).get(mutant.way) if swapped is None else swapped
        _put(part, mutant.key, new, mutant.way)  # type: ignore[arg-type]
        return
    place: Any = {"": table}
    for key in ("", *mutant.path)[:-1]:
        place = place[key]
    last = ("", *mutant.path)[-1]
    if last not in place:
        return
    new = changed(place[last]).get(mutant.way) if swapped is None else swapped
    _put(place, last, new, mutant.way)
    part[mutant.key] = json.dumps(table, sort_keys=True)  # type: ignore[index, assignment]


def _put(table: Any, key: str, value: Any, way: str) -> None:
    if way == "null":
        table[key] = None
    elif way == "missing":
        del table[key]
    elif value is not None:
        table[key] = value


def one_of_each(mutants: Iterable[Mutant]) -> dict[Place, Mutant]:
    """A mutant of each place: one that looks as if it could be true, if there is one."""
    return {mutant[:4]: mutant for mutant in sorted(mutants, key=lambda m: m.way not in BLUNT)}
