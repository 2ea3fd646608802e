"""What a head looks like: where its hair stands, and the colour of every place on it.

Colours are functions of places on the *base* mesh, so that skin, brows and hair stay where they are
when a face moves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.data.people.heads import HEIGHT, MIDDLE, head
from tasks.data.people.pack import EYES, REGIONS, TEETH, TONGUE
from tasks.data.people.person import Hair, Person
from tasks.randomness import generator

CROWN = (0.0, 0.12, -0.02)  # centre that a hairline's angles are measured from
SOFT = 7.0  # degrees over which hair begins
EYE = 0.31 / HEIGHT  # dm: half the distance between the eyes
IRIS, PUPIL = 0.24, 0.10  # of an eyeball's radius, seen from in front
WAVES = 40  # plane waves that a texture is made of
TEETH_COLOUR = (0.90, 0.88, 0.82)
TONGUE_COLOUR = (0.62, 0.30, 0.29)
MOUTH_COLOUR = (0.35, 0.14, 0.13)
WHITE = (0.93, 0.92, 0.90)
BLACK = (0.03, 0.03, 0.03)


def covered(hair: Hair, places: Tensor, regions: Tensor) -> Tensor:
    """Share ``[P]`` of hair at places ``[P, 3]`` of the base mesh."""
    across, up, front = (places - places.new_tensor(CROWN)).unbind(1)
    level = torch.sqrt(across.square() + front.square()).clamp(min=1e-6)
    elevation = torch.rad2deg(torch.atan2(up, level))
    azimuth = torch.rad2deg(torch.atan2(across.abs(), front))  # 0 in front, 180 behind
    line = _through(azimuth, (0, 55, 95, 180), (hair.front, hair.front - 4, hair.side, hair.back))
    share = ((elevation - line) / SOFT).clamp(0, 1)
    share = share * share * (3 - 2 * share)
    bare = regions[:, REGIONS.index("ears")].clamp(0, 1)
    return share * (1 - bare)


def dressed(person: Person, shape: Tensor) -> Tensor:
    """Vertices ``[N, 3]`` of a shape with the person's hair standing off the scalp."""
    from tasks.render.raster import vertex_normals

    own = head()
    share = covered(person.hair, own.base, own.regions) * (own.part == 0)
    bulk = 1 + person.hair.wave * noise("hair", person.number, own.base, 9.0)
    normal = vertex_normals(shape, own.faces)
    # hair falls: what stands off at the sides does not point down
    push = torch.stack([normal[:, 0], normal[:, 1].clamp(min=-0.2), normal[:, 2]], 1)
    return shape + (person.hair.thickness * share * bulk.clamp(0.4, 1.6))[:, None] * push


def noise(name: str, number: int, places: Tensor, frequency: float) -> Tensor:
    """A smooth random function of places ``[P, 3]``, about normal with deviation 1 ``[P]``."""
    stream = generator("texture", name, number)
    waves = torch.randn(WAVES, 3, generator=stream) * frequency
    phases = torch.rand(WAVES, generator=stream) * 2 * math.pi
    return torch.sin(places @ waves.T + phases).sum(1) * math.sqrt(2 / WAVES)


def albedo(person: Person, places: Tensor, regions: Tensor, part: Tensor) -> Tensor:
    """Colours ``[P, 3]`` in [0, 1].

    Args:
        person: whose.
        places: on the base mesh, ``[P, 3]``.
        regions: interpolated masks ``[P, 5]``.
        part: ``[P]``.
    """
    number = person.number
    tone = 1 + person.freckles * (
        noise("skin", number, places, 14.0) + 0.8 * noise("pores", number, places, 60.0)
    )
    flush = (0.05 * noise("flush", number, places, 7.0)).clamp(-0.1, 0.1)
    skin = places.new_tensor(person.skin) * tone[:, None]
    skin = skin * torch.stack([1 + flush, 1 - flush / 2, 1 - flush / 2], 1)
    hair_tone = 1 + 0.14 * noise(
        "strands", number, places * places.new_tensor([5.0, 1.0, 5.0]), 14.0
    )
    hair = places.new_tensor(person.hair.colour) * hair_tone[:, None].clamp(0.6, 1.5)
    lips = places.new_tensor(person.lips) * (1 + 0.5 * (tone - 1))[:, None]
    inside = places.new_tensor(MOUTH_COLOUR).expand_as(skin)

    found = skin
    found = _mix(found, hair, person.stubble * 0.5 * _beard(places, regions))
    found = _mix(found, hair * 0.8, person.brows * _brows(places))
    found = _mix(found, lips, regions[:, REGIONS.index("lips")])
    found = _mix(found, inside, regions[:, REGIONS.index("inside-mouth")])
    found = _mix(found, hair, covered(person.hair, places, regions))
    eyes = _eyes(person, places)
    for which, colour in (
        (EYES, eyes),
        (TEETH, places.new_tensor(TEETH_COLOUR).expand_as(skin)),
        (TONGUE, places.new_tensor(TONGUE_COLOUR).expand_as(skin)),
    ):
        found = torch.where((part == which)[:, None], colour, found)
    return found.clamp(0, 1)


def _eyes(person: Person, places: Tensor) -> Tensor:
    """Pupil, iris and white by the angle from an eyeball's front pole."""
    own = head()
    ball = own.base[own.part == EYES]
    right = ball[ball[:, 0] > 0]
    centre = (right.amax(0) + right.amin(0)) / 2
    radius = float((right.amax(0) - right.amin(0)).amax()) / 2
    mirrored = torch.stack([places[:, 0].abs(), places[:, 1], places[:, 2]], 1)
    away = (mirrored - centre)[:, :2].norm(dim=1) / radius
    front = mirrored[:, 2] > centre[2]
    iris = (
        places.new_tensor(person.iris)
        * (1 + 0.25 * noise("iris", person.number, places, 90.0))[:, None]
    )
    found = places.new_tensor(WHITE).expand_as(places)
    found = torch.where(((away < 2 * IRIS) & front)[:, None], iris, found)
    return torch.where(((away < 2 * PUPIL) & front)[:, None], places.new_tensor(BLACK), found)


def _brows(places: Tensor) -> Tensor:
    """An arc above each eye."""
    across, up, front = places.unbind(1)
    level = (7.62 - MIDDLE[1]) / HEIGHT
    along = ((across.abs() - EYE) / (0.24 / HEIGHT)).clamp(-1.6, 1.6)
    arc = level - 0.012 * along.square() + 0.006 * along
    thick = 0.018 * (1 - 0.35 * (along + 0.6).clamp(min=0))
    inside = (1 - ((up - arc).abs() / thick).clamp(0, 1).square()) * (along.abs() < 1.15)
    return inside * (front > 0.25)


def _beard(places: Tensor, regions: Tensor) -> Tensor:
    """Lower face without the lips."""
    across, up, front = places.unbind(1)
    low = ((-0.17 - up) / 0.06).clamp(0, 1)
    sides = ((across.abs() - 0.16) / 0.06).clamp(0, 1) * ((-0.05 - up) / 0.08).clamp(0, 1)
    there = torch.maximum(low, sides) * (front > -0.02) * (up > -0.46)
    return there * (1 - regions[:, REGIONS.index("lips")])


def _mix(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return one + (other - one) * share.clamp(0, 1)[:, None]


def _through(at: Tensor, knots: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    """Piecewise linear interpolation."""
    found = torch.full_like(at, values[-1])
    for low, high, one, other in zip(knots, knots[1:], values, values[1:], strict=False):
        share = (at - low) / (high - low)
        found = torch.where((at >= low) & (at <= high), one + share * (other - one), found)
    return found
