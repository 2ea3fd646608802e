"""Random numbers that depend on what they are for, never on where or when they are drawn.

Every stream is named by a key such as ``("batches", seed, round, client)``. The same key gives the
same numbers in any process, in any order, however clients are packed. Nothing that *protects*
(noise, masks, keys) may come from here: those need the operating system's entropy.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = tuple[object, ...]  # the name of a stream


def seed_of(*key: object) -> int:
    """A 63-bit seed from the SHA-256 of the key's parts."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*key: object) -> torch.Generator:
    """A CPU generator for the stream named by ``key``."""
    import torch

    return torch.Generator().manual_seed(seed_of(*key))
