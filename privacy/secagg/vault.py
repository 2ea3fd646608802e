"""A node's protocol state on its own disk: locked, encrypted at rest, written before anything is said.

Flower's ``context.state`` is copied to every process that answers a message, so two messages at once would both
see the same state, and a server could get both secrets of a peer by asking twice at the same moment. A lock and one
file per node close that; what is written here is synced before the reply that depends on it leaves.
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
from tasks.errors import FedappError

ASSOCIATED = b"fedapp vault 1"


class Vault:
    """``with vault.open() as state``: an exclusive view of a JSON table, saved when the block ends.

    A :class:`RefusalError` that ends the session is saved too (the session is dropped); other errors change nothing.
    """

    def __init__(self, file: Path, identity: Ed25519PrivateKey) -> None:
        self.file = file
        self._key = derive(identity.private_bytes_raw(), b"", "fedapp vault")

    @contextmanager
    def open(self) -> Iterator[dict[str, Any]]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read()
            try:
                yield state
            except RefusalError as refusal:
                if refusal.ends:
                    state["session"] = None
                    self._write(state)
                raise
            self._write(state)

    def _read(self) -> dict[str, Any]:
        if not self.file.exists():
            return {"serial": 0, "prekeys": {}, "latest": [0, 0], "session": None}
        try:
            return json.loads(unseal(self._key, self.file.read_bytes(), ASSOCIATED))
        except ValueError as error:
            raise FedappError(f"{self.file} is damaged or was written under another identity ({error})") from error

    def _write(self, state: dict[str, Any]) -> None:
        temporary = self.file.with_suffix(".new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
            handle.write(seal(self._key, json.dumps(state).encode(), ASSOCIATED))
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, self.file)
