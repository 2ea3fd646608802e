"""Procedural heads with a neck, each with measures, skin, eyes and hair of its own. No person was
measured.

Every head is y up, faces +z, is mirrored in x and lies inside the unit sphere. It is modelled in
head heights: chin to crown is about 1, and the origin is behind the bridge of the nose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.shapes.draws import Colour, Draws
from tasks.data.shapes.sdf import (
    Solid,
    capsule,
    cylinder,
    ellipsoid,
    faces,
    length,
    mirrored,
    painted,
    planes,
    polyhedron,
    smooth_union,
    sphere,
    subtraction,
    union,
)
from tasks.errors import InputError

SIZE = 1.34  # units of the solid per head height
LIFT = 0.06  # head heights from the solid's origin down to the head's: the neck hangs below
NECK_END = -0.70  # y
HAIRSTYLES = ("bald", "cropped", "short", "full", "bob", "bun")
SKINS = (
    (0.96, 0.80, 0.70),
    (0.90, 0.70, 0.56),
    (0.78, 0.57, 0.42),
    (0.60, 0.41, 0.29),
    (0.42, 0.28, 0.20),
)
HAIRS = (
    (0.07, 0.06, 0.06),
    (0.24, 0.14, 0.08),
    (0.45, 0.27, 0.13),
    (0.82, 0.66, 0.36),
    (0.62, 0.25, 0.10),
    (0.60, 0.60, 0.60),
    (0.90, 0.89, 0.86),
)
IRISES = (
    (0.22, 0.13, 0.07),
    (0.36, 0.24, 0.10),
    (0.22, 0.42, 0.62),
    (0.27, 0.45, 0.28),
    (0.40, 0.44, 0.47),
)
WHITE = (0.95, 0.94, 0.92)
PUPIL = (0.03, 0.03, 0.03)


@dataclass(frozen=True)
class HeadLook:
    """A head's measures in head heights, and its colours as RGB in [0, 1]."""

    width: float  # of the skull, as a factor
    depth: float  # of the skull, as a factor
    jaw: float  # half width at the jaw's corner
    chin: float  # y of the chin's lower end
    cheek: float  # radius of the cheekbone
    brow: float  # radius of the brow's ridge
    nose: float  # how far its tip stands out of the face
    nose_width: float
    nose_end: float  # y of the tip
    eye: float  # radius of the eyeball
    eye_gap: float  # half the distance between the eyes
    mouth: float  # half its width
    lips: float  # their radius
    ear: float  # half its height
    ear_out: float  # how far ears stand off
    neck: float  # its radius
    skin: Colour
    lip: Colour
    hair: Colour
    iris: Colour
    style: str
    hairline: float  # height of the forehead's edge above the eyes
    beard: bool


def head(number: int) -> Solid:
    """Head ``number`` (0 or more): the same solid and colours on every machine, unlike any other
    number's."""
    if number < 0:
        raise InputError("head", number, "heads are numbered from 0", "use 0 or more")
    draws = Draws("head", number)
    skin = draws.near(draws.pick(SKINS), 0.08)
    style = draws.pick(HAIRSTYLES)
    look = HeadLook(
        width=draws.between(0.92, 1.08),
        depth=draws.between(0.94, 1.06),
        jaw=draws.between(0.125, 0.175),
        chin=draws.between(-0.54, -0.47),
        cheek=draws.between(0.08, 0.12),
        brow=draws.between(0.03, 0.055),
        nose=draws.between(0.07, 0.14),
        nose_width=draws.between(0.030, 0.048),
        nose_end=draws.between(-0.135, -0.09),
        eye=draws.between(0.058, 0.070),
        eye_gap=draws.between(0.110, 0.130),
        mouth=draws.between(0.065, 0.100),
        lips=draws.between(0.016, 0.028),
        ear=draws.between(0.085, 0.115),
        ear_out=draws.between(0.0, 0.03),
        neck=draws.between(0.14, 0.18),
        skin=skin,
        lip=(0.85 * skin[0], 0.58 * skin[1], 0.62 * skin[2]),
        hair=draws.near(draws.pick(HAIRS), 0.12),
        iris=draws.near(draws.pick(IRISES), 0.15),
        style=style,
        hairline=draws.between(0.20, 0.29),
        beard=style in ("bald", "cropped", "short") and draws.chance(0.4),
    )
    model = _Head(look)
    return Solid(f"head {number} ({style})", model.sdf, model.colour)


