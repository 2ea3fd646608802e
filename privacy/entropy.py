"""Randomness that protects: AES-256-CTR keyed by the operating system, never a seed, never
reproducible.

Noise and rounding under a privacy claim must be unpredictable to everyone, the server included.
There is no seed parameter to set by mistake; tests replace :func:`fresh_key`.
"""

from __future__ import annotations

import math
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

BLOCK = 1 << 16  # numbers generated at a time: stays in the second-level cache
LARGEST_NORMAL = math.sqrt(2 * 64 * math.log(2))  # 9.42: all that Box-Muller makes of 64 bits
_ZEROS = bytes(BLOCK * 8)


def fresh_key() -> bytes:
    """An AES-256 key from the operating system."""
    return os.urandom(32)


class Keystream:
    """The AES-CTR stream of a key that is used for this stream and nothing else.

    Args:
        key: 16 or 32 bytes, for AES-128 or AES-256.
        buffer: ``8 * BLOCK`` bytes that streams which are read in turn may share: a thousand masks
            need one.
        start: the 32-bit word to begin with, a multiple of 4: a part of a stream can be had without
            the rest.
        counter: the counter block of word 0, in [0, 2^128); it wraps around.
    """

    def __init__(
        self, key: bytes, buffer: bytearray | None = None, start: int = 0, counter: int = 0
    ) -> None:
        first = ((counter + start // 4) % 2**128).to_bytes(16, "big")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(first)).encryptor()
        self._buffer = bytearray(BLOCK * 8) if buffer is None else buffer
        self._words = np.frombuffer(self._buffer, np.uint32)
        self._doubles = np.frombuffer(self._buffer, np.uint64)

    def words(self, count: int) -> NDArray[np.uint32]:
        """The next ``count`` (at most ``BLOCK``) uniform 32-bit words; valid until the next
        call."""
        self._encryptor.update_into(memoryview(_ZEROS)[: 4 * count], self._buffer)
        return self._words[:count]

    def doubles(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` (at most ``BLOCK``) uniform 64-bit words; valid until the next
        call."""
        self._encryptor.update_into(memoryview(_ZEROS)[: 8 * count], self._buffer)
        return self._doubles[:count]


class Entropy(Keystream):
    """Draws for one purpose, from a key of its own that nobody keeps."""

    def __init__(self) -> None:
        super().__init__(fresh_key())

    def uniform(self, count: int) -> NDArray[np.float64]:
        """``count`` (at most ``BLOCK``) numbers in (0, 1], down to 2^-64."""
        return (self.doubles(count).astype(np.float64) + 1.0) * 2.0**-64

    def normal(self, count: int) -> NDArray[np.float64]:
        """``count`` independent N(0, 1), by Box-Muller on 64-bit uniforms: exact up to |x| = 9.42
        (tail 5e-21)."""
        out = np.empty(count + 1)
        for start in range(0, count, BLOCK):
            pairs = (min(BLOCK, count - start) + 1) // 2
            radius = np.sqrt(-2.0 * np.log(self.uniform(pairs)))
            angle = 2.0 * np.pi * self.uniform(pairs)
            out[start : start + pairs] = radius * np.cos(angle)
            rest = min(pairs, count - start - pairs)
            out[start + pairs : start + pairs + rest] = (radius * np.sin(angle))[:rest]
        return out[:count]

    def integer_noise(self, count: int, deviation: float) -> NDArray[np.int64]:
        r"""``count`` draws of :math:`\mathrm{rint}(N(0, \sigma^2))`; ``deviation`` is sigma, in
        quanta."""
        return np.rint(self.normal(count) * deviation).astype(np.int64)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.uniform(1)[0] <= probability)
