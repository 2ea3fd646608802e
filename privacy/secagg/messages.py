"""Terms of a secure sum and the messages about it, as plain bytes and numbers.

``Terms`` are hashed into the session: masks are derived from it, so they cancel only between nodes
that were given the same members, keys, threshold, model and public numbers. A server that shows
nodes different models gets noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from privacy.secagg.graph import neighbours
from privacy.secagg.primitives import canonical, digest, is_signed, is_small_order

PREKEY_BYTES = 8 + 32 + 32 + 64
# Signed with every prekey and hashed into every session: nodes whose masks are made in another way
# refuse each other's keys before anything is shared. 2: masks are AES-128-CTR streams.
PROTOCOL = "fedapp secure sum 2"


class RefusalError(Exception):
    """A node does not do what it was asked. ``ends`` says whether it gave the session up (secrets
    erased)."""

    def __init__(self, reason: str, ends: bool = False) -> None:
        super().__init__(reason)
        self.ends = ends


class AbortedError(Exception):
    """The server cannot make the sum; it learned nothing about any single vector.

    ``spoilt``: enough members took part, and some broke the protocol; ``suspects`` are those it
    seems to be, with what was seen, and empty where that cannot be told.
    """

    def __init__(
        self, reason: str, suspects: Mapping[int, str] | None = None, spoilt: bool = False
    ) -> None:
        super().__init__(reason)
        self.spoilt = spoilt
        self.suspects = dict(suspects or {})


@dataclass(frozen=True)
class Prekey:
    """Public keys of a member for one session, signed: ``transport`` (shares travel under it) and
    ``mask``."""

    member: int
    serial: int
    transport: bytes
    mask: bytes
    signature: bytes = b""

    @property
    def fault(self) -> str:
        """Fault of the keys in themselves; empty if there is none."""
        if is_small_order(self.transport) or is_small_order(self.mask):
            return f"a key of member {self.member} has small order: nobody can agree with it"
        return ""

    @property
    def text(self) -> bytes:
        """The bytes that are signed."""
        return canonical(
            [PROTOCOL, "prekey", self.member, self.serial, self.transport.hex(), self.mask.hex()]
        )

    def to_bytes(self) -> bytes:
        return self.serial.to_bytes(8, "big") + self.transport + self.mask + self.signature

    @classmethod
    def from_bytes(cls, member: int, data: bytes) -> Prekey:
        """Raises ``ValueError`` unless the length is right."""
        if len(data) != PREKEY_BYTES:
            raise ValueError(f"a prekey has {PREKEY_BYTES} bytes, not {len(data)}")
        return cls(member, int.from_bytes(data[:8], "big"), data[8:40], data[40:72], data[72:])

    def is_authentic(self, identity: bytes) -> bool:
        """Whether the member with this identity signed it."""
        return is_signed(identity, self.signature, self.text)


@dataclass(frozen=True)
class Terms:
    """One secure sum.

    ``epoch`` and ``number`` only move forward (a server's start, and its sums since); ``threshold``
    holders of a secret restore it, of ``degree`` neighbours and the owner; ``least`` vectors must
    be in the sum; ``length`` coordinates, check block included; ``public`` is a JSON text with the
    release's numbers, ``work`` one with who trains whom, as what, from which configuration and
    after which entry of the ledger; ``model`` the SHA-256 of what is broadcast.
    """

    epoch: int
    number: int
    prekeys: tuple[Prekey, ...]
    threshold: int
    degree: int
    least: int
    length: int
    public: str
    work: str
    model: bytes

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(prekey.member for prekey in self.prekeys)

    @cached_property
    def session(self) -> bytes:
        """32 bytes that stand for all of this."""
        keys = [prekey.to_bytes().hex() for prekey in self.prekeys]
        numbers = [self.epoch, self.number, self.threshold, self.degree, self.least, self.length]
        members = list(self.members)
        agreed = canonical([PROTOCOL, *numbers, members, keys, self.public, self.work])
        return digest(agreed, self.model)

    @cached_property
    def graph(self) -> dict[int, tuple[int, ...]]:
        """Each member's neighbours."""
        return neighbours(self.members, self.degree, self.session)

    def prekey(self, member: int) -> Prekey:
        return next(prekey for prekey in self.prekeys if prekey.member == member)

    def objection(self) -> str:
        """Fault of the terms in themselves; empty if there is none."""
        members = self.members
        if list(members) != sorted(set(members)) or any(member < 0 for member in members):
            return "the members are not in order, or one is named twice"
        possible = 1 <= self.degree <= max(len(members) - 1, 1)
        if not possible or min(self.epoch, self.number, self.least) < 0:
            return "a number is out of its range"
        if self.degree < len(members) - 1 and self.degree % 2 and len(members) % 2:
            return f"no {self.degree}-regular graph on {len(members)} nodes"
        return ""


def point(member: int) -> int:
    """The member's place on the sharing polynomial."""
    return member + 1


def survivors_text(session: bytes, survivors: list[int]) -> bytes:
    """The bytes a member signs to say: these and no others are in the sum."""
    return canonical(["fedapp survivors 1", session.hex(), survivors])
