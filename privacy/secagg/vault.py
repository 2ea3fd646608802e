"""A node's protocol state on its own disk: locked, encrypted at rest, written before anything is
said.

Flower's ``context.state`` is copied to every process that answers a message, so two messages at
once would both see the same state, and a server could get both secrets of a peer by asking twice at
the same moment. A lock and one place per node close that.

State is written to two slots in turn, so a process killed while writing leaves the state before.
Nothing is synced: what the kernel has survives a killed process, and after a power cut the machine
has another boot id, under which no session is continued and no unused key is touched (where there
is no boot id, every write is synced instead).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.secagg.messages import RefusalError
from privacy.secagg.primitives import derive, seal, unseal
from tasks.atomic import PRIVATE, make_folder
from tasks.errors import FedappError

ASSOCIATED = b"fedapp vault 3"
# A slot holds the number of the write, the length of its box, and the box
TURN_BYTES = 8
LENGTH_BYTES = 4
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Name of this start of the machine; empty where the system does not say."""
    try:
        return BOOT_ID.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class Vault:
    """``with vault.open() as state``: an exclusive view of a JSON table, saved when the block ends.

    A :class:`RefusalError` that ends the session is saved too (the session is dropped); other
    errors change nothing.
    """

    def __init__(self, file: Path, identity: Ed25519PrivateKey) -> None:
        self.file = file
        self._slots = (file.with_suffix(".a"), file.with_suffix(".b"))
        self._key = derive(identity.private_bytes_raw(), b"", "fedapp vault")
        self._boot = boot_id()

    @contextmanager
    def open(self) -> Iterator[dict[str, Any]]:
        make_folder(self.file.parent, PRIVATE)
        lock = os.open(self.file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read()
            had_secrets = state["session"] is not None
            try:
                yield state
            except RefusalError as refusal:
                if refusal.ends:
                    state["session"] = None
                    self._write(state)
                    self._write(state)  # into the other slot too, which still holds its secrets
                raise
            self._write(state)
            if had_secrets and state["session"] is None:
                self._write(state)  # the other slot still held the session: nothing of it stays
        finally:
            os.close(lock)

    def _read(self) -> dict[str, Any]:
        """The newer of the slots that are whole."""
        found = [slot.read_bytes() for slot in self._slots if slot.exists()]
        for data in sorted(found, key=lambda data: data[:TURN_BYTES], reverse=True):
            state = self._unsealed(data)
            if state is not None:
                break
        else:
            # One torn slot alone is what a process killed in its first write leaves
            if len(found) == 2:
                raise FedappError(f"{self.file} is damaged or was written under another identity")
            return {
                "turn": 0,
                "boot": self._boot,
                "serial": 0,
                "prekeys": {},
                "latest": [0, 0],
                "session": None,
            }
        if state["boot"] != self._boot:
            state |= {"boot": self._boot, "prekeys": {}, "session": None}
        return state

    def _unsealed(self, data: bytes) -> dict[str, Any] | None:
        """State in a slot; ``None`` if it was torn by a killed process, or is not ours."""
        start = TURN_BYTES + LENGTH_BYTES
        turn = data[:TURN_BYTES]
        length = int.from_bytes(data[TURN_BYTES:start], "big")
        try:
            return json.loads(unseal(self._key, data[start : start + length], ASSOCIATED + turn))
        except ValueError:
            return None

    def _write(self, state: dict[str, Any]) -> None:
        state["turn"] = int(state["turn"]) + 1
        turn = state["turn"].to_bytes(TURN_BYTES, "big")
        box = seal(self._key, json.dumps(state).encode(), ASSOCIATED + turn)
        descriptor = os.open(self._slots[state["turn"] % 2], os.O_WRONLY | os.O_CREAT, PRIVATE)
        try:
            data = turn + len(box).to_bytes(LENGTH_BYTES, "big") + box
            # Overwritten in place, to its old end: nothing of an older state stays behind it
            data += bytes(max(os.fstat(descriptor).st_size - len(data), 0))
            # A full disk must raise here, before anything that depends on this state is said
            while data:
                data = data[os.write(descriptor, data) :]
            if not self._boot:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
