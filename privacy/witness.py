"""A node's memory of the budget ledger: a shorter one than it saw before is refused.

Not noticed: a server that keeps two ledgers and shows this node only the one that grows. What a
node has been charged it therefore counts itself (:class:`privacy.secagg.identity.Policy`,
``epsilon_max``).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy.accounting import gaussian_epsilon
from privacy.secagg.primitives import canonical, is_signed
from tasks.atomic import PRIVATE, make_folder, write_bytes


def witness_text(ledger: str, seq: int, head: str) -> bytes:
    """The bytes the server signs about its ledger."""
    return canonical(["fedapp ledger head 1", ledger, seq, head])


class Witness:
    r"""Keeps in ``file`` the last (seq, head) seen of the ledger, and what its rounds cost;
    ``server`` is its key.

    ``epsilon_max`` (0: no limit of its own) is what all rounds this node takes part in may cost its
    clients at ``delta``, by its own count: Gaussian events of multipliers z compose to one of
    :math:`(\sum z^{-2})^{-1/2}`.
    """

    def __init__(
        self, file: Path, server: bytes, epsilon_max: float = 0.0, delta: float = 1e-5
    ) -> None:
        self.file = file
        self.server = server
        self.epsilon_max = epsilon_max
        self.delta = delta

    def see(self, shown: Mapping[str, Any], multiplier: float) -> None:
        """Remember what the server shows before a charged round, and count it; raises
        ``ValueError`` if it is unsigned, goes backwards, has not moved (every charged round writes
        at least one entry), or costs too much."""
        ledger = str(shown["ledger"])
        seq = int(shown["seq"])
        head = str(shown["head"])
        signature = bytes.fromhex(str(shown["signature"]))
        # A ledger has the name of the key that signs it: no second one beside it
        if ledger != self.server.hex():
            raise ValueError("the ledger is not that of the server in the roster")
        if not is_signed(self.server, signature, witness_text(ledger, seq, head)):
            raise ValueError("the state of the ledger is not signed by the server in the roster")
        make_folder(self.file.parent, PRIVATE)
        flags = os.O_RDWR | os.O_CREAT
        with os.fdopen(os.open(self.file.with_suffix(".lock"), flags, PRIVATE), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = {"seq": -1, "precision": 0.0}
            if self.file.exists():
                known = json.loads(self.file.read_text(encoding="utf-8"))
            if seq <= known["seq"]:
                raise ValueError(
                    f"the ledger went back: entry {seq} is shown, entry {known['seq']} was seen"
                )
            precision = known["precision"] + (multiplier**-2 if multiplier > 0 else math.inf)
            if self.epsilon_max:
                spent = math.inf
                if precision < math.inf:
                    spent = gaussian_epsilon(math.sqrt(precision), self.delta)
                if not spent <= self.epsilon_max:
                    raise ValueError(
                        f"epsilon would be {spent:.2f}, this node allows {self.epsilon_max:g}"
                    )
            # On disk before the round: after a power cut nothing that was counted is counted again
            seen = {"seq": seq, "head": head, "precision": precision}
            write_bytes(self.file, json.dumps(seen).encode(), PRIVATE)
