"""The budget ledger: append-only JSON lines, each hashed into the next, signed, and on disk before
its effect.

It belongs to a population: every run over the same people writes into the same ledger, so tuning
runs count. A round is *reserved* before its clients are drawn and *released* after its sum was
used; a reserve without a release is spent, which is what a crash leaves. Rolled-back ledgers are
noticed by checkpoints and by nodes, which remember how far it was.

Entries: open · config · resume · reserve · cohort · release · abort · stop.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.secagg.identity import load_identity
from privacy.secagg.primitives import canonical, is_signed, public_bytes
from privacy.witness import witness_text
from tasks.atomic import PRIVATE, make_folder, sync_folder, write_bytes
from tasks.errors import InputError

LEDGER_FILE = "ledger.jsonl"
KEY_FILE = "ledger.key"
OPENED_FILE = "ledger.opened"  # beside the ledger: tells a lost ledger from a new one
GENESIS = "0" * 64


@dataclass(frozen=True)
class Head:
    """Position of a ledger: the number of its last entry and that line's hash."""

    seq: int
    hash: str


def line_hash(line: bytes) -> str:
    """SHA-256 of a line without its newline."""
    return sha256(line).hexdigest()


def read_entries(file: Path) -> list[dict[str, Any]]:
    """All entries of a ledger that checks: order, chain, signatures, one canonical text each.

    Raises :class:`InputError` naming the first line that does not.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(
            "ledger",
            str(file),
            f"unreadable ({error})",
            "restore it: a budget without its ledger is spent",
        ) from error
    return _check(data, file)


def _check(data: bytes, file: Path) -> list[dict[str, Any]]:
    def refuse(number: int, reason: str) -> InputError:
        return InputError(
            "ledger",
            f"{file}, line {number}",
            reason,
            "restore the file; a changed ledger proves nothing",
        )

    if not data:
        return []
    lines = data.split(b"\n")
    if lines.pop() != b"":
        raise refuse(len(lines) + 1, "the last line is not complete")
    entries: list[dict[str, Any]] = []
    previous = GENESIS
    public = b""
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            signature = bytes.fromhex(entry.pop("signature"))
            unsigned = canonical(entry)
            whole = canonical({**entry, "signature": signature.hex()})
            public = public or bytes.fromhex(entry["public"])
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise refuse(number, f"is not an entry ({type(error).__name__})") from error
        if whole != line:
            raise refuse(number, "was rewritten (it is not in the one form entries are written in)")
        if entry.get("seq") != number - 1 or entry.get("prev") != previous:
            raise refuse(number, "does not follow the line before it")
        if not is_signed(public, signature, unsigned):
            raise refuse(number, "is not signed by the server that opened the ledger")
        previous = line_hash(line)
        entries.append(entry)
    return entries


class Ledger:
    """An open ledger. Only one process writes at a time; a second one is refused.

    Args:
        folder: of the population.
        population: its name.
        pins: what belongs to the people and not to a run: how many they are, whose data they are,
            their delta and their limit. The first run writes them down; a run with others is
            refused.
    """

    def __init__(
        self, folder: Path, population: str = "", pins: Mapping[str, Any] | None = None
    ) -> None:
        make_folder(folder, PRIVATE)
        self.file = folder / LEDGER_FILE
        opened = folder / OPENED_FILE
        if opened.exists() and not self.file.exists():
            raise self._lost("is missing")
        self.key: Ed25519PrivateKey = load_identity(folder / KEY_FILE, create=True)
        lock = os.open(folder / "ledger.lock", os.O_RDWR | os.O_CREAT, PRIVATE)
        self._lock = os.fdopen(lock, "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise InputError(
                "privacy.population",
                str(folder),
                "another run is writing into this population's ledger",
                "wait for it to end, or use another population",
            ) from error
        self._drop_torn_line()
        self.entries = read_entries(self.file) if self.file.exists() else []
        if self.entries:
            if self.entries[0]["public"] != self.public.hex():
                raise InputError(
                    "ledger", str(self.file), "was opened under another key", "restore ledger.key"
                )
            last = self.file.read_bytes().split(b"\n")[-2]
            self.head = Head(len(self.entries) - 1, line_hash(last))
            self._agree(dict(pins or {}))
        elif opened.exists():
            self._lock.close()
            raise self._lost("is empty")
        else:
            self.head = Head(-1, GENESIS)
            pinned = dict(pins or {})
            self.append("open", population=population, public=self.public.hex(), pins=pinned)
            write_bytes(opened, b"", PRIVATE)

    def _lost(self, flaw: str) -> InputError:
        return InputError(
            "ledger",
            str(self.file),
            f"{flaw} although it was opened before: what was spent is unknown",
            "restore the ledger, or remove the whole folder if these people are new",
        )

    def _agree(self, pins: dict[str, Any]) -> None:
        for name, value in self.entries[0]["pins"].items():
            if name in pins and pins[name] != value:
                self._lock.close()
                raise InputError(
                    f"privacy.{name}" if name != "clients" else "clients.total",
                    pins[name],
                    f"this population's ledger was opened with {value!r}",
                    "what belongs to the people cannot change from run to run: use the same, or "
                    "another population",
                )

    @property
    def public(self) -> bytes:
        """The public key that signs the ledger; pinned in the roster of every node."""
        return public_bytes(self.key)

    @property
    def id(self) -> str:
        """Name of the ledger, which is its key: no other has the same."""
        return self.public.hex()

    def append(self, kind: str, **content: Any) -> dict[str, Any]:
        """Write an entry and return it once it is on disk."""
        # Synced before it returns: whatever follows an entry has happened with the entry on record
        entry = {
            "seq": self.head.seq + 1,
            "prev": self.head.hash,
            "time": round(time.time(), 3),
            "type": kind,
            **content,
        }
        line = canonical({**entry, "signature": self.key.sign(canonical(entry)).hex()})
        new = not self.file.exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with os.fdopen(os.open(self.file, flags, PRIVATE), "ab") as handle:
            os.fchmod(handle.fileno(), PRIVATE)  # an older version may have left it open to all
            handle.write(line + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        if new:
            sync_folder(self.file.parent)
        self.head = Head(entry["seq"], line_hash(line))
        self.entries.append(entry)
        return entry

    def require(self, head: Head) -> None:
        """Raise :class:`InputError` unless the ledger still holds the entry ``head`` that a
        checkpoint was written after."""
        reason = ""
        if head.seq > self.head.seq:
            reason = (
                f"ends at entry {self.head.seq}, the checkpoint was written after entry {head.seq}"
            )
        elif line_hash(self.file.read_bytes().split(b"\n")[head.seq]) != head.hash:
            reason = f"has another entry {head.seq} than when the checkpoint was written"
        if reason:
            raise InputError(
                "ledger",
                str(self.file),
                reason,
                "restore the full ledger: entries were removed or changed",
            )

    def witness(self) -> dict[str, int | str]:
        """Position of the ledger, signed, for nodes to remember."""
        text = witness_text(self.id, self.head.seq, self.head.hash)
        return {
            "ledger": self.id,
            "seq": self.head.seq,
            "head": self.head.hash,
            "signature": self.key.sign(text).hex(),
        }

    def close(self) -> None:
        self._lock.close()

    def _drop_torn_line(self) -> None:
        """Cut off part of a line, left by a process killed while writing; it had no effect, since
        entries act after their sync."""
        if not self.file.exists():
            return
        data = self.file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with open(self.file, "r+b") as handle:
                handle.truncate(whole)
                os.fsync(handle.fileno())
