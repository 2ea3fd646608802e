"""Mask streams: known answers, one stream per purpose, the same words on any number of cores."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privacy.entropy import BLOCK
from privacy.secagg import primitives
from privacy.secagg.primitives import agreement_key, pair_mask_key, public_bytes, self_mask_key

RNG = np.random.default_rng(7)


# ---------------------------------------------------------------- streams
@pytest.mark.parametrize("length", [1, BLOCK, 3 * BLOCK - 1, 5 * BLOCK + 7])
@pytest.mark.parametrize("cores", [1, 2, 3])
def test_masks_do_not_depend_on_how_many_cores_add_them(
    monkeypatch: pytest.MonkeyPatch, cores: int, length: int
) -> None:
    """Against AES-128-CTR from the derived counter, as the cipher library gives it in one piece."""
    monkeypatch.setattr(primitives, "_cores", lambda: cores)
    monkeypatch.setattr(primitives, "LEAST_WORDS", 3)
    vector = RNG.integers(0, 2**32, length, dtype=np.uint32)
    expected = vector.copy()
    derived = [bytes([1]) * 32, bytes([2]) * 32, bytes(16) + b"\xff" * 16]  # the last wraps around
    masks = list(zip(derived, (1, -1, -1), strict=True))
    for both, sign in masks:
        cipher = Cipher(algorithms.AES(both[:16]), modes.CTR(both[16:]))
        stream = cipher.encryptor().update(bytes(4 * length))
        expected += np.frombuffer(stream, np.uint32) * np.uint32(sign % 2**32)
    primitives.add_masks(vector, masks)
    assert (vector == expected).all()


def test_mask_streams_give_the_published_ciphertext() -> None:
    """NIST SP 800-38A, F.5.1 (CTR-AES128): the output blocks of its four input blocks."""
    derived = "2b7e151628aed2a6abf7158809cf4f3c" + "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
    words = primitives.mask_stream(bytes.fromhex(derived)).words(16)
    assert words.tobytes().hex() == (
        "ec8cdf7398607cb0f2d21675ea9ea1e4" + "362b7c3c6773516318a077d7fc5073ae"
        "6a2cc3787889374fbeb4c81b17ba6c44" + "e89c399ff0f198c6d40a31db156cabfe"
    )


def test_masks_of_fixed_secrets_are_what_they_always_were() -> None:
    """From seed to stream: a change of a label, of the derivation or of the cipher shows here."""
    session = bytes(range(32))
    own = self_mask_key(bytes(range(16)), session, 3)
    one, other = agreement_key(b"1" * 16, "mask"), agreement_key(b"2" * 16, "mask")
    pair = pair_mask_key(one, public_bytes(other), session, 4, 9)
    streams = [primitives.mask_stream(derived).words(4).tobytes().hex() for derived in (own, pair)]
    assert streams == ["88bbedd8b457da98ed4d10dc9ace671e", "b507547bdcaf3c027ecb8727f7f4b7ca"]


def test_no_two_masks_share_a_key_or_a_counter() -> None:
    """One seed for both kinds, two sessions, both members: every half of every 32 bytes differs."""
    key, peer = agreement_key(b"1" * 16, "mask"), public_bytes(agreement_key(b"2" * 16, "mask"))
    derived = []
    for session in (b"s" * 32, b"t" * 32):
        derived += [self_mask_key(b"1" * 16, session, member) for member in (4, 9)]
        derived += [pair_mask_key(key, peer, session, 4, other) for other in (8, 9)]
    halves = {half for both in derived for half in (both[:16], both[16:])}
    assert len(halves) == 2 * len(derived)


# ---------------------------------------------------------------- keys keep all their bits
def test_flipping_any_bit_of_the_secret_changes_the_mask_key() -> None:
    seed = bytes(16)
    key = self_mask_key(seed, bytes(32), 1)
    flipped = {self_mask_key((1 << bit).to_bytes(16, "big"), bytes(32), 1) for bit in range(128)}
    assert len(flipped | {key}) == 129
    changed = [
        sum((a ^ b).bit_count() for a, b in zip(key, other, strict=True)) for other in flipped
    ]
    assert min(changed) > 80  # of 256; fewer than 81 has probability 1e-9


def test_mask_keys_do_not_collide_but_folded_ones_do() -> None:
    """Half a million keys: none agree in their first 16 bytes. Folded to 32 bits, as flwr 1.41
    does, they do."""
    count = 500_000
    raw = np.frombuffer(
        b"".join(self_mask_key(i.to_bytes(16, "big"), bytes(32), 0) for i in range(60_000)),
        np.uint64,
    )
    keys = raw.reshape(-1, 4)
    assert len(np.unique(keys[:, :2], axis=0)) == 60_000
    words = RNG.integers(0, 2**32, (count, 8), dtype=np.uint32)
    assert len(np.unique(np.bitwise_xor.reduce(words, axis=1))) < count  # expected: 29 collisions


def test_both_ends_derive_one_pair_key_bound_to_session_and_pair() -> None:
    one, other = agreement_key(b"1" * 16, "mask"), agreement_key(b"2" * 16, "mask")
    key = pair_mask_key(one, public_bytes(other), b"s" * 32, 4, 9)
    assert key == pair_mask_key(other, public_bytes(one), b"s" * 32, 9, 4)
    assert key != pair_mask_key(one, public_bytes(other), b"t" * 32, 4, 9)
    assert key != pair_mask_key(one, public_bytes(other), b"s" * 32, 4, 8)
    with pytest.raises(ValueError):
        pair_mask_key(one, bytes(32), b"s" * 32, 4, 9)  # a point of small order
