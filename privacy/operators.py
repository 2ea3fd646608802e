"""Operators on the device: what becomes of a sensitive picture before anything leaves.

An operator is a chain of links, written as ``"modulus=sobel,erase=3,noise=0.05,levels=16"`` and
applied in that order; a link of your own is a ``"package.module:factory"`` that is called with the
text behind its ``=``. What leaves must have lost its colour: a chain that ends in three channels is
refused (:func:`refuse_colour`).

None of them makes pictures of a person anonymous: ``fedapp attack`` measures what a trained matcher
and a learned inverter make of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from privacy.entropy import Entropy
from tasks.errors import InputError
from tasks.modulus import KERNELS, gradient_modulus
from tasks.registry import load

TOP = 1.3  # of a gradient magnitude: quantisation has a fixed range (a picture's own would tell)


@dataclass(frozen=True)
class Pictures:
    """Pictures on their way out.

    Attributes:
        values: ``[V, H, W, C]``, C = 3 colours in [0, 1] or 1.
        valid: ``[V, H, W]``, false where nothing may be told.
        cover: shares of pixels that the person covers ``[V, H, W]``, which stay on the device;
            ``None`` where there is no mask.
        kernel: of the gradient magnitude that was taken; empty before.
    """

    values: Tensor
    valid: Tensor
    cover: Tensor | None = None
    kernel: str = ""


class Link(Protocol):
    """One link of a chain."""

    def __call__(self, pictures: Pictures, draws: Entropy) -> Pictures: ...


@dataclass(frozen=True)
class Modulus:
    """Gradient magnitude (Equation 6): colours become one number; a border of one pixel is lost."""

    kernel: str

    def __call__(self, pictures: Pictures, draws: Entropy) -> Pictures:
        if pictures.values.shape[-1] != 3:
            raise InputError(
                "head.operator", "modulus", "there are no colours left", "put it first"
            )
        found = gradient_modulus(pictures.values, self.kernel)[..., None]
        inner = pictures.valid[:, 1:-1, 1:-1]
        cover = None if pictures.cover is None else pictures.cover[:, 1:-1, 1:-1]
        return Pictures(found, inner, cover, self.kernel)


@dataclass(frozen=True)
class Erase:
    """Nothing is told within so many pixels of the silhouette, where skin and hair meet a
    background that is known."""

    pixels: int

    def __call__(self, pictures: Pictures, draws: Entropy) -> Pictures:
        if not pictures.kernel:  # the modulus would draw edges around what was erased
            raise InputError(
                "head.operator", "erase", "its edges would tell how bright the face is there",
                "put it after modulus",
            )  # fmt: skip
        if pictures.cover is None:
            raise InputError(
                "head.operator", "erase", "a view has no mask", "add masks, or leave erase out"
            )
        inside = (pictures.cover > 0.5).float()[:, None]
        reach = 2 * self.pixels + 1
        grown = torch.nn.functional.max_pool2d(inside, reach, 1, self.pixels)
        shrunk = -torch.nn.functional.max_pool2d(-inside, reach, 1, self.pixels)
        band = (grown - shrunk)[:, 0] > 0
        kept = pictures.valid & ~band
        return replace(pictures, values=pictures.values * kept[..., None], valid=kept)


@dataclass(frozen=True)
class Noise:
    """Normal noise of a deviation, in units of the values."""

    deviation: float

    def __call__(self, pictures: Pictures, draws: Entropy) -> Pictures:
        count = pictures.values.numel()
        noise = torch.from_numpy(draws.normal(count)).float().view_as(pictures.values)
        return replace(pictures, values=pictures.values + self.deviation * noise)


@dataclass(frozen=True)
class Tone:
    r"""A tone curve per client, :math:`v \mapsto v^{\exp(a z)}` with z normal: the same for all
    pictures of a client."""

    strength: float

    def __call__(self, pictures: Pictures, draws: Entropy) -> Pictures:
        power = float(torch.tensor(self.strength * float(draws.normal(1)[0])).exp())
        return replace(pictures, values=pictures.values.clamp(min=0) ** power)


@dataclass(frozen=True)
class Levels:
    """So many equal levels of a fixed range."""

    count: int

    def __call__(self, pictures: Pictures, draws: Entropy) -> Pictures:
        top = TOP if pictures.kernel else 1.0
        step = top / (self.count - 1)
        return replace(pictures, values=(pictures.values.clamp(0, top) / step).round() * step)


@dataclass(frozen=True)
class Smaller:
    """Down-sampled by a whole factor (area means)."""

    factor: int

    def __call__(self, pictures: Pictures, draws: Entropy) -> Pictures:
        height, width = pictures.values.shape[1:3]
        if pictures.kernel:
            raise InputError(
                "head.operator",
                "smaller",
                "the renderer cannot repeat what comes after the modulus",
                "put it before modulus",
            )
        if height % self.factor or width % self.factor:
            raise InputError(
                "head.operator", f"smaller={self.factor}", f"{height} x {width} is no multiple",
                "use a factor of both",
            )  # fmt: skip

        def pooled(part: Tensor) -> Tensor:
            return torch.nn.functional.avg_pool2d(part, self.factor)

        values = pooled(pictures.values.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        valid = pooled(pictures.valid.float()[:, None])[:, 0] == 1
        cover = None if pictures.cover is None else pooled(pictures.cover[:, None])[:, 0]
        return replace(pictures, values=values, valid=valid, cover=cover)


def _whole(name: str, least: int) -> Callable[[str], int]:
    def parsed(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise InputError("head.operator", f"{name}={text}", "not a whole number in range",
                             f"for example {name}={max(least, 3)}")  # fmt: skip
        return int(text)

    return parsed


def _number(name: str) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 100:
            raise InputError("head.operator", f"{name}={text}", "not a number from 0 up",
                             f"for example {name}=0.1")  # fmt: skip
        return value

    return parsed


def _kernel(text: str) -> str:
    kernel = text or "sobel"
    if kernel not in KERNELS:
        raise InputError("head.operator", f"modulus={text}", "no such kernel", "use "
                         + " or ".join(KERNELS))  # fmt: skip
    return kernel


LINKS: dict[str, Callable[[str], Link]] = {
    "modulus": lambda text: Modulus(_kernel(text)),
    "erase": lambda text: Erase(_whole("erase", 1)(text)),
    "noise": lambda text: Noise(_number("noise")(text)),
    "tone": lambda text: Tone(_number("tone")(text)),
    "levels": lambda text: Levels(_whole("levels", 2)(text)),
    "smaller": lambda text: Smaller(_whole("smaller", 2)(text)),
}


@dataclass(frozen=True)
class Chain:
    """Links in order; ``text`` is how it is written."""

    text: str
    links: tuple[Link, ...]

    @classmethod
    def parsed(cls, text: str) -> Chain:
        """The chain of a text; raises ``InputError`` for a link that is none."""
        links = []
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            if ":" in name:
                links.append(load("operator", name, {}, "head.operator")(value))
            elif name in LINKS:
                links.append(LINKS[name](value))
            else:
                from tasks.errors import nearest

                raise InputError("head.operator", name, "no such link", nearest(name, LINKS))
        return cls(text, tuple(links))

    def __call__(self, images: Tensor, cover: Tensor | None, draws: Entropy) -> Pictures:
        """What may leave of ``images [V, H, W, 3]``; raises ``InputError`` where colours are
        left."""
        found = Pictures(images, torch.ones(images.shape[:3], dtype=torch.bool), cover)
        for link in self.links:
            found = link(found, draws)
        refuse_colour(found, self.text)
        return found


def refuse_colour(pictures: Pictures, text: str) -> None:
    """Raise :class:`InputError` unless values are gradient magnitudes of one channel."""
    if pictures.values.shape[-1] != 1 or not pictures.kernel:
        raise InputError(
            "head.operator",
            text,
            "pictures would leave in colour",
            "begin it with modulus",
        )
