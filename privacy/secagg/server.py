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
    pair_mask_key,
    public_bytes,
    self_mask_key,
)
from privacy.secagg.shamir import SHARE_BYTES, combine

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

    def close_uploads(self) -> list[int]:
        """Members whose vectors are in the sum."""
        self._at("upload")
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
        if set(shares) != expected or any(len(share) != SHARE_BYTES for share in shares.values()):
            raise ValueError(f"member {sender} did not reveal one share for each neighbour")
        for owner, share in shares.items():
            self._revealed.setdefault(owner, {})[point(sender)] = share

    def finish(self) -> NDArray[np.uint32]:
        """The sum without the check block; raises :class:`AbortedError` if it cannot be unmasked or
        does not check."""
        self._at("unmask")
        self._stage = "closed"
        masks = []
        for member in self._sharers:
            secret = self._secret(member)
            if member in self._survivors:
                masks.append((self_mask_key(secret, self.terms.session, member), -1))
            else:
                masks += self._left_over(member, secret)
        add_masks(self.total, masks)
        # Every vector ends in zeros: what is not zero here is masks that did not cancel
        if self.total[-CHECK:].any():
            raise AbortedError(
                "the masks did not cancel: a node was given another model or keys, or an upload "
                "was changed"
            )
        return self.total[:-CHECK]

    def _left_over(self, gone: int, secret: bytes) -> list[tuple[bytes, int]]:
        """The pair masks that survivors added for a member who shared and did not upload."""
        key = agreement_key(secret, "mask")
        # Compared first: wrong shares would only show in the check block, and name nobody
        if public_bytes(key) != self.terms.prekey(gone).mask:
            raise AbortedError(f"the revealed shares of member {gone} do not give its key")
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
