"""A node's memory of the budget ledger: a server that rolls its book back is noticed by every node that saw more."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy.secagg.primitives import canonical, is_signed


def witness_text(ledger: str, seq: int, head: str) -> bytes:
    """What the server signs about its ledger."""
    return canonical(["fedapp ledger head 1", ledger, seq, head])


class Witness:
    """Keeps the highest (seq, head) seen of each ledger in ``file``; ``server`` is the pinned public key."""

    def __init__(self, file: Path, server: bytes) -> None:
        self.file, self.server = file, server

    def see(self, shown: Mapping[str, Any]) -> None:
        """Remember what the server shows before a charged round; raises ``ValueError`` if it is unsigned, goes
        backwards or has not moved (every charged round writes at least one entry)."""
        ledger, seq, head = str(shown["ledger"]), int(shown["seq"]), str(shown["head"])
        if not is_signed(self.server, bytes.fromhex(str(shown["signature"])), witness_text(ledger, seq, head)):
            raise ValueError("the state of the ledger is not signed by the server in the roster")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = json.loads(self.file.read_text()) if self.file.exists() else {}
            last_seq = known.get(ledger, [-1, ""])[0]
            if seq <= last_seq:
                raise ValueError(f"the ledger went back: entry {seq} is shown, entry {last_seq} was seen")
            temporary = self.file.with_suffix(".new")
            temporary.write_text(json.dumps(known | {ledger: [seq, head]}))
            os.replace(temporary, self.file)
