"""Who somebody is: the shape of a head, its colours, its hair, and the light it is seen in.

Person ``number`` is the same on every machine; numbers of one population are drawn alike. Shapes
are normal in the traits of :class:`~tasks.data.people.heads.Head` (a deviation of 0.25 looks like
people, 0.5 like caricatures), over a mix of sex, age and ancestry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.people.heads import Trait, head
from tasks.data.people.pack import EYES
from tasks.data.shapes.draws import Colour, Draws
from tasks.errors import InputError, nearest
from tasks.randomness import generator

SPREAD = 0.25  # deviation of a trait
ASYMMETRY = 0.15
SKINS: tuple[Colour, ...] = (
    (0.91, 0.75, 0.66), (0.85, 0.66, 0.54), (0.77, 0.57, 0.43), (0.63, 0.44, 0.31),
    (0.45, 0.30, 0.21), (0.31, 0.20, 0.15),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (0.07, 0.06, 0.06), (0.16, 0.10, 0.07), (0.30, 0.19, 0.11), (0.48, 0.32, 0.17),
    (0.68, 0.52, 0.30), (0.45, 0.20, 0.10), (0.62, 0.61, 0.60),
)  # fmt: skip
IRISES: tuple[Colour, ...] = (
    (0.20, 0.12, 0.07), (0.36, 0.24, 0.12), (0.30, 0.36, 0.22), (0.28, 0.42, 0.55),
)  # fmt: skip
TONES = {"african": (2.9, 4.9), "asian": (0.6, 2.4), "caucasian": (0.0, 1.4)}  # of SKINS
STYLES = ("short", "long", "mixed")


@dataclass(frozen=True)
class Hair:
    """Hair on the scalp: how far it stands off (head heights), where it begins (degrees of
    elevation in front, at the sides and behind), how wavy it is, and its colour."""

    thickness: float
    front: float
    side: float
    back: float
    wave: float
    colour: Colour


@dataclass(frozen=True)
class Person:
    """One person.

    Attributes:
        number: of the person.
        weights: of targets.
        skin, lips, iris: colours.
        brows: share of full hair in the eyebrows, in [0, 1].
        stubble: the same of a shaved beard.
        freckles: contrast of the skin's texture.
        hair: on the head.
    """

    number: int
    weights: Mapping[str, float]
    skin: Colour
    lips: Colour
    iris: Colour
    brows: float
    stubble: float
    freckles: float
    hair: Hair

    def shape(self, expression: Mapping[str, float] | None = None) -> Tensor:
        """Vertices ``[N, 3]`` with face units (names without ``unit/``, 0 to 1), before hair.

        Raises:
            InputError: a unit that is not there.
        """
        weights = dict(self.weights)
        for unit, weight in (expression or {}).items():
            if unit not in head().units:
                raise InputError(
                    "expression", unit, "no such face unit", nearest(unit, head().units)
                )
            weights[f"unit/{unit}"] = weight
        found = head().shape(weights)
        eyes = (
            head().part == EYES
        )  # a grown-up's eyes lie higher than the base mesh's: put them back
        return found + (head().base[eyes] - found[eyes]).mean(0)


def person(number: int, style: str = "mixed", spread: float = SPREAD) -> Person:
    """Person ``number`` (0 or more) of a population.

    Args:
        number: of the person; the same one has the same shape in every style.
        style: of hair: ``short``, ``long`` or ``mixed``.
        spread: deviation of traits.
    """
    if number < 0:
        raise InputError("person", number, "people are numbered from 0", "use 0 or more")
    if style not in STYLES:
        raise InputError("style", style, "no such population", nearest(style, STYLES))
    draws = Draws("person", number)
    male = draws.between(0.0, 1.0)
    male = 0.5 + 0.5 * math.copysign(
        abs(2 * male - 1) ** 0.4, male - 0.5
    )  # mostly one or the other
    old = draws.between(0.0, 0.9) ** 1.5
    weights = _macro(draws, male, old)
    stream = generator("person traits", number)
    weights |= _traits(head().traits, spread, stream)
    weights |= _traits(head().asymmetries, ASYMMETRY, stream)
    shares = {
        kind: sum(weight for name, weight in weights.items() if f"/{kind}-" in name)
        for kind in TONES
    }
    tone = sum(share * draws.between(*TONES[kind]) for kind, share in shares.items())
    skin = draws.near(_between(SKINS, min(tone, len(SKINS) - 1.001)), 0.05)
    dark = shares["caucasian"] < draws.between(0.3, 0.8)
    hair_colour = draws.pick(HAIRS[:2] if dark else HAIRS[1:-1])
    if draws.chance(0.6 * old):
        hair_colour = HAIRS[-1]
    long = {"short": False, "long": True}.get(style, draws.chance(0.15 + 0.55 * (1 - male)))
    return Person(
        number,
        weights,
        skin=skin,
        lips=_lips(skin, draws.between(0.25, 0.75)),
        iris=draws.pick(IRISES[:2] if dark else IRISES),
        brows=draws.between(0.45, 0.95),
        stubble=draws.between(0.0, 0.55) if male > 0.5 else 0.0,
        freckles=draws.between(0.01, 0.035),
        hair=_hair(draws, long, draws.near(hair_colour, 0.2), male * old),
    )


def _macro(draws: Draws, male: float, old: float) -> dict[str, float]:
    """Convex weights of sex, age, ancestry and weight."""
    kinds = ("african", "asian", "caucasian")
    shares = [draws.between(0, 1) ** 3 for _ in kinds]
    total = sum(shares) or 1.0
    heavy = draws.between(-0.8, 0.8)
    builds = {
        "averagemuscle-minweight": max(-heavy, 0),
        "averagemuscle-averageweight": 1 - abs(heavy),
        "averagemuscle-maxweight": max(heavy, 0),
    }
    found: dict[str, float] = {}
    for sex, one in (("female", 1 - male), ("male", male)):
        for age, other in (("young", 1 - old), ("old", old)):
            for kind, share in zip(kinds, shares, strict=True):
                found[f"macro/{kind}-{sex}-{age}"] = share / total * one * other
            for build, share in builds.items():
                found[f"macro/universal-{sex}-{age}-{build}"] = share * one * other
    return {name: weight for name, weight in found.items() if name in head().targets}


def _traits(traits: list[Trait], spread: float, stream: torch.Generator) -> dict[str, float]:
    values = (torch.randn(len(traits), generator=stream) * spread).clamp(-3 * spread, 3 * spread)
    found: dict[str, float] = {}
    for trait, value in zip(traits, values.tolist(), strict=True):
        for name in trait.plus if value > 0 else trait.minus:
            found[name] = abs(value)
    return found


def _hair(draws: Draws, long: bool, colour: Colour, receding: float) -> Hair:
    front = draws.between(22, 31) + 14 * receding
    if long:
        return Hair(draws.between(0.05, 0.09), front, -70.0, -89.0, draws.between(0.1, 0.5), colour)
    return Hair(
        draws.between(0.012, 0.05), front, draws.between(-12, -2), draws.between(-48, -34),
        draws.between(0.1, 0.6), colour,
    )  # fmt: skip


def _between(colours: tuple[Colour, ...], at: float) -> Colour:
    low = int(at)
    share = at - low
    one, other = colours[low], colours[low + 1]
    red, green, blue = (a + share * (b - a) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _lips(skin: Colour, share: float) -> Colour:
    red, green, blue = skin
    return (
        red * (1 - 0.10 * share), green * (1 - 0.45 * share), blue * (1 - 0.38 * share),
    )  # fmt: skip
