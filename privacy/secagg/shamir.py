"""Shamir's secret sharing of 16-byte secrets.

*How to share a secret*, A. Shamir, Communications of the ACM 22 (1979),
https://doi.org/10.1145/359168.359176.

Over the integers modulo the smallest prime above 2^128. Libraries share over GF(2^128) in pure
Python, a bit at a time; that is three orders of magnitude slower, and with 100 nodes it would be
the slowest part of a round.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**128 + 51
SECRET_BYTES = 16
SHARE_BYTES = 17  # one more: the prime is above 2^128


def split(secret: bytes, points: Sequence[int], threshold: int) -> list[bytes]:
    """One share for each of the distinct non-zero ``points``; any ``threshold`` of them give the
    secret back."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold {threshold} of {len(points)} shares")
    if len(set(points)) < len(points) or any(not 0 < point < PRIME for point in points):
        raise ValueError("points must be distinct and not zero")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    shares = []
    for point in points:
        value = 0
        for coefficient in coefficients:  # Horner, highest power first
            value = (value * point + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from at least ``threshold`` shares ``{point: share}``.

    Raises ``ValueError`` for too few; wrong shares give a wrong secret, or the same error where it
    cannot be one.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, {threshold} are needed")
    points = tuple(sorted(shares)[:threshold])
    values = (int.from_bytes(shares[point], "big") for point in points)
    terms = (weight * value for weight, value in zip(_weights(points), values, strict=True))
    secret = sum(terms) % PRIME
    # Above 2^128 there are 51 elements of the field that no secret can be
    if secret >> (8 * SECRET_BYTES):
        raise ValueError("the shares do not belong together")
    return secret.to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=512)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange coefficients at 0, cached because all secrets of a round have nearly the same
    holders."""
    weights = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
