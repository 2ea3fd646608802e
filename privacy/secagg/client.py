"""A node's side of a secure sum: a state machine that only moves forward.

advertise → share → mask → confirm → unmask. Whatever the server says, a node never gives two kinds
of share of one peer, never signs two survivor lists, never masks twice with the same keys, and
never takes part in an older round. What its own policy does not allow it refuses; what is left of a
session it gives up is erased.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from privacy.secagg.identity import Policy, Roster
from privacy.secagg.messages import Prekey, RefusalError, Terms, point, survivors_text
from privacy.secagg.primitives import (
    SEED_BYTES,
    add_masks,
    agree,
    agreement_key,
    derive,
    is_signed,
    pair_mask_key,
    public_bytes,
    seal,
    self_mask_key,
    unseal,
)
from privacy.secagg.shamir import SHARE_BYTES, split
from privacy.secagg.vault import Vault

DAY = 86_400_000  # in milliseconds, as epochs are
MOST_PREKEYS = 1024  # in stock; older ones are forgotten first


class SecAggClient:
    """One member. ``identity`` is its key, ``roster`` whom it believes, ``policy`` what it
    accepts."""

    def __init__(
        self, member: int, identity: Ed25519PrivateKey, roster: Roster, policy: Policy, vault: Vault
    ) -> None:
        self.member, self.identity, self.roster, self.policy, self.vault = (
            member,
            identity,
            roster,
            policy,
            vault,
        )

    # ------------------------------------------------------------------ advertise
    def advertise(self, count: int) -> list[Prekey]:
        """``count`` new one-time public keys; each serves one session, so a run asks once for many
        rounds."""
        if not 1 <= count <= MOST_PREKEYS:
            raise RefusalError(f"{count} prekeys asked for, at most {MOST_PREKEYS} are given")
        made = []
        with self.vault.open() as state:
            for _ in range(count):
                state["serial"] += 1
                transport, mask = os.urandom(SEED_BYTES), os.urandom(SEED_BYTES)
                state["prekeys"][str(state["serial"])] = [transport.hex(), mask.hex()]
                blank = Prekey(
                    self.member, state["serial"],
                    public_bytes(agreement_key(transport, "transport")), public_bytes(agreement_key(mask, "mask")),
                )  # fmt: skip
                signature = self.identity.sign(blank.text)
                made.append(
                    Prekey(blank.member, blank.serial, blank.transport, blank.mask, signature)
                )
            for old in sorted(state["prekeys"], key=int)[:-MOST_PREKEYS]:
                del state["prekeys"][old]
        return made

    # ------------------------------------------------------------------ share
    def share(self, terms: Terms) -> dict[int, bytes]:
        """Accept the terms; for each neighbour a sealed box with its share of this node's two
        secrets."""
        self._examine(terms)
        if (
            terms.epoch > time.time_ns() // 1_000_000 + DAY
        ):  # once accepted, no earlier one ever would be again
            raise RefusalError(f"epoch {terms.epoch} is more than a day ahead of this node's clock")
        own, graph = terms.prekey(self.member), terms.graph
        with self.vault.open() as state:
            if [terms.epoch, terms.number] <= state["latest"]:
                raise RefusalError(
                    f"sum {terms.number} of epoch {terms.epoch} is not newer than {state['latest']}"
                )
            seeds = state["prekeys"].pop(str(own.serial), None)
            if seeds is None:
                raise RefusalError(f"prekey {own.serial} is not in stock: used, or never made")
            transport, mask, alone = (
                bytes.fromhex(seeds[0]),
                bytes.fromhex(seeds[1]),
                os.urandom(SEED_BYTES),
            )
            key = agreement_key(transport, "transport")
            if (public_bytes(key), public_bytes(agreement_key(mask, "mask"))) != (
                own.transport,
                own.mask,
            ):
                raise RefusalError("the public keys under this node's name are not its own")
            holders = sorted({*graph[self.member], self.member})
            points = [point(holder) for holder in holders]
            pairs = zip(
                split(mask, points, terms.threshold),
                split(alone, points, terms.threshold),
                strict=True,
            )
            shares = {
                holder: first + second
                for holder, (first, second) in zip(holders, pairs, strict=True)
            }
            boxes, opening = {}, {}
            for holder in graph[self.member]:
                secret = agree(key, terms.prekey(holder).transport)
                box_key = _transport_key(secret, terms.session, self.member, holder)
                boxes[holder] = seal(
                    box_key, shares[holder], _associated(terms.session, self.member, holder)
                )
                opening[str(holder)] = _transport_key(
                    secret, terms.session, holder, self.member
                ).hex()
            state["latest"] = [terms.epoch, terms.number]
            state["session"] = {
                "id": terms.session.hex(), "stage": "shared", "opening": opening, "mask": mask.hex(),
                "alone": alone.hex(), "shares": {str(self.member): shares[self.member].hex()}, "survivors": None,
                "terms": _terms_to_state(terms),
            }  # fmt: skip
        return boxes

    def _examine(self, terms: Terms) -> None:
        """Everything about the terms that this node can know to be wrong."""
        objection = terms.objection() or self.policy.objection(
            len(terms.prekeys), terms.threshold, terms.degree, terms.length
        )
        if objection:
            raise RefusalError(objection)
        if self.member not in terms.members:
            raise RefusalError("this node is not among the members")
        # Signatures of neighbours are enough: they check theirs, so every honest node in a
        # connected graph is real
        near = set(terms.graph[self.member])  # its own keys are compared with those in stock
        for prekey in terms.prekeys:
            identity = self.roster.members.get(prekey.member)
            if identity is None:
                raise RefusalError(f"member {prekey.member} is not in the roster")
            if prekey.member in near and not prekey.is_authentic(identity):
                raise RefusalError(f"the prekey of member {prekey.member} is not signed by it")

    # ------------------------------------------------------------------ mask
    def agreed(self, session: bytes) -> Terms:
        """The terms this node shared under, if its vector is still to come: to be compared with
        what it is sent."""
        with self.vault.open() as state:
            return _terms_from_state(self._session(state, session, "shared")["terms"])

    def mask(
        self, session: bytes, model: bytes, inbox: Mapping[int, bytes], vector: NDArray[np.uint32]
    ) -> None:
        """Mask ``vector`` in place, for a sum among those whose boxes arrived.

        ``model`` is the SHA-256 of the broadcast this vector was trained from; it must be the one
        in the terms.
        """
        with self.vault.open() as state:
            current = self._session(state, session, "shared")
            terms = _terms_from_state(current["terms"])
            if terms.model != model:
                raise RefusalError("the model is not the one that was agreed on", ends=True)
            if vector.dtype != np.uint32 or vector.shape != (terms.length,):
                raise RefusalError(
                    f"a vector of {vector.shape} {vector.dtype}, agreed were {terms.length} uint32",
                    ends=True,
                )
            strangers = set(inbox) - set(terms.graph[self.member])
            if strangers:
                raise RefusalError(
                    f"boxes from {sorted(strangers)}, who are no neighbours", ends=True
                )
            if len(inbox) + 1 < terms.threshold:
                raise RefusalError(
                    f"{len(inbox) + 1} neighbours shared, {terms.threshold} are needed", ends=True
                )
            for sender, box in sorted(inbox.items()):
                try:
                    box_key = bytes.fromhex(current["opening"][str(sender)])
                    share = unseal(box_key, box, _associated(session, sender, self.member))
                except ValueError as error:
                    raise RefusalError(
                        f"the share from member {sender} is not authentic", ends=True
                    ) from error
                if len(share) != 2 * SHARE_BYTES:
                    raise RefusalError(
                        f"the share from member {sender} has {len(share)} bytes", ends=True
                    )
                current["shares"][str(sender)] = share.hex()
            own = agreement_key(bytes.fromhex(current["mask"]), "mask")
            masks = [(self_mask_key(bytes.fromhex(current["alone"]), session, self.member), 1)]
            for peer in sorted(inbox):
                pair = pair_mask_key(own, terms.prekey(peer).mask, session, self.member, peer)
                masks.append((pair, 1 if peer > self.member else -1))
            current["stage"] = "masked"
            current |= {
                "opening": {},
                "mask": "",
                "alone": "",
            }  # only the peers' shares are needed from here on
        add_masks(
            vector, masks
        )  # after the state is on disk: these keys can never mask another vector

    # ------------------------------------------------------------------ confirm, unmask
    def confirm(self, session: bytes, survivors: list[int]) -> bytes:
        """Sign the one list of those whose masked vectors arrived; raises if this node must not be
        in that sum."""
        with self.vault.open() as state:
            current = self._session(state, session, "masked")
            terms = _terms_from_state(current["terms"])
            known = {int(peer) for peer in current["shares"]}
            neighbours = {*terms.graph[self.member], self.member}
            if survivors != sorted(set(survivors)) or not set(survivors) <= set(terms.members):
                raise RefusalError("the survivors are not members in order", ends=True)
            if self.member not in survivors:
                raise RefusalError("this node's vector is said not to have arrived", ends=True)
            if (
                len(survivors) < max(self.policy.min_nodes, terms.least)
                or len(neighbours & set(survivors)) < terms.threshold
            ):
                raise RefusalError(f"only {len(survivors)} vectors in the sum", ends=True)
            if neighbours & set(survivors) - known:
                raise RefusalError("a survivor never shared its secrets", ends=True)
            current["survivors"], current["stage"] = survivors, "confirmed"
            return self.identity.sign(survivors_text(session, survivors))

    def unmask(self, session: bytes, signatures: Mapping[int, bytes]) -> dict[int, bytes]:
        """For each neighbour that shared, one share: of its own mask if its vector is in, else of
        its pair masks.

        Only after at least the threshold of neighbours signed the very list this node signed. The
        session ends before the shares leave.
        """
        with self.vault.open() as state:
            current = self._session(state, session, "confirmed")
            terms, survivors = _terms_from_state(current["terms"]), current["survivors"]
            text, valid = survivors_text(session, survivors), 0
            for member, signature in signatures.items():
                if member not in survivors or (
                    member != self.member and member not in terms.graph[self.member]
                ):
                    raise RefusalError(
                        f"a signature from {member}, who is no surviving neighbour", ends=True
                    )
                if (
                    valid < terms.threshold
                ):  # its own it need not verify: it signed this list, or would not be here
                    valid += member == self.member or is_signed(
                        self.roster.members[member], signature, text
                    )
            if valid < terms.threshold:
                raise RefusalError(
                    f"{valid} valid signatures on the survivors, {terms.threshold} are needed",
                    ends=True,
                )
            shares = {int(peer): bytes.fromhex(share) for peer, share in current["shares"].items()}
            state["session"] = None
        return {
            peer: share[SHARE_BYTES:] if peer in survivors else share[:SHARE_BYTES]
            for peer, share in shares.items()
        }

    def _session(self, state: dict[str, Any], session: bytes, stage: str) -> dict[str, Any]:
        """The open session, if it is this one and at this stage. A repeated or early message
        changes nothing."""
        current = state["session"]
        if current is None or current["id"] != session.hex():
            raise RefusalError("no such session is open here")
        if current["stage"] != stage:
            raise RefusalError(
                f"the session is at the stage {current['stage']!r}, this message needs {stage!r}"
            )
        return current


def _transport_key(secret: bytes, session: bytes, sender: int, receiver: int) -> bytes:
    """The key of the one box ``sender`` seals for ``receiver``, from what the two agree on."""
    return derive(secret, session, "fedapp share transport", sender, receiver)


def _associated(session: bytes, sender: int, receiver: int) -> bytes:
    return session + b"share" + sender.to_bytes(8, "big") + receiver.to_bytes(8, "big")


def _terms_to_state(terms: Terms) -> dict[str, Any]:
    return {
        "epoch": terms.epoch, "number": terms.number, "threshold": terms.threshold, "degree": terms.degree,
        "least": terms.least, "length": terms.length, "public": terms.public,
        "work": terms.work, "model": terms.model.hex(),
        "prekeys": {str(prekey.member): prekey.to_bytes().hex() for prekey in terms.prekeys},
    }  # fmt: skip


def _terms_from_state(kept: dict[str, Any]) -> Terms:
    prekeys = {
        int(member): Prekey.from_bytes(int(member), bytes.fromhex(key))
        for member, key in kept["prekeys"].items()
    }
    return Terms(
        kept["epoch"], kept["number"], tuple(prekeys[member] for member in sorted(prekeys)), kept["threshold"],
        kept["degree"], kept["least"], kept["length"], kept["public"], kept["work"], bytes.fromhex(kept["model"]),
    )  # fmt: skip
