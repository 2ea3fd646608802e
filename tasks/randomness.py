"""Random numbers that depend on what they are for, never on where or when they are drawn.

Every stream is named by a key such as ``("batches", seed, round, client)``. The same key gives the
same numbers in any process, in any order, however clients are packed. Nothing that *protects*
(noise, masks, keys) may come from here: those need the operating system's entropy.

A name that holds a :class:`Secret` gives numbers that nobody without it can make again: where a
server must not know what a client's data pass through, its node puts its own secret into the name.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = tuple[object, ...]  # the name of a stream
WORDS = 624  # of a Mersenne twister's state


class Secret(ABC):
    """A key for pseudo-random functions, as a part of a stream's name."""

    @abstractmethod
    def bytes(self, *purpose: object) -> bytes:
        """32 bytes for one purpose."""


def secrets_of(key: Key) -> tuple[Secret, ...]:
    """The secrets in a stream's name (for names that are derived from it)."""
    return tuple(part for part in key if isinstance(part, Secret))


def seed_of(*key: object) -> int:
    """A 63-bit seed from the SHA-256 of the key's parts.

    Raises ``ValueError`` for a name with a secret in it: torch keeps 32 bits of a seed, which a
    server could try one by one. Ask :func:`generator`.
    """
    if secrets_of(key):
        raise ValueError("a seed is too short for a secret stream")
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*key: object) -> torch.Generator:
    """A CPU generator for the stream named by ``key``; with a secret in the name, its whole state
    is made of the secret's bytes."""
    import torch

    hidden = secrets_of(key)
    if not hidden:
        return torch.Generator().manual_seed(seed_of(*key))
    material = b""
    for secret in hidden:
        material += secret.bytes(*(part for part in key if part not in hidden))
    return _twister(hashlib.shake_256(material).digest(4 * WORDS))


def _twister(words: bytes) -> torch.Generator:
    """A generator whose Mersenne twister has this state ``[624 words]``.

    torch lays a generator's state out as seed (8 bytes), words left (4), whether it was seeded (4),
    next word (8), the words, 8 bytes each, and what is left of a pair of normals.
    """
    import torch

    made = torch.Generator().manual_seed(0)
    state = made.get_state().numpy().copy()
    header = state[:24].view("<u4")
    header[0] = header[1] = 0
    header[2] = 1  # none left: the next number begins with the whole state's next one
    header[4] = header[5] = 0
    table = state[24 : 24 + 8 * WORDS].view("<u8")
    table[:] = memoryview(words).cast("I")
    made.set_state(torch.from_numpy(state))
    return made
