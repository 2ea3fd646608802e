"""Sixteen-bit arrays with a scale of their own: half the bytes of float32, and nothing overflows.

An array goes as ``float16(x / s)`` with ``s`` the power of two that brings its largest magnitude to
[1, 2): gradients of 1e-6 are no subnormals, features of 1e5 no infinities. The scale travels as a
float64 beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.errors import ReplyError

EXPONENT = 0x7C00  # bits of a float16


class Scaled(NamedTuple):
    """``values [K, ...]`` float16 and ``scales [K]`` float64, powers of two."""

    values: Tensor
    scales: Tensor


def narrow(arrays: Tensor) -> Scaled:
    """Float arrays ``[K, ...]`` in the wire format, each with its own scale. What is not finite
    stays so."""
    largest = arrays.abs().flatten(1).amax(1).double()
    known = torch.where(torch.isfinite(largest) & (largest > 0), largest, 1.0)
    scales = torch.exp2(torch.floor(torch.log2(known)))
    shape = (-1, *[1] * (arrays.dim() - 1))
    return Scaled((arrays / scales.view(shape).to(arrays)).half(), scales)


def widen(sent: Scaled) -> Tensor:
    """Inverse of :func:`narrow`, in float32."""
    shape = (-1, *[1] * (sent.values.dim() - 1))
    return sent.values.float() * sent.scales.float().view(shape)


def narrowed(arrays: Iterable[Tensor]) -> Scaled:
    """:func:`narrow` of K arrays of one shape as they come: in single precision there is never more
    than one of them."""
    parts = [narrow(array[None]) for array in arrays]
    return Scaled(torch.cat([p.values for p in parts]), torch.cat([p.scales for p in parts]))


def widened(sent: Scaled) -> Iterator[Tensor]:
    """Each of the K arrays in single precision, when it is asked for."""
    for values, scale in zip(sent.values, sent.scales, strict=True):
        yield widen(Scaled(values[None], scale[None]))[0]


def checked(values: Tensor, scales: Tensor, shape: tuple[int, ...]) -> Scaled:
    """Arrays of another side, if they are what was asked for; raises :class:`ReplyError`."""
    if values.dtype is not torch.float16 or tuple(values.shape) != shape:
        raise ReplyError(f"arrays of {values.dtype}, {tuple(values.shape)}, expected {shape}")
    if scales.dtype is not torch.float64 or tuple(scales.shape) != shape[:1]:
        raise ReplyError("every array comes with one float64 scale")
    if not _are_finite(values) or not bool(torch.isfinite(scales).all()):
        raise ReplyError("numbers that are not finite")
    if not all(scale > 0 and math.frexp(scale)[0] == 0.5 for scale in scales.tolist()):
        raise ReplyError("a scale that is no power of two")
    return Scaled(values, scales)


def _are_finite(values: Tensor) -> bool:
    """Whether no float16 has the exponent of infinities and NaN."""
    return not values.numel() or int((values.view(torch.int16) & EXPONENT).max()) < EXPONENT
