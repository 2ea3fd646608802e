"""Client side of a secure sum: a state machine that only moves forward.

The legs, and the rounds of Bonawitz et al. (CCS 2017) they are:

    advertise    AdvertiseKeys (Round 0)
    share        ShareKeys (Round 1)
    mask         MaskedInputCollection (Round 2)
    confirm      ConsistencyCheck (Round 3)
    unmask       Unmasking (Round 4)

Whatever the server says, a node never gives two kinds of share of one peer, never signs two
survivor lists, never masks twice with the same keys, and never takes part in an older round. What
its own policy does not allow it refuses; what is left of a session it gives up is erased.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
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
    """One member of secure sums.

    Args:
        member: its number in the roster.
        identity: the key that signs its prekeys and lists of survivors.
        roster: whom it believes: everybody's public identities.
        policy: its own limits, which no server can change.
        vault: its protocol state on disk.
    """

    def __init__(
        self, member: int, identity: Ed25519PrivateKey, roster: Roster, policy: Policy, vault: Vault
    ) -> None:
        self.member = member
        self.identity = identity
        self.roster = roster
        self.policy = policy
        self.vault = vault

    # ------------------------------------------------------------------ advertise
    def advertise(self, count: int) -> list[Prekey]:
        """``count`` new one-time public keys, signed; each serves one session, so that a run asks
        once for many rounds."""
        if not 1 <= count <= MOST_PREKEYS:
            raise RefusalError(f"{count} prekeys asked for, at most {MOST_PREKEYS} are given")
        made = []
        with self.vault.open() as state:
            for _ in range(count):
                state["serial"] += 1
                transport = os.urandom(SEED_BYTES)
                mask = os.urandom(SEED_BYTES)
                state["prekeys"][str(state["serial"])] = [transport.hex(), mask.hex()]
                unsigned = Prekey(
                    self.member,
                    state["serial"],
                    public_bytes(agreement_key(transport, "transport")),
                    public_bytes(agreement_key(mask, "mask")),
                )
                made.append(replace(unsigned, signature=self.identity.sign(unsigned.text)))
            for old in sorted(state["prekeys"], key=int)[:-MOST_PREKEYS]:
                del state["prekeys"][old]
        return made

    # ------------------------------------------------------------------ share
    def share(self, terms: Terms) -> dict[int, bytes]:
        """Accept the terms; for each neighbour a sealed box with its share of this node's two
        secrets."""
        self._examine(terms)
        own = terms.prekey(self.member)
        with self.vault.open() as state:
            if [terms.epoch, terms.number] <= state["latest"]:
                raise RefusalError(
                    f"sum {terms.number} of epoch {terms.epoch} is not newer than {state['latest']}"
                )
            # Taken out of stock before anything is said: a prekey serves one session, even if this
            # process dies in it
            seeds = state["prekeys"].pop(str(own.serial), None)
            if seeds is None:
                raise RefusalError(f"prekey {own.serial} is not in stock: used, or never made")
            transport, mask = (bytes.fromhex(seed) for seed in seeds)
            alone = os.urandom(SEED_BYTES)
            key = agreement_key(transport, "transport")
            made = (public_bytes(key), public_bytes(agreement_key(mask, "mask")))
            if made != (own.transport, own.mask):
                raise RefusalError("the public keys under this node's name are not its own")
            shares = self._split(mask, alone, terms)
            boxes = {}
            opening = {}
            for holder in terms.graph[self.member]:
                secret = agree(key, terms.prekey(holder).transport)
                boxes[holder] = self._box(secret, shares[holder], holder, terms.session)
                # Kept instead of the transport seed: it opens the boxes of this session and no more
                incoming = _transport_key(secret, terms.session, holder, self.member)
                opening[str(holder)] = incoming.hex()
            state["latest"] = [terms.epoch, terms.number]
            state["session"] = {
                "id": terms.session.hex(),
                "stage": "shared",
                "opening": opening,
                "mask": mask.hex(),
                "alone": alone.hex(),
                "shares": {str(self.member): shares[self.member].hex()},
                "accused": [],
                "survivors": None,
                "terms": _terms_to_state(terms),
            }
        return boxes

    def _split(self, mask: bytes, alone: bytes, terms: Terms) -> dict[int, bytes]:
        """Both secrets cut into shares for this node and its neighbours: ``{holder: share of the
        pair masks' seed + share of its own mask's seed}``."""
        holders = sorted({*terms.graph[self.member], self.member})
        points = [point(holder) for holder in holders]
        pairs = split(mask, points, terms.threshold)
        selves = split(alone, points, terms.threshold)
        return {
            holder: one + other for holder, one, other in zip(holders, pairs, selves, strict=True)
        }

    def _box(self, secret: bytes, share: bytes, holder: int, session: bytes) -> bytes:
        """``share`` sealed for ``holder``, bound to the session and to both ends."""
        key = _transport_key(secret, session, self.member, holder)
        return seal(key, share, _associated(session, self.member, holder))

    def _examine(self, terms: Terms) -> None:
        """Refuse terms of which this node can know that something is wrong."""
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
            if prekey.fault:
                raise RefusalError(prekey.fault)
        # An epoch far ahead, once accepted, would be the last this node ever takes part in
        if terms.epoch > time.time_ns() // 1_000_000 + DAY:
            raise RefusalError(f"epoch {terms.epoch} is more than a day ahead of this node's clock")

    # ------------------------------------------------------------------ mask
    def agreed(self, session: bytes) -> Terms:
        """The terms this node shared under, if its vector is still to come: to be compared with
        what it is sent."""
        with self.vault.open() as state:
            return _terms_from_state(self._session(state, session, "shared")["terms"])

    def mask(
        self, session: bytes, model: bytes, inbox: Mapping[int, bytes], vector: NDArray[np.uint32]
    ) -> list[int]:
        """Mask ``vector`` in place, for a sum among those whose boxes arrived.

        A box that cannot be opened costs nobody its place: this node just holds no share of its
        sender. Who sent it, or changed it on the way, cannot be told from here.

        Args:
            session: the 32 bytes of the terms agreed on.
            model: SHA-256 of the broadcast this vector was trained from; must be the one in the
                terms.
            inbox: ``{sender: sealed box}`` of the neighbours that shared.
            vector: ``[length]`` numbers modulo 2^32, check block included.

        Returns:
            The senders whose boxes could not be opened.
        """
        accused = []
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
            outsiders = set(inbox) - set(terms.graph[self.member])
            if outsiders:
                raise RefusalError(
                    f"boxes from {sorted(outsiders)}, who are no neighbours", ends=True
                )
            if len(inbox) + 1 < terms.threshold:
                raise RefusalError(
                    f"{len(inbox) + 1} neighbours shared, {terms.threshold} are needed", ends=True
                )
            for sender, box in sorted(inbox.items()):
                opening = bytes.fromhex(current["opening"][str(sender)])
                share = self._opened(opening, box, sender, session)
                if share is None:
                    accused.append(sender)
                else:
                    current["shares"][str(sender)] = share.hex()
            # Whoever was told other terms is in another session, and its boxes do not open: fewer
            # than the threshold under the same terms, and nothing could be unmasked anyway
            if len(inbox) - len(accused) + 1 < terms.threshold:
                raise RefusalError(
                    f"the boxes of members {accused} cannot be opened, "
                    f"{terms.threshold} neighbours are needed",
                    ends=True,
                )
            masks = self._masks(current, terms, sorted(inbox))
            # From here on only the peers' shares are needed: a node whose disk is read later cannot
            # give away its own secrets
            current |= {"stage": "masked", "opening": {}, "mask": "", "alone": ""}
            current["accused"] = accused
        # After the state is on disk: these keys can never mask another vector
        add_masks(vector, masks)
        return accused

    def _opened(self, key: bytes, box: bytes, sender: int, session: bytes) -> bytes | None:
        """The two shares that ``sender`` sealed for this node; ``None`` if there are none in the
        box."""
        try:
            share = unseal(key, box, _associated(session, sender, self.member))
        except ValueError:
            return None
        return share if len(share) == 2 * SHARE_BYTES else None

    def _masks(
        self, current: dict[str, Any], terms: Terms, peers: list[int]
    ) -> list[tuple[bytes, int]]:
        r"""This node's own mask and one with each peer, :math:`p_i + \sum_{j > i} s_{ij} -
        \sum_{j < i} s_{ij}`: in the sum over all members pairs cancel and the p remain."""
        own = agreement_key(bytes.fromhex(current["mask"]), "mask")
        alone = bytes.fromhex(current["alone"])
        masks = [(self_mask_key(alone, terms.session, self.member), 1)]
        for peer in peers:
            pair = pair_mask_key(own, terms.prekey(peer).mask, terms.session, self.member, peer)
            masks.append((pair, 1 if peer > self.member else -1))
        return masks

    # ------------------------------------------------------------------ confirm, unmask
    def confirm(self, session: bytes, survivors: list[int]) -> bytes:
        """Sign the one list of those whose masked vectors arrived; raises if this node must not be
        in that sum."""
        with self.vault.open() as state:
            current = self._session(state, session, "masked")
            terms = _terms_from_state(current["terms"])
            known = {int(peer) for peer in current["shares"]} | set(current["accused"])
            near = {*terms.graph[self.member], self.member} & set(survivors)
            if survivors != sorted(set(survivors)) or not set(survivors) <= set(terms.members):
                raise RefusalError("the survivors are not members in order", ends=True)
            if self.member not in survivors:
                raise RefusalError("this node's vector is said not to have arrived", ends=True)
            least = max(self.policy.min_nodes, terms.least)
            if len(survivors) < least or len(near) < terms.threshold:
                raise RefusalError(f"only {len(survivors)} vectors in the sum", ends=True)
            if near - known:
                raise RefusalError("a survivor never shared its secrets", ends=True)
            current["survivors"] = survivors
            current["stage"] = "confirmed"
            return self.identity.sign(survivors_text(session, survivors))

    def unmask(self, session: bytes, signatures: Mapping[int, bytes]) -> dict[int, bytes]:
        """For each neighbour that shared, one share: of its own mask if its vector is in, else of
        its pair masks.

        Only after at least the threshold of neighbours signed the very list this node signed: no
        two lists can both find that many, so the server cannot get both kinds of share of a peer.
        The session ends before the shares leave.
        """
        with self.vault.open() as state:
            current = self._session(state, session, "confirmed")
            terms = _terms_from_state(current["terms"])
            survivors = current["survivors"]
            valid = self._valid_signatures(signatures, terms, survivors)
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

    def _valid_signatures(
        self, signatures: Mapping[int, bytes], terms: Terms, survivors: list[int]
    ) -> int:
        """Count valid signatures on the survivors, up to the threshold: more need not be
        verified."""
        text = survivors_text(terms.session, survivors)
        near = {*terms.graph[self.member], self.member} & set(survivors)
        valid = 0
        for member, signature in signatures.items():
            if member not in near:
                raise RefusalError(
                    f"a signature from {member}, who is no surviving neighbour", ends=True
                )
            if valid < terms.threshold:
                # Its own it need not verify: it signed this list, or would not be here
                valid += member == self.member or is_signed(
                    self.roster.members[member], signature, text
                )
        return valid

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
        "epoch": terms.epoch,
        "number": terms.number,
        "threshold": terms.threshold,
        "degree": terms.degree,
        "least": terms.least,
        "length": terms.length,
        "public": terms.public,
        "work": terms.work,
        "model": terms.model.hex(),
        "prekeys": {str(prekey.member): prekey.to_bytes().hex() for prekey in terms.prekeys},
    }


def _terms_from_state(kept: dict[str, Any]) -> Terms:
    prekeys = {
        int(member): Prekey.from_bytes(int(member), bytes.fromhex(key))
        for member, key in kept["prekeys"].items()
    }
    in_order = tuple(prekeys[member] for member in sorted(prekeys))
    return Terms(**{**kept, "prekeys": in_order, "model": bytes.fromhex(kept["model"])})
