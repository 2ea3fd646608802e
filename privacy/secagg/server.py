"""Server side of a secure sum: collect, unmask, check; survive whoever is missing while enough
remain.

The legs and their names in the literature are listed in :mod:`privacy.secagg.client`. Uploads are
added as they come, block by block if they come so; the server holds one vector. It never holds a
share it could misuse before the sum is closed, and what it gives back is a sum over at least
``threshold`` nodes or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from privacy.joint import CHECK
from privacy.secagg.messages import AbortedError, Terms, point, survivors_text
from privacy.secagg.primitives import (
    add_masks,
    agreement_key,
    is_signed,
    mask_stream,
    pair_mask_key,
    public_bytes,
    self_mask_key,
)
from privacy.secagg.repair import UnrestorableError, blamed, decode, repaired
from privacy.secagg.shamir import SHARE_BYTES, combine

SPOILT = (
    "the masks did not cancel: a node was given another model or keys, or an upload was changed"
)
BOX_BYTES = 12 + 2 * SHARE_BYTES + 16


class SecAggServer:
    """One secure sum under ``terms``; ``identities`` are the members' public keys, from the
    roster."""

    def __init__(self, terms: Terms, identities: Mapping[int, bytes]) -> None:
        objection = terms.objection()
        if objection:
            raise AbortedError(objection)
        self.terms = terms
        self.identities = identities
        self.total = np.zeros(terms.length, np.uint32)
        self._boxes: dict[int, dict[int, bytes]] = {}  # sender -> receiver -> sealed shares
        self._sharers: list[int] = []
        self._survivors: set[int] = set()
        self._signatures: dict[int, bytes] = {}
        self._revealed: dict[int, dict[int, bytes]] = {}  # owner -> holder's point -> share
        self._accused: dict[int, set[int]] = {}  # sender of boxes -> who could not open its own
        self._wrong: dict[int, str] = {}  # member -> what was wrong with its shares
        self._stage = "share"

    # ------------------------------------------------------------------ share
    def shared(self, sender: int, boxes: Mapping[int, bytes]) -> None:
        """A member's sealed shares, one for each neighbour; raises ``ValueError`` if they are not
        that."""
        self._at("share")
        whole = all(len(box) == BOX_BYTES for box in boxes.values())
        if set(boxes) != set(self.terms.graph[sender]) or not whole:
            raise ValueError(
                f"member {sender} did not send one box of {BOX_BYTES} bytes to each neighbour"
            )
        self._boxes[sender] = dict(boxes)

    @property
    def sharers(self) -> list[int]:
        """Members that have shared so far."""
        return sorted(self._boxes)

    def close_sharing(self) -> list[int]:
        """Members that take part: those who shared. Each must see enough neighbours who did."""
        self._at("share")
        sharers = set(self._boxes)
        lonely = {
            m for m in sharers if len(sharers & set(self.terms.graph[m])) + 1 < self.terms.threshold
        }
        if lonely or not sharers:
            raise AbortedError(
                f"{len(sharers)} of {len(self.terms.members)} nodes shared their secrets; "
                f"each needs {self.terms.threshold} among itself and its neighbours"
            )
        if len(sharers) < self.terms.least:  # before anybody trains for a sum that cannot be
            raise AbortedError(
                f"{len(sharers)} of {len(self.terms.members)} nodes shared their secrets, "
                f"{self.terms.least} must be in the sum (from six nodes on one may be missing)"
            )
        self._sharers = sorted(sharers)
        self._stage = "upload"
        return self._sharers

    def inbox(self, receiver: int) -> dict[int, bytes]:
        """The boxes addressed to one member."""
        return {
            sender: self._boxes[sender][receiver]
            for sender in self.terms.graph[receiver]
            if sender in self._boxes
        }

    # ------------------------------------------------------------------ upload
    def upload(self, sender: int, vector: NDArray[np.uint32]) -> None:
        """Add a masked vector ``[length]``. Its array is not kept."""
        if vector.dtype != np.uint32 or vector.shape != self.total.shape:
            raise ValueError(
                f"a vector of {vector.shape} {vector.dtype}, expected {self.total.shape} uint32"
            )
        self.upload_blocks(sender, [vector])

    def upload_blocks(self, sender: int, blocks: Iterable[NDArray[np.uint32]]) -> None:
        """Add a masked vector that comes in consecutive blocks.

        A stream of the wrong length spoils the sum and aborts it: what was added of it cannot be
        told from the rest.
        """
        self._at("upload")
        if sender not in self._sharers or sender in self._survivors:
            raise ValueError(f"member {sender} is not expected to upload (again)")
        place = 0
        for block in blocks:
            if place + len(block) > len(self.total):
                raise AbortedError(
                    f"member {sender} sent more than {len(self.total)} numbers; the sum is spoilt"
                )
            self.total[place : place + len(block)] += block
            place += len(block)
        if place != len(self.total):
            raise AbortedError(
                f"member {sender} sent {place} of {len(self.total)} numbers; the sum is spoilt"
            )
        self._survivors.add(sender)

    def accuse(self, receiver: int, senders: Iterable[int]) -> None:
        """Note whose boxes a member could not open; raises ``ValueError`` for others than sent it
        one."""
        self._at("upload")
        if not set(senders) <= set(self.inbox(receiver)):
            raise ValueError(f"member {receiver} accuses members who sent it nothing")
        for sender in senders:
            self._accused.setdefault(sender, set()).add(receiver)

    @property
    def remarks(self) -> dict[int, str]:
        """Members of which something was noticed that the sum survived, and what it was."""
        return self._suspected() | self._wrong

    def _suspected(self) -> dict[int, str]:
        """The members that accusations point at, or that accuse too many."""
        pairs = [(sender, by) for sender, all_ in self._accused.items() for by in all_]
        return blamed(pairs, "sealed shares that do not open", "it says so of the shares")

    def close_uploads(self) -> list[int]:
        """Members whose vectors are in the sum."""
        self._at("upload")
        self._refuse_unrestorable()
        for member in self._survivors:
            near = self._survivors & {*self.terms.graph[member], member}
            if len(near) < self.terms.threshold:
                raise AbortedError(
                    f"{len(self._survivors)} vectors arrived, {self.terms.threshold} are needed"
                )
        if len(self._survivors) < max(self.terms.least, 1):
            raise AbortedError(
                f"{len(self._survivors)} vectors arrived, {self.terms.least} are needed"
            )
        self._stage = "confirm"
        return self.survivors

    def _refuse_unrestorable(self) -> None:
        """Raise for members whose secrets too few could restore, before anybody unmasks in vain."""
        lost = []
        for sender, receivers in self._accused.items():
            holders = ({*self.terms.graph[sender], sender} & self._survivors) - receivers
            if len(holders) < self.terms.threshold <= len(holders | receivers):
                lost.append(sender)
        if lost:
            raise AbortedError(
                f"the secrets of members {sorted(lost)} could not be restored",
                self._suspected(),
                spoilt=True,
            )

    @property
    def survivors(self) -> list[int]:
        return sorted(self._survivors)

    # ------------------------------------------------------------------ confirm
    def confirmed(self, sender: int, signature: bytes) -> None:
        """A survivor's signature on the survivors; raises ``ValueError`` if it is not one."""
        self._at("confirm")
        text = survivors_text(self.terms.session, self.survivors)
        if sender not in self._survivors or not is_signed(self.identities[sender], signature, text):
            raise ValueError(f"no valid signature of member {sender} on the survivors")
        self._signatures[sender] = signature

    def close_confirmation(self) -> list[int]:
        """Members that can be asked to unmask: everyone who confirmed."""
        self._at("confirm")
        for member in self._signatures:
            if len(self.signatures(member)) < self.terms.threshold:
                raise AbortedError(
                    f"{len(self._signatures)} nodes confirmed the survivors, too few to unmask"
                )
        if not self._signatures:
            raise AbortedError("nobody confirmed the survivors")
        self._stage = "unmask"
        return sorted(self._signatures)

    def signatures(self, receiver: int) -> dict[int, bytes]:
        """The signatures that one member is shown: its neighbours' and its own."""
        near = {*self.terms.graph[receiver], receiver}
        return {
            member: signature for member, signature in self._signatures.items() if member in near
        }

    # ------------------------------------------------------------------ unmask
    def reveal(self, sender: int, shares: Mapping[int, bytes]) -> None:
        """A member's shares, one for each neighbour that shared and for itself; raises
        ``ValueError`` otherwise."""
        self._at("unmask")
        expected = {*self.terms.graph[sender], sender} & set(self._sharers)
        expected -= {owner for owner, by in self._accused.items() if sender in by}
        if set(shares) != expected or any(len(share) != SHARE_BYTES for share in shares.values()):
            raise ValueError(f"member {sender} did not reveal one share for each neighbour")
        for owner, share in shares.items():
            self._revealed.setdefault(owner, {})[point(sender)] = share

    def finish(self) -> NDArray[np.uint32]:
        """The sum without the check block; raises :class:`AbortedError` if it cannot be unmasked or
        does not check."""
        self._at("unmask")
        self._stage = "closed"
        try:
            secrets = {member: self._secret(member) for member in self._sharers}
        except AbortedError:
            secrets = {}
        masks = self._fitting(secrets) if secrets else None
        if masks is None:
            masks = self._fitting(self._repaired())
        if masks is None:
            raise AbortedError(SPOILT, spoilt=True)
        add_masks(self.total, masks)
        # Every vector ends in zeros: what is not zero here is masks that did not cancel
        if self.total[-CHECK:].any():
            raise AbortedError(SPOILT, spoilt=True)
        return self.total[:-CHECK]

    def _masks(self, secrets: Mapping[int, bytes]) -> list[tuple[bytes, int]]:
        """The masks that are left in the sum, with the sign that takes them off."""
        masks = []
        for member, secret in secrets.items():
            if member in self._survivors:
                masks.append((self_mask_key(secret, self.terms.session, member), -1))
            else:
                masks += self._left_over(member, secret)
        return masks

    def _fitting(self, secrets: Mapping[int, bytes]) -> list[tuple[bytes, int]] | None:
        """The masks that these secrets take off, if that leaves none: tried on the check block
        alone, and on the public keys of who is gone."""
        for member, secret in secrets.items():
            if member in self._survivors:
                continue
            if public_bytes(agreement_key(secret, "mask")) != self.terms.prekey(member).mask:
                return None
        start = (len(self.total) - CHECK) // 4 * 4  # where a keystream can be entered
        tail = self.total[start:].copy()
        masks = self._masks(secrets)
        for derived, sign in masks:
            words = mask_stream(derived, start=start).words(len(tail))
            tail = tail + words if sign > 0 else tail - words
        return None if tail[-CHECK:].any() else masks

    def _repaired(self) -> dict[int, bytes]:
        """Secrets from shares of which some are wrong; remembers whose."""
        shares = {member: self._revealed.get(member, {}) for member in self._sharers}
        self._refuse_too_few(shares)
        self._refuse_false_keys(shares)
        try:
            secrets, wrong = repaired(
                shares, self.terms.threshold, lambda tried: self._fitting(tried) is not None
            )
        except UnrestorableError as error:
            # An upload that was changed looks the same as one owner's bad shares, but for whoever
            # could not be opened before
            seen = self._suspected()
            suspects = {owner: seen[owner] for owner in error.owners if owner in seen}
            # ... or as one holder's single share that is wrong, unless one more can be told apart
            told = all(len(shares[o]) >= self.terms.threshold + 2 for o in error.owners)
            if len(error.owners) == 1 and not suspects and told:
                text = "the shares of its secrets do not combine: dealt, or revealed, wrongly"
                suspects = dict.fromkeys(error.owners, text)
            reason = f"{error}; {SPOILT}" if error.owners else SPOILT
            raise AbortedError(reason, suspects, spoilt=True) from error
        members = {point(member): member for member in self.terms.members}
        pairs = [(owner, members[place]) for owner, place in wrong]
        self._wrong = blamed(pairs, "shares that are wrong", "it revealed wrong shares")
        return secrets

    def _refuse_false_keys(self, shares: Mapping[int, Mapping[int, bytes]]) -> None:
        """Raise for members who are gone and whose shares, all alike, give another key than the one
        they signed: they dealt another secret."""
        suspects = {}
        for owner in set(shares) - self._survivors:
            try:
                secret, wrong = decode(shares[owner], self.terms.threshold)
            except ValueError:
                continue
            key = public_bytes(agreement_key(secret, "mask"))
            if not wrong and key != self.terms.prekey(owner).mask:
                suspects[owner] = "its shares give another key than the one it signed"
        if suspects:
            raise AbortedError(
                f"the secrets of members {sorted(suspects)} are not those they announced",
                suspects,
                spoilt=True,
            )

    def _refuse_too_few(self, shares: Mapping[int, Mapping[int, bytes]]) -> None:
        short = [owner for owner, given in shares.items() if len(given) < self.terms.threshold]
        if not short:
            return
        revealed = {place for given in shares.values() for place in given}
        suspects = {
            owner: "members say that its sealed shares do not open, and it was silent at the end"
            for owner in short
            if owner in self._suspected() and point(owner) not in revealed
        }
        raise AbortedError(
            f"the secrets of members {short} cannot be restored: too few of their "
            f"{self.terms.threshold} shares were revealed",
            suspects,
            spoilt=bool(suspects),
        )

    def _left_over(self, gone: int, secret: bytes) -> list[tuple[bytes, int]]:
        """The pair masks that survivors added for a member who shared and did not upload."""
        key = agreement_key(secret, "mask")
        masks = []
        for peer in self.terms.graph[gone]:
            if peer in self._survivors:
                other = self.terms.prekey(peer).mask
                pair = pair_mask_key(key, other, self.terms.session, gone, peer)
                masks.append((pair, -1 if gone > peer else 1))
        return masks

    def _secret(self, member: int) -> bytes:
        try:
            return combine(self._revealed.get(member, {}), self.terms.threshold)
        except ValueError as error:
            raise AbortedError(
                f"the secret of member {member} cannot be restored: {error}"
            ) from error

    def _at(self, stage: str) -> None:
        if self._stage != stage:
            raise AbortedError(f"the sum is at the stage {self._stage!r}, not {stage!r}")
