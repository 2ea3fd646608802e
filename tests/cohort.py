"""A whole secure sum without transport, for tests: who drops out at which leg is an argument."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from privacy.joint import CHECK
from privacy.secagg.client import SecAggClient
from privacy.secagg.graph import default_threshold
from privacy.secagg.identity import Policy, Roster
from privacy.secagg.messages import Terms
from privacy.secagg.primitives import public_bytes
from privacy.secagg.server import SecAggServer
from privacy.secagg.vault import Vault

MODEL = bytes(32)


class Cohort:
    """``n`` nodes with pinned identities, and the legs of a sum as methods."""

    def __init__(self, folder: Path, n: int, policy: Policy | None = None) -> None:
        keys = [Ed25519PrivateKey.generate() for _ in range(n)]
        self.roster = Roster(
            {index: public_bytes(key) for index, key in enumerate(keys)}, bytes(32)
        )
        self.policy = policy or Policy(min_nodes=2)
        self.clients = [
            SecAggClient(
                index, key, self.roster, self.policy, Vault(folder / f"{index}.vault", key)
            )
            for index, key in enumerate(keys)
        ]
        self.round = 0

    def terms(
        self,
        length: int,
        threshold: int = 0,
        degree: int = 0,
        members: list[int] | None = None,
        model: bytes = MODEL,
    ) -> Terms:
        """New terms among ``members`` with fresh prekeys; ``length`` without the check block."""
        self.round += 1
        chosen = members if members is not None else list(range(len(self.clients)))
        prekeys = tuple(self.clients[member].advertise(1)[0] for member in chosen)
        return Terms(
            1,
            self.round,
            prekeys,
            threshold or default_threshold(len(chosen)),
            degree or len(chosen) - 1,
            2,
            length + CHECK,
            "{}",
            "{}",
            model,
        )

    def run(
        self,
        terms: Terms,
        vectors: dict[int, NDArray[np.uint32]],
        *,
        at_share: Collection[int] = (),
        at_upload: Collection[int] = (),
        at_confirm: Collection[int] = (),
        at_unmask: Collection[int] = (),
    ) -> NDArray[np.uint32]:
        """The sum, with nodes vanishing for good at the named legs."""
        server = SecAggServer(terms, self.roster.members)
        self.server, self.uploads = server, {}
        gone = set(at_share)
        for member in terms.members:
            if member not in gone:
                server.shared(member, self.clients[member].share(terms))
        gone |= set(at_upload)
        for member in server.close_sharing():
            if member not in gone:
                vector = np.concatenate([vectors[member], np.zeros(CHECK, np.uint32)])
                self.clients[member].mask(terms.session, terms.model, server.inbox(member), vector)
                self.uploads[member] = vector
                server.upload(member, vector)
        gone |= set(at_confirm)
        for member in (survivors := server.close_uploads()):
            if member not in gone:
                server.confirmed(member, self.clients[member].confirm(terms.session, survivors))
        gone |= set(at_unmask)
        for member in server.close_confirmation():
            if member not in gone:
                server.reveal(
                    member, self.clients[member].unmask(terms.session, server.signatures(member))
                )
        return server.finish()