class _Head:
    """Geometry and paint. Points come in the solid's unit and are folded to x >= 0 and head
    heights."""

    def __init__(self, look: HeadLook) -> None:
        self.look = look
        self.front = 0.335 * look.depth  # z of the face at the eyes
        self.eye = (look.eye_gap, 0.03, self.front - 0.075)
        long = look.style == "bob"
        # Hair is cut away before the temples and under the forehead's edge, and below the nape.
        self.opening = faces(
            ((0.0, 1.0, -0.25), (0.0, look.hairline, self.front)),
            ((0.7, 1.0, -0.25), (0.10, look.hairline, self.front)),
            ((0.0, 0.37, -1.0), (0.0, -0.10, 0.10 if long else 0.03)),
        )
        self.nape = faces(
            ((0.0, -1.0, 0.0), (0.0, -0.46, 0.0))
            if long
            else ((0.0, -1.0, 0.6), (0.0, 0.03, -0.06))
        )
        self.lips_at = (0.5 * (look.nose_end + look.chin) + 0.045, self.front + 0.002)  # y, z

    def _folded(self, points: Tensor) -> Tensor:
        return mirrored(points) / SIZE - points.new_tensor((0.0, LIFT, 0.0))

    def _skull(self, p: Tensor, grow: float = 0.0) -> Tensor:
        """The skull, or hair ``grow`` thick on it: thicker at the back and top, next to nothing at
        the forehead."""
        radii = (0.325 * self.look.width + grow, 0.345 + grow, 0.40 * self.look.depth + grow)
        return ellipsoid(p, (0.0, 0.155 + 0.3 * grow, -0.06 - 0.7 * grow), radii)

    def _face(self, p: Tensor) -> Tensor:
        """Skull, jaw, cheeks, brow, nose and neck, without sockets."""
        look = self.look
        z = self.front
        solid = smooth_union(
            self._skull(p), ellipsoid(p, (0, -0.12, 0.07), (0.245 * look.width, 0.33, 0.275)), 0.10
        )
        corner = (look.jaw, -0.25, -0.02)
        chin = (0.0, look.chin + 0.08, z - 0.095)
        solid = smooth_union(solid, capsule(p, corner, chin, 0.08), 0.12)
        solid = smooth_union(
            solid, sphere(p, (0.15 * look.width, -0.085, z - 0.12), look.cheek), 0.10
        )
        muzzle = ellipsoid(p, (0, self.lips_at[0], z - 0.115), (0.12, 0.10, 0.10))
        solid = smooth_union(solid, muzzle, 0.06)
        brow = capsule(p, (0.0, 0.105, z - 0.025), (0.20 * look.width, 0.105, z - 0.11), look.brow)
        solid = smooth_union(solid, brow, 0.06)
        solid = smooth_union(
            solid, cylinder(p, (0, NECK_END / 2, -0.10), look.neck, -NECK_END / 2, 1, 0.03), 0.10
        )
        return smooth_union(solid, self._nose(p), 0.045)

    def _nose(self, p: Tensor) -> Tensor:
        look = self.look
        z = self.front
        tip = (0.0, look.nose_end, z + look.nose - look.nose_width)
        bridge = capsule(p, (0, 0.07, z - 0.02), tip, 0.75 * look.nose_width)
        wing = (0.9 * look.nose_width, look.nose_end - 0.012, z + 0.4 * look.nose - 0.015)
        lower = smooth_union(
            sphere(p, tip, look.nose_width), sphere(p, wing, 0.8 * look.nose_width), 0.03
        )
        return smooth_union(bridge, lower, 0.03)

    def _lips(self, p: Tensor) -> Tensor:
        look = self.look
        (y, z) = self.lips_at
        end = (look.mouth, y, z - 0.045)
        upper = capsule(p, (0, y + 0.016, z), end, look.lips)
        return smooth_union(upper, capsule(p, (0, y - 0.02, z), end, 1.15 * look.lips), 0.008)

    def _ear(self, p: Tensor) -> Tensor:
        x = 0.305 * self.look.width + 0.01 + self.look.ear_out
        height = self.look.ear
        shell = ellipsoid(p, (x, 0.0, -0.06), (0.045, height, 0.65 * height))
        return subtraction(
            shell,
            ellipsoid(p, (x + 0.05, 0.005, -0.045), (0.04, 0.7 * height, 0.42 * height)),
            0.02,
        )

    def _hair(self, p: Tensor) -> Tensor | None:
        """Hair as a second, larger skull, cut away from the face; ``None`` for the bald."""
        style = self.look.style
        if style == "bald":
            return None
        grow = {"cropped": 0.018, "short": 0.035, "full": 0.085, "bob": 0.05, "bun": 0.03}[style]
        hair = self._skull(p, grow)
        if style == "bob":
            radii = (0.33 * self.look.width, 0.40, 0.26)
            hair = smooth_union(hair, ellipsoid(p, (0, -0.16, -0.14), radii), 0.08)
        if style == "bun":
            hair = smooth_union(hair, sphere(p, (0, 0.36, -0.40), 0.13), 0.04)
        opening = polyhedron(planes(p, *self.opening), 0.02)
        below = planes(p, *self.nape)[:, 0]
        return subtraction(subtraction(hair, opening, 0.04), -below, 0.03)

    def parts(self, p: Tensor) -> dict[str, Tensor]:
        """Values in head heights of what is coloured differently."""
        socket = sphere(p, (self.eye[0], self.eye[1] - 0.005, self.front + 0.045), 0.09)
        found = {
            "skin": smooth_union(subtraction(self._face(p), socket, 0.05), self._ear(p), 0.02),
            "lips": self._lips(p),
            "eyes": sphere(p, self.eye, self.look.eye),
        }
        hair = self._hair(p)
        return found if hair is None else {**found, "hair": hair}

    def sdf(self, points: Tensor) -> Tensor:
        """The whole head, in the solid's unit."""
        return SIZE * union(*self.parts(self._folded(points)).values())

    def colour(self, points: Tensor) -> Tensor:
        """Paint of the nearest part ``[N, 3]``; details are painted over it, later ones over
        earlier ones."""
        p = self._folded(points)
        look = self.look
        parts = self.parts(p)
        names = list(parts)
        nearest = torch.stack(list(parts.values())).argmin(dim=0)
        at = {name: nearest == index for index, name in enumerate(names)}
        y, z = p[:, 1], p[:, 2]
        flat = p * p.new_tensor((1.0, 1.0, 0.0))
        gap = look.eye_gap
        before = z > self.front - 0.16
        eyebrow = capsule(flat, (gap - 0.05, 0.108, 0), (gap + 0.055, 0.118, 0), 0.013) < 0
        beard = (y < self.lips_at[0] + 0.05) & (y > look.chin - 0.02) & (z > 0.02) & look.beard
        stubble = tuple(
            0.75 * hair + 0.25 * skin for hair, skin in zip(look.hair, look.skin, strict=True)
        )
        off_axis = length(flat[:, :2] - flat.new_tensor(self.eye[:2])) / look.eye
        lift = (y - self.eye[1]) / look.eye
        return painted(
            p.new_tensor(look.skin).expand_as(p),
            (at["skin"] & beard, stubble),
            (at["skin"] & eyebrow & before, look.hair),
            (at["lips"], look.lip),
            (at["eyes"], WHITE),
            (at["eyes"] & (off_axis < 0.50), look.iris),
            (at["eyes"] & (off_axis < 0.24), PUPIL),
            (at["eyes"] & ((lift > 0.36) | (lift < -0.50)), look.skin),
            (at.get("hair", torch.zeros_like(beard)), look.hair),
        )
