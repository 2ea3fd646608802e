"""Secrets of a node, and a channel between two nodes that the server between them cannot read.

Everything random that a client's data pass through outside of ``plain`` (batches, jitter, diffusion
noise, attendance; initial weights of a head, shares) is derived from a secret of its node: a server
that names the streams would take them off again. A stream is a function of what it is for, so that
a repeated request gets the same bits and never a second draw of the same noise.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from torch import Tensor

from privacy.entropy import BLOCK, Entropy, Keystream
from privacy.secagg.identity import Roster
from privacy.secagg.messages import RefusalError
from privacy.secagg.primitives import (
    NONCE_BYTES,
    agree,
    agreement_key,
    canonical,
    derive,
    is_signed,
    is_small_order,
    public_bytes,
)
from tasks.randomness import Secret

LABEL = "fedapp node secret 1"
SEED_BYTES = 16


class SecretDraws(Entropy):
    """Draws from a key that is derived for one purpose (:class:`privacy.entropy.Entropy` draws from
    a fresh one)."""

    def __init__(self, key: bytes) -> None:
        Keystream.__init__(self, key)


@dataclass(frozen=True)
class NodeSecret(Secret):
    """A node's own key for pseudo-random functions."""

    key: bytes = field(repr=False)

    @classmethod
    def of(cls, identity: Ed25519PrivateKey) -> NodeSecret:
        """The secret behind a node's identity."""
        return cls(derive(identity.private_bytes_raw(), b"", LABEL))

    @classmethod
    def simulated(cls, *name: object) -> NodeSecret:
        """A node that only exists in a simulation has none: runs stay reproducible by their
        seed."""
        return cls(sha256(canonical(["simulated", *map(str, name)])).digest())

    def apart(self, *purpose: object) -> NodeSecret:
        """Another secret, for one purpose: it tells nothing of this one."""
        return NodeSecret(self.bytes("apart", *purpose))

    def bytes(self, *purpose: object) -> bytes:
        """32 bytes for one purpose (HMAC-SHA256 over its canonical text)."""
        text = canonical([type(part).__name__ + ":" + str(part) for part in purpose])
        return hmac.digest(self.key, text, "sha256")

    def draws(self, *purpose: object) -> SecretDraws:
        """A stream of numbers for one purpose."""
        return SecretDraws(self.bytes(*purpose))

    def uniform(self, *purpose: object) -> Callable[[int], Tensor]:
        """Numbers in (0, 1] for initial weights, from the whole key. (Of a seed torch's CPU
        generator keeps 32 bits: a server could try them all.)"""
        draws = self.draws(*purpose)

        def uniform(count: int) -> Tensor:
            parts = [draws.uniform(min(BLOCK, count - at)) for at in range(0, count, BLOCK)]
            return torch.from_numpy(np.concatenate(parts)).float()

        return uniform


def expand(seed: bytes, count: int) -> Tensor:
    """``count`` uniform elements of Z_2^64 (as int64) that 16 bytes stand for: AES-128-CTR."""
    stream = Keystream(seed)
    words: NDArray[np.uint64] = np.empty(count, np.uint64)
    for start in range(0, count, BLOCK):
        part = words[start : start + BLOCK]
        part[:] = stream.doubles(len(part))
    return torch.from_numpy(words.view(np.int64))


# ---------------------------------------------------------------------- a channel between peers
@dataclass(frozen=True)
class Advert:
    """A node's agreement key for one run, signed by the identity that the roster pins."""

    number: int
    public: bytes
    signature: bytes

    def packed(self) -> dict[str, Any]:
        """As fields of a message."""
        return {"number": self.number, "public": self.public, "signature": self.signature}

    @classmethod
    def unpacked(cls, record: Any) -> Advert:
        """Inverse of :meth:`packed`; raises :class:`RefusalError`."""
        number, public, signature = (record[key] for key in ("number", "public", "signature"))
        if type(number) is not int or type(public) is not bytes or type(signature) is not bytes:
            raise RefusalError("a peer's key that is none")
        return cls(number, public, signature)


