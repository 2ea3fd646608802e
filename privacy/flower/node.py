"""A node's answers to the legs of a secure sum. Its keys, limits and protocol state are on its own
disk.

``<state-dir>/`` of a node holds ``identity.key``, ``roster.json``, and, if its owner wants other
limits than the default ones, ``policy.json``. In simulation all nodes share a machine and each gets
``node-<partition>/``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from privacy.flower.wire import (
    RECORD,
    as_bytes,
    model_digest,
    pack_table,
    unpack_integers,
    unpack_table,
    unpack_terms,
)
from privacy.releases.lattice import LatticeRelease
from privacy.secagg.client import SecAggClient
from privacy.secagg.groups import GroupPin, group_of
from privacy.secagg.identity import (
    KEY_FILE,
    LEAST_HONEST,
    Policy,
    Roster,
    load_identity,
)
from privacy.secagg.messages import RefusalError, Terms
from privacy.secagg.vault import Vault
from privacy.witness import Witness
from strategies.flower.records import record

if TYPE_CHECKING:
    from strategies.cohort import CohortResult
    from strategies.flower.wire import Order
    from strategies.release import Release


class SecureNode:
    """One node's answers.

    Args:
        folder: its own, with its key, its limits and its protocol state.
        member: its number in the roster.
        roster: file of the roster.
        policy: its own limits, with as many hostile nodes as they or the configuration assume.
        config: hash of this node's configuration, which the server's must equal.
        hosts: ids of the clients it has; ``None``: whatever it is asked to train.
        about: what exact sums of the provable mode are about (task and size of pictures): of
            another size they would be another function of the same pictures.
    """

    def __init__(
        self,
        folder: Path,
        member: int,
        roster: Path,
        policy: Policy,
        config: str,
        hosts: frozenset[int] | None,
        about: str = "",
    ) -> None:
        self.about = about
        identity = load_identity(folder / KEY_FILE)
        self.roster = Roster.read(roster)
        self.policy = policy
        self.client = SecAggClient(
            member, identity, self.roster, self.policy, Vault(folder / "secagg.vault", identity)
        )
        limits = (self.policy.epsilon_max, self.policy.delta)
        self.witness = Witness(folder / "ledger-seen.json", self.roster.server, *limits)
        self.groups = GroupPin(folder, self.roster.members)
        self.member = member
        self.config = config
        self.hosts = hosts

    def advertise(self, content: RecordDict) -> RecordDict:
        said = record(content, RECORD, ConfigRecord)
        keys = self.client.advertise(int(said["count"]))  # type: ignore[arg-type]
        return RecordDict({RECORD: ConfigRecord({"prekeys": [key.to_bytes() for key in keys]})})

    def share(self, content: RecordDict, name: str, release: LatticeRelease) -> RecordDict:
        """Share secrets for a sum; everything that can be wrong about it is looked at before."""
        terms = unpack_terms(record(content, RECORD, ConfigRecord))
        public = json.loads(terms.public)
        work = json.loads(terms.work)
        objection = (
            self.policy.forbids(name, release.own_noise, release.noised, release.provable)
            or release.objection(public, len(terms.prekeys), terms.least, self.policy.colluding)
            or self._objection(terms, public, work)
        )
        if release.exact() and not objection:
            objection = self._objection_to_exact(terms, work, release)
        if terms.degree < len(terms.prekeys) - 1 and release.placement == "distributed":
            objection = "distributed noise is counted over a complete graph"
        if objection:
            raise RefusalError(objection)
        if release.noised:
            if not isinstance(work["ledger"], list):
                raise RefusalError("noised work that names no entry of the budget's ledger")
            self.see_ledger(content, release.multiplier, work["ledger"])
        return RecordDict({RECORD: pack_table(b"", self.client.share(terms), "boxes")})

    def _objection_to_exact(
        self, terms: Terms, work: dict[str, Any], release: LatticeRelease
    ) -> str:
        """Reason to refuse a sum without noise: not of the whole group, or of another one."""
        if terms.least != len(terms.prekeys):
            return f"a sum without noise is of all {len(terms.prekeys)} members or of none"
        honest = len(terms.prekeys) - self.policy.colluding
        if honest < LEAST_HONEST:
            return (
                f"a sum without noise of {len(terms.prekeys)} members, of which "
                f"{self.policy.colluding} may be hostile, is one of {honest}"
            )
        return self.groups.objection(group_of(work["clients"]), self.about)

    def _objection(self, terms: Terms, public: dict[str, Any], work: dict[str, Any]) -> str:
        """Reason to refuse this work; empty if each client is named once, on one node, and as many
        are named as the public numbers say."""
        if work["order"]["config"] != self.config:
            return "the server's configuration is not this node's"
        # One spelling only: the masked leg looks its clients up by the same text
        names = {str(member): member for member in terms.members}
        for table in ("clients", "versions"):
            told = work.get(table, {})
            if set(told) != set(names) or not all(
                isinstance(numbers, list) and all(type(number) is int for number in numbers)
                for numbers in told.values()
            ):
                return f"the work's {table} are not lists of whole numbers, one for each member"
        lists = {names[name]: clients for name, clients in work["clients"].items()}
        everyone = [client for clients in lists.values() for client in clients]
        if not all(lists.values()):
            return "some member has no clients to train"
        if len(set(everyone)) < len(everyone) or len(everyone) != public["clients"]:
            return (
                f"{len(everyone)} clients, {len(set(everyone))} different, are named; "
                f"{public['clients']} are counted"
            )
        if self.hosts is not None and not set(lists[self.member]) <= self.hosts:
            missing = sorted(set(lists[self.member]) - self.hosts)
            return f"this node does not have the clients {missing}"
        return ""

    def masked(
        self,
        content: RecordDict,
        order: Order,
        release: type[Release],
        train: Callable[[], CohortResult],
    ) -> RecordDict:
        """Train and mask, if this is what was agreed on: nothing is trained or remembered
        otherwise. Under an exact sum all clients add something, or the node is missing."""
        import torch

        from strategies.flower.wire import pack_sum

        said = record(content, RECORD, ConfigRecord)
        session = as_bytes(said["session"])
        terms = self.client.agreed(session)
        assignment = order.assignment
        public = json.dumps(dict(assignment.public), sort_keys=True)
        model = model_digest(record(content, "broadcast", ArrayRecord), terms.public)
        work = json.loads(terms.work)
        own = str(self.member)
        ordered = [order.common, list(assignment.clients), list(assignment.versions)]
        agreed = [work["order"], work["clients"][own], work["versions"][own]]
        if public != terms.public or model != terms.model or ordered != agreed:
            raise RefusalError("the order or the model is not what was agreed on")
        if order.config != self.config:
            raise RefusalError("the server's configuration is not this node's")
        if release.exact():
            arm = f"{order.run} {order.method} {assignment.seed}"
            self.groups.enter(group_of(work["clients"]), arm, assignment.round, self.about)
        result = train()
        assert result.payload is not None, "a private release always closes with a vector"
        vector = np.ascontiguousarray(result.payload.vector.numpy()).view(np.uint32)
        if release.exact() and result.failures:
            # With zero, and counted, a member would be told apart by what the others add up to; and
            # if it said that it fails, by when. So the sum is spoilt, and nobody can say by whom.
            vector = np.frombuffer(os.urandom(vector.nbytes), np.uint32).copy()
        elif result.digests:
            self.groups.same_pictures(result.digests)
        accused = self.client.mask(session, model, unpack_table(said, "boxes"), vector)
        reply = pack_sum(torch.from_numpy(vector.view(np.int32)), order)
        reply[RECORD] = ConfigRecord({"accused": accused})
        return reply

    def confirm(self, content: RecordDict) -> RecordDict:
        said = record(content, RECORD, ConfigRecord)
        survivors = unpack_integers(said, "survivors")
        signature = self.client.confirm(as_bytes(said["session"]), survivors)
        return RecordDict({RECORD: ConfigRecord({"signature": signature})})

    def unmask(self, content: RecordDict) -> RecordDict:
        said = record(content, RECORD, ConfigRecord)
        shares = self.client.unmask(as_bytes(said["session"]), unpack_table(said, "signatures"))
        return RecordDict({RECORD: pack_table(b"", shares, "shares")})

    def see_ledger(
        self, content: RecordDict, multiplier: float, agreed: list[Any] | None = None
    ) -> None:
        """Check and remember the state of the server's ledger before a noised round.

        It must be further than ever before and the same for all nodes; and the node counts the
        round itself.
        """
        if "ledger" not in content:
            raise RefusalError("a noised round without the state of the budget's ledger")
        shown = dict(record(content, "ledger", ConfigRecord))
        if agreed is not None and agreed != [shown["ledger"], shown["seq"], shown["head"]]:
            raise RefusalError("the state of the ledger is not the one that was agreed on")
        try:
            self.witness.see(shown, multiplier)
        except ValueError as error:
            raise RefusalError(str(error)) from error
