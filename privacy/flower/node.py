"""What a node answers to the legs of a secure sum. Its keys, limits and protocol state are on its own disk.

``<state-dir>/`` of a node holds ``identity.key``, ``roster.json``, and, if its owner wants other limits than the
default ones, ``policy.json``. In simulation all nodes share a machine and each gets ``node-<partition>/``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from privacy.flower.wire import RECORD, as_bytes, model_digest, pack_table, unpack_table, unpack_terms
from privacy.releases.lattice import LatticeRelease
from privacy.secagg.client import SecAggClient
from privacy.secagg.identity import KEY_FILE, ROSTER_FILE, Policy, Roster, load_identity
from privacy.secagg.messages import RefusalError
from privacy.secagg.vault import Vault
from privacy.witness import Witness
from strategies.cohort import CohortResult
from strategies.flower.wire import Order, pack_sum, record
from tasks.errors import InputError


def node_folder(content: RecordDict, context: Context, simulated: bool) -> Path:
    """Where this node keeps what must last. A deployed node is told at its start, a simulated one by the server."""
    number = int(context.node_config.get("partition-id", 0))
    if "state-dir" in context.node_config:
        return Path(str(context.node_config["state-dir"]))
    given = str(record(content, "at", ConfigRecord)["state-dir"]) if simulated and "at" in content else ""
    if not given:
        raise InputError(
            "state-dir", "", "a private round needs a folder with this node's keys", 'use --node-config "state-dir=…"'
        )
    return Path(given) / f"node-{number:04d}"


class SecureNode:
    """One node's answers. ``colluding`` is the server's word for it; the node's own policy may assume more."""

    def __init__(self, folder: Path, member: int, roster: str, colluding: int) -> None:
        identity = load_identity(folder / KEY_FILE)
        own = folder / ROSTER_FILE
        file = Path(roster) if roster else own if own.exists() else folder.parent / ROSTER_FILE
        self.roster, policy = Roster.read(file), Policy.read(folder / "policy.json")
        self.policy = replace(policy, colluding=max(policy.colluding, colluding))
        self.client = SecAggClient(member, identity, self.roster, self.policy, Vault(folder / "secagg.vault", identity))
        self.witness = Witness(folder / "ledger-seen.json", self.roster.server)

    def advertise(self, content: RecordDict) -> RecordDict:
        keys = self.client.advertise(int(record(content, RECORD, ConfigRecord)["count"]))  # type: ignore[arg-type]
        return RecordDict({RECORD: ConfigRecord({"prekeys": [key.to_bytes() for key in keys]})})

    def share(self, content: RecordDict, release: LatticeRelease) -> RecordDict:
        terms = unpack_terms(record(content, RECORD, ConfigRecord))
        objection = release.objection(
            json.loads(terms.public), terms.least, self.policy.colluding, self.policy.min_noise
        )
        if objection:
            raise RefusalError(objection)
        self.see_ledger(content, release)
        return RecordDict({RECORD: pack_table(b"", self.client.share(terms), "boxes")})

    def masked(
        self, content: RecordDict, order: Order, train: Callable[[], CohortResult], release: LatticeRelease
    ) -> RecordDict:
        """Train and mask. The model is compared with the terms before the vector is handed out."""
        said = record(content, RECORD, ConfigRecord)
        public = json.dumps(dict(order.assignment.public), sort_keys=True)
        model = model_digest(record(content, "broadcast", ArrayRecord), public)
        result = train()
        assert result.payload is not None, "a private release always closes with a vector"
        vector = np.ascontiguousarray(result.payload.vector.numpy()).view(np.uint32)
        self.client.mask(as_bytes(said["session"]), model, unpack_table(said, "boxes"), vector)
        return pack_sum(torch.from_numpy(vector.view(np.int32)), order)

    def confirm(self, content: RecordDict) -> RecordDict:
        said = record(content, RECORD, ConfigRecord)
        survivors = [int(member) for member in said["survivors"]]  # type: ignore[union-attr]
        signature = self.client.confirm(as_bytes(said["session"]), survivors)
        return RecordDict({RECORD: ConfigRecord({"signature": signature})})

    def unmask(self, content: RecordDict) -> RecordDict:
        said = record(content, RECORD, ConfigRecord)
        shares = self.client.unmask(as_bytes(said["session"]), unpack_table(said, "signatures"))
        return RecordDict({RECORD: pack_table(b"", shares, "shares")})

    def see_ledger(self, content: RecordDict, release: LatticeRelease) -> None:
        """Under a budget the server must show how far its book is, and never go back."""
        if not release.noised:
            return
        if "ledger" not in content:
            raise RefusalError("a noised round without the state of the budget's ledger")
        try:
            self.witness.see(dict(record(content, "ledger", ConfigRecord)))
        except ValueError as error:
            raise RefusalError(str(error)) from error