def holder_of(number: int, members: Collection[int]) -> int:
    """The member that holds the other share of a member's scenes: the next one in the roster. (Were
    it the server's to choose, it would choose a friend.)"""
    numbers = sorted(members)
    if number not in numbers:
        raise RefusalError(f"member {number} is not in the roster")
    return numbers[(numbers.index(number) + 1) % len(numbers)]


def _signed_text(run: str, number: int, public: bytes) -> bytes:
    return canonical(["fedapp split peer 1", run, number, public.hex()])


class Peer:
    """This node's end of channels to other nodes in one run.

    Args:
        identity: this node's key.
        number: this node's, in the roster.
        run: the channels are good for.
        roster: whose keys are believed.
    """

    def __init__(self, identity: Ed25519PrivateKey, number: int, run: str, roster: Roster) -> None:
        if roster.members.get(number) != public_bytes(identity):
            raise RefusalError("the roster does not hold this node's key")
        self.number = number
        self.run = run
        self.roster = roster
        self._identity = identity
        seed = NodeSecret.of(identity).bytes("split agreement", run)[:SEED_BYTES]
        self._key = agreement_key(seed, "split peer")

    @property
    def advert(self) -> Advert:
        """What other nodes need to seal for this one."""
        public = public_bytes(self._key)
        text = _signed_text(self.run, self.number, public)
        return Advert(self.number, public, self._identity.sign(text))

    @property
    def holder(self) -> int:
        """The member that holds the other share of this node's scenes."""
        return holder_of(self.number, self.roster.members)

    def channel(self, other: Advert, *purpose: object) -> Channel:
        """A channel to another member for one purpose.

        Raises :class:`RefusalError` for a key that the roster does not vouch for, this node's own
        among them.
        """
        pinned = self.roster.members.get(other.number)
        if other.number == self.number or pinned is None:
            raise RefusalError(f"member {other.number} of the roster cannot be the peer")
        text = _signed_text(self.run, other.number, other.public)
        if not is_signed(pinned, other.signature, text) or is_small_order(other.public):
            raise RefusalError(f"the key shown for member {other.number} is not its own")
        salt = sha256(canonical(["fedapp split channel 1", self.run])).digest()
        pair = sorted([self.number, other.number])
        key = derive(agree(self._key, other.public), salt, *pair, *purpose)
        return Channel(key, self.number, other.number)


@dataclass(frozen=True)
class Channel:
    """Authenticated encryption under one key, for messages with different ``about``.

    A box goes from ``own`` to ``other``: neither opens what it sealed itself.

    The nonce is a pseudo-random function of the text: the same message is sealed to the same bytes
    (a repeated request gets the same answer), two different ones never share a nonce but with
    probability 2^-96 per pair.
    """

    key: bytes
    own: int
    other: int

    def seal(self, text: bytes, *about: object) -> bytes:
        """Nonce and ciphertext of ``text``, bound to what it is about."""
        associated = self._about((self.own, self.other, *about))
        nonce = hmac.digest(derive(self.key, b"", "nonce"), associated + text, "sha256")
        nonce = nonce[:NONCE_BYTES]
        return nonce + AESGCM(derive(self.key, b"", "box")).encrypt(nonce, text, associated)

    def open(self, box: bytes, *about: object) -> bytes:
        """Inverse of :meth:`seal`; raises :class:`RefusalError` if anything was changed."""
        try:
            aes = AESGCM(derive(self.key, b"", "box"))
            associated = self._about((self.other, self.own, *about))
            return aes.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], associated)
        except (InvalidTag, ValueError) as error:
            raise RefusalError(
                "a sealed box that is not the peer's, or not of this step"
            ) from error

    @staticmethod
    def _about(about: tuple[object, ...]) -> bytes:
        text = canonical([type(part).__name__ + ":" + str(part) for part in about])
        return len(text).to_bytes(8, "big") + text
