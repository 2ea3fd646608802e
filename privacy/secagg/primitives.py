"""Keys, key derivation, authenticated transport and masks, all from ``cryptography``.

Identities are Ed25519, agreements X25519, derivations HKDF-SHA256 salted with the session,
transport AES-256-GCM with associated data, masks AES-128-CTR. Every derived key is used once, for
one purpose that its label names.

Masks take AES-128 because the secrets behind them have 128 bits (a Shamir-shared seed, an X25519
agreement): more rounds would protect nothing. A pass over the key space that tests every key
against many streams at once would cost 2^128 over their number if all streams began at the same
counter, since one AES block could then be looked up among all of them. So a stream's first counter
block is derived together with its key and as secret: a guessed key has to be tried against each
stream by itself (the reason for the randomised nonces of TLS 1.3; *The Multi-User Security of
Authenticated Encryption: AES-GCM in TLS 1.3*, M. Bellare, B. Tackmann, CRYPTO 2016,
https://eprint.iacr.org/2016/564).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privacy.entropy import BLOCK, Keystream

SEED_BYTES = 16
MASK_KEY_BYTES = 16  # AES-128; the other 16 of a mask's derived bytes are its first counter block
# words of a vector for each thread that adds masks to it: fewer are done before the thread runs
LEAST_WORDS = 2 * BLOCK
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)
NONCE_BYTES = 12


def canonical(value: Any) -> bytes:
    """The one JSON text of a value of strings, integers, lists and tables: what is hashed and
    signed."""
    return _CANONICAL.encode(value).encode()


def digest(*parts: bytes) -> bytes:
    """SHA-256 of parts that cannot run into each other (each is preceded by its length)."""
    return sha256(_framed(parts)).digest()


def _framed(parts: Iterable[bytes]) -> bytes:
    """Parts one after the other, each preceded by its length."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def derive(secret: bytes, salt: bytes, *info: object) -> bytes:
    """32 bytes for one purpose: HKDF-SHA256, ``info`` a label and whatever the key is bound to."""
    return HKDF(SHA256(), 32, salt, _framed(str(part).encode() for part in info)).derive(secret)


# ---------------------------------------------------------------- agreement
def agreement_key(seed: bytes, label: str) -> X25519PrivateKey:
    """The X25519 key a 16-byte seed stands for (the seed is short enough to be shared among
    peers)."""
    return X25519PrivateKey.from_private_bytes(derive(seed, b"", "fedapp x25519", label))


def public_bytes(key: X25519PrivateKey | Ed25519PrivateKey) -> bytes:
    """The 32 bytes of the public half."""
    return key.public_key().public_bytes_raw()


def agree(own: X25519PrivateKey, peer: bytes) -> bytes:
    """The shared secret; raises ``ValueError`` for a public key of small order."""
    return own.exchange(X25519PublicKey.from_public_bytes(peer))


FIELD = 2**255 - 19  # of Curve25519
# u-coordinates of points of order 1, 2, 4 and 8, on the curve and on its twist: whatever the other
# key, they agree on zero
SMALL_ORDER = frozenset(
    {
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        FIELD - 1,
    }
)


def is_small_order(public: bytes) -> bool:
    """Whether an X25519 public key has small order, in any of its encodings (the highest bit is
    ignored, and values up to 2^255 wrap around)."""
    return (int.from_bytes(public, "little") % 2**255) % FIELD in SMALL_ORDER


# ---------------------------------------------------------------- transport and signatures
def seal(key: bytes, text: bytes, associated: bytes) -> bytes:
    """Nonce and ciphertext."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text, associated)


def unseal(key: bytes, box: bytes, associated: bytes) -> bytes:
    """Inverse of :func:`seal`; raises ``ValueError`` if anything about the box was changed."""
    try:
        return AESGCM(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], associated)
    except InvalidTag:
        raise ValueError("the ciphertext is not authentic") from None


def is_signed(public: bytes, signature: bytes, text: bytes) -> bool:
    """Whether ``signature`` is the owner's of ``public`` over ``text``."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


# ---------------------------------------------------------------- masks
def pair_mask_key(
    own: X25519PrivateKey, peer: bytes, session: bytes, one: int, other: int
) -> bytes:
    """The 32 bytes of a :func:`mask_stream` of two members, alike from either side, for one
    session.

    Args:
        own: the agreement key of one of them.
        peer: the 32 public bytes of the other's.
        session: the 32 bytes of the terms.
        one: number of either member.
        other: number of the other.
    """
    return derive(agree(own, peer), session, "fedapp pair mask", min(one, other), max(one, other))


def self_mask_key(seed: bytes, session: bytes, member: int) -> bytes:
    """The 32 bytes of the :func:`mask_stream` a member adds for itself alone."""
    return derive(seed, session, "fedapp self mask", member)


def mask_stream(derived: bytes, buffer: bytearray | None = None, start: int = 0) -> Keystream:
    """The mask that 32 ``derived`` bytes stand for, from its 32-bit word ``start`` (a multiple of
    4)."""
    counter = int.from_bytes(derived[MASK_KEY_BYTES:], "big")
    return Keystream(derived[:MASK_KEY_BYTES], buffer, start, counter)


def add_masks(vector: NDArray[np.uint32], masks: Iterable[tuple[bytes, int]]) -> None:
    """Add each mask ``(derived bytes, +1 or -1)`` to ``vector`` in place, modulo 2^32.

    Block by block: a block and its keystream stay in cache while all masks pass over it, and beyond
    the vector it takes one buffer per thread. A vector is cut into one run for each core this
    process may use: a counter can start anywhere (each 16 bytes), and both AES and the addition let
    other threads work.
    """
    given = list(masks)
    threads = min(_cores(), len(vector) // LEAST_WORDS)
    if threads < 2 or not given:
        return _add_masks(vector, given, 0, len(vector))
    edges = [*(len(vector) * part // threads // 4 * 4 for part in range(threads)), len(vector)]
    with ThreadPoolExecutor(threads) as pool:
        runs = [
            pool.submit(_add_masks, vector, given, first, last) for first, last in pairwise(edges)
        ]
        for run in runs:
            run.result()


def _cores() -> int:
    """Number of cores this process may use (all, where the system cannot say)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _add_masks(
    vector: NDArray[np.uint32], masks: Sequence[tuple[bytes, int]], first: int, last: int
) -> None:
    """The masks' words ``first`` (a multiple of 4) to ``last``."""
    buffer = bytearray(8 * BLOCK)
    streams = [(mask_stream(derived, buffer, first), sign) for derived, sign in masks]
    for start in range(first, last, BLOCK):
        block = vector[start : min(start + BLOCK, last)]
        for stream, sign in streams:
            if sign > 0:
                np.add(block, stream.words(len(block)), out=block)
            else:
                np.subtract(block, stream.words(len(block)), out=block)
