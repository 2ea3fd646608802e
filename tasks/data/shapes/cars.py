"""Procedural cars: eight kinds, each car with measures, paint and trim of its own.

Every car is aligned as in ShapeNet: wheels down, bonnet towards -z, mirrored in x, centred, and
scaled by its bounding box to fit the unit sphere. Inside, a car is modelled in metres with the
ground at y = 0.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from tasks.data.shapes.draws import Colour, Draws
from tasks.data.shapes.sdf import (
    Solid,
    Triple,
    box,
    cylinder,
    ellipsoid,
    faces,
    length,
    mirrored,
    painted,
    planes,
    polyhedron,
    smooth_union,
    subtraction,
    union,
)
from tasks.errors import InputError

# Half diagonal of the box; its corners are empty, so that the car stays within about 0.96.
FIT = 1.04
EDGE = 0.03  # m, how softly sheet metal bends
SEAM = 0.08  # m, the fillet between body and cabin
GLASS_FRAME = 0.05  # m of metal around every pane
WELL = 0.05  # m between a tyre and its arch
DARK = (0.06, 0.06, 0.07)
TRIM = (0.20, 0.20, 0.21)
TYRE = (0.09, 0.09, 0.10)
LAMP = (0.96, 0.95, 0.84)
TAIL_LAMP = (0.80, 0.07, 0.06)
PLATE = (0.92, 0.92, 0.88)


@dataclass(frozen=True)
class Measures:
    """A car in metres; ``u_*`` are shares of its length, counted from the front bumper."""

    length: float
    width: float
    height: float
    clearance: float
    wheel: float  # a tyre's radius
    nose: float  # height of the bonnet's front edge
    belt: float  # height of the windows' lower edge
    tail: float  # height of the rear deck
    u_cowl: float  # foot of the windscreen
    u_roof: float  # front of the roof
    u_roof_end: float
    u_rear: float  # foot of the rear window
    u_axle: float  # front axle
    u_axle_end: float  # rear axle


KINDS: dict[str, Measures] = {
    "saloon": Measures(
        4.60, 1.82, 1.45, 0.17, 0.32, 0.70, 0.93, 0.95, 0.27, 0.44, 0.66, 0.85, 0.19, 0.79
    ),
    "coupe": Measures(
        4.35, 1.86, 1.27, 0.14, 0.33, 0.62, 0.84, 0.86, 0.33, 0.50, 0.60, 0.92, 0.19, 0.79
    ),
    "hatchback": Measures(
        4.00, 1.76, 1.49, 0.17, 0.31, 0.74, 0.95, 0.96, 0.24, 0.42, 0.82, 0.97, 0.19, 0.82
    ),
    "estate": Measures(
        4.75, 1.83, 1.48, 0.17, 0.32, 0.71, 0.94, 0.95, 0.27, 0.43, 0.88, 0.98, 0.18, 0.78
    ),
    "city car": Measures(
        3.10, 1.64, 1.56, 0.17, 0.29, 0.80, 0.98, 0.98, 0.15, 0.36, 0.86, 0.99, 0.17, 0.84
    ),
    "off-roader": Measures(
        4.45, 1.90, 1.78, 0.27, 0.40, 0.96, 1.12, 1.12, 0.27, 0.38, 0.90, 0.98, 0.19, 0.80
    ),
    "van": Measures(
        4.90, 1.94, 2.05, 0.20, 0.34, 0.98, 1.12, 1.12, 0.12, 0.27, 0.97, 0.995, 0.17, 0.80
    ),
    "pick-up": Measures(
        5.20, 1.90, 1.80, 0.28, 0.39, 0.98, 1.12, 1.10, 0.27, 0.38, 0.57, 0.61, 0.17, 0.79
    ),
}


@dataclass(frozen=True)
class CarLook:
    """Paint and trim of one car; colours are RGB in [0, 1]."""

    paint: Colour
    roof: Colour
    glass: Colour
    rim: Colour
    sills: Colour
    rim_share: float  # of the tyre's radius
    lean: float  # m by which the cabin's sides lean in, bottom to top
    windowless: bool  # a panel van: no glass behind the doors
    spoiler: bool
    rails: bool


def car(number: int) -> Solid:
    """Car ``number`` (0 or more): the same solid and colours on every machine, unlike any other
    number's."""
    if number < 0:
        raise InputError("car", number, "cars are numbered from 0", "use 0 or more")
    draws = Draws("car", number)
    kind = draws.pick(tuple(KINDS))
    # Lengths vary together and each by itself; the shares of the length shift by a hundredth.
    size = draws.between(0.96, 1.04)
    measures = Measures(
        **{
            name: min(0.995, value + draws.between(-0.012, 0.012))
            if name.startswith("u_")
            else value * size * draws.between(0.96, 1.04)
            for name, value in asdict(KINDS[kind]).items()
        }
    )
    model = _Car(measures, _look(kind, draws))
    return Solid(f"car {number} ({kind})", model.sdf, model.colour)


def _look(kind: str, draws: Draws) -> CarLook:
    grey = draws.pick((0.20, 0.42, 0.62, 0.82, 0.93))
    vivid = draws.tint((0, 1), (0.6, 0.95), (0.5, 0.95))
    paint = (grey, grey, min(1.0, grey * 1.03)) if draws.chance(0.3) else vivid
    return CarLook(
        paint=paint,
        roof=draws.pick(((0.92, 0.92, 0.90), (0.08, 0.08, 0.09))) if draws.chance(0.25) else paint,
        glass=draws.near((0.16, 0.20, 0.26), 0.5),
        rim=draws.near(
            draws.pick(((0.70, 0.71, 0.73), (0.42, 0.42, 0.45), (0.80, 0.76, 0.62))), 0.1
        ),
        sills=TRIM if kind == "off-roader" or draws.chance(0.35) else paint,
        rim_share=draws.between(0.55, 0.74),
        lean=draws.between(0.04, 0.10) if kind == "van" else draws.between(0.13, 0.22),
        windowless=kind == "van" and draws.chance(0.6),
        spoiler=kind == "coupe" and draws.chance(0.6),
        rails=kind in ("estate", "off-roader") and draws.chance(0.6),
    )


class _Car:
    """Geometry and paint. Points come in the solid's unit and are folded to x >= 0 and
    metres."""

    def __init__(self, measures: Measures, look: CarLook) -> None:
        self.measures = measures
        self.look = look
        m = measures
        # SEAM / 4 is the most that a smooth union adds to what the faces' planes bound.
        half = [side / 2 + SEAM / 4 for side in (m.length, m.width, m.height)]
        self.scale = FIT / math.hypot(*half)
        self.axles = (self.along(m.u_axle), self.along(m.u_axle_end))
        self.is_pickup = m.u_rear < 0.75
        self.body = self._body_planes()
        self.cabin = self._cabin_planes()
        # between front and rear side windows
        self.pillar = self.along(m.u_cowl + 0.52 * (m.u_roof_end - m.u_cowl))

    def along(self, share: float) -> float:
        """The z of a share of the length from the front bumper."""
        return (share - 0.5) * self.measures.length

    def _body_planes(self) -> tuple[Tensor, Tensor]:
        """Lower body: a wedge with bent flanks, cut at the bumpers and, seen from above, at the
        corners."""
        m = self.measures
        front = self.along(0)
        rear = self.along(1)
        side = m.width / 2
        waist = 0.55 * (m.belt + m.clearance)
        cowl = (m.belt, self.along(m.u_cowl))
        return faces(
            ((1.0, 0.16, 0.0), (side, waist, 0.0)),
            ((1.0, -0.12, 0.0), (side, waist, 0.0)),
            ((0.0, -1.0, 0.0), (0.0, m.clearance, 0.0)),
            _slope((m.nose, front), cowl),
            _slope(cowl, (m.tail, rear)),
            ((0.0, 0.12, -1.0), (0.0, waist, front)),
            ((0.0, -0.45, -1.0), (0.0, waist, front)),
            ((0.0, 0.12, 1.0), (0.0, waist, rear)),
            ((0.0, -0.45, 1.0), (0.0, waist, rear)),
            ((0.35, 0.0, -1.0), (0.55 * side, 0.0, front)),
            ((1.0, 0.0, -0.6), (side, 0.0, front + 0.35)),
            ((1.0, 0.0, 0.6), (side, 0.0, rear - 0.25)),
        )

    def _cabin_planes(self) -> tuple[Tensor, Tensor]:
        """Cabin: flanks, windscreen, rear window (the three with panes come first), two roof
        planes, floor, rear."""
        m = self.measures
        foot = m.width / 2 - 0.05
        top = m.width / 2 - 0.05 - self.look.lean
        cowl = (m.belt, self.along(m.u_cowl))
        start = (m.height - 0.03, self.along(m.u_roof))
        end = (m.height - 0.04, self.along(m.u_roof_end))
        back = (m.tail, self.along(m.u_rear))
        crown = (m.height, (start[1] + end[1]) / 2)
        return faces(
            ((m.height - m.belt, foot - top, 0.0), (foot, m.belt, 0.0)),
            _slope(cowl, start),
            _slope(end, back),
            _slope(start, crown),
            _slope(crown, end),
            ((0.0, -1.0, 0.0), (0.0, m.belt - 0.15, 0.0)),
            # the plane of a flat rear window would leave the body
            ((0.0, 0.0, 1.0), (0.0, 0.0, self.along(0.99))),
            ((0.5, 0.0, -1.0), (0.6 * foot, m.belt, cowl[1])),
        )

    def _folded(self, points: Tensor) -> Tensor:
        lift = points.new_tensor((0.0, self.measures.height / 2, 0.0))
        return mirrored(points) / self.scale + lift

    def _to_axle(self, folded: Tensor) -> Tensor:
        """Points as seen from the nearer axle: its z becomes 0."""
        middle = sum(self.axles) / 2
        reach = (self.axles[1] - self.axles[0]) / 2
        x, y, z = folded.unbind(-1)
        return torch.stack([x, y, (z - middle).abs() - reach]).T

    def _bed(self, folded: Tensor) -> Tensor:
        m = self.measures
        start = self.along(m.u_rear + 0.03)
        end = self.along(0.965)
        floor = 0.6 * m.belt
        half = (m.width / 2 - 0.16, m.belt - floor, (end - start) / 2)
        return box(folded, (0, m.belt, (start + end) / 2), half, 0.04)

    def parts(self, folded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values in metres of the painted shell, the wheels and the dark attachments."""
        m = self.measures
        body = polyhedron(planes(folded, *self.body), EDGE)
        cabin = polyhedron(planes(folded, *self.cabin), EDGE)
        shell = smooth_union(body, cabin, SEAM)
        at_axle = self._to_axle(folded)
        side = m.width / 2
        shell = subtraction(
            shell, cylinder(at_axle, (side, m.wheel, 0), m.wheel + WELL, 0.30, 0, 0.02)
        )
        if self.is_pickup:
            shell = subtraction(shell, self._bed(folded), 0.02)
        wheels = cylinder(at_axle, (side - 0.13, m.wheel, 0), m.wheel, 0.12, 0, 0.04)
        extras = ellipsoid(
            folded, (side + 0.02, m.belt + 0.07, self.along(m.u_cowl) + 0.30), (0.12, 0.075, 0.07)
        )
        if self.look.spoiler:
            blade = box(
                folded, (0, m.tail + 0.06, self.along(0.965)), (0.72 * side, 0.025, 0.10), 0.02
            )
            post = box(folded, (0.5 * side, m.tail, self.along(0.965)), (0.03, 0.06, 0.06), 0.02)
            extras = union(extras, blade, post)
        if self.look.rails:
            middle = (self.along(m.u_roof) + self.along(m.u_roof_end)) / 2
            reach = 0.42 * (self.along(m.u_roof_end) - self.along(m.u_roof))
            rail = (side - 0.05 - self.look.lean - 0.16, m.height - 0.02, middle)
            extras = union(extras, box(folded, rail, (0.03, 0.045, reach), 0.02))
        return shell, wheels, extras

    def sdf(self, points: Tensor) -> Tensor:
        """The whole car, in the solid's unit."""
        return self.scale * union(*self.parts(self._folded(points)))

    def colour(self, points: Tensor) -> Tensor:
        """Paint of the nearest part ``[N, 3]``; details are painted over it, later ones over
        earlier ones."""
        folded = self._folded(points)
        shell, wheels, extras = self.parts(folded)
        paint = self._shell_colour(folded)
        layers = (
            (extras < torch.minimum(shell, wheels), DARK),
            (wheels < torch.minimum(shell, extras), TYRE),
        )
        paint = painted(paint, *layers)
        m = self.measures
        at_axle = self._to_axle(folded)
        radial = length(at_axle[:, 1:] - at_axle.new_tensor((m.wheel, 0.0)))
        outer = (wheels < torch.minimum(shell, extras)) & (folded[:, 0] > m.width / 2 - 0.05)
        rim = outer & (radial < self.look.rim_share * m.wheel)
        return painted(paint, (rim, self.look.rim), (outer & (radial < 0.14 * m.wheel), TRIM))

    def _shell_colour(self, folded: Tensor) -> Tensor:
        m = self.measures
        look = self.look
        x, y, z = folded.unbind(-1)
        front = self.along(0)
        rear = self.along(1)
        side = m.width / 2
        heights = planes(folded, *self.cabin)
        first, second = heights.topk(2, dim=-1).values.unbind(-1)
        face = heights.argmax(-1)
        pane = (face <= 2) & (first - second > GLASS_FRAME) & (y > m.belt + GLASS_FRAME)
        pane &= (face > 0) | ((z - self.pillar).abs() > GLASS_FRAME)
        if look.windowless:
            pane &= z < self.pillar
        nose = z < front + 0.32
        tail = z > rear - 0.20
        lamp = nose & (x > side - 0.50) & (y > m.nose - 0.19) & (y < m.nose - 0.03)
        stop = tail & (x > side - 0.40) & (y > m.tail - 0.30) & (y < m.tail - 0.12)
        at_axle = self._to_axle(folded)
        radial = length(at_axle[:, 1:] - at_axle.new_tensor((m.wheel, 0.0)))
        well = (radial < m.wheel + WELL + 0.01) & (x > side - 0.32)
        paint = folded.new_tensor(look.paint).expand_as(folded)
        paint = painted(
            paint,
            (y > m.height - 0.14, look.roof),
            (pane, look.glass),
            (y < m.clearance + 0.14, look.sills),
            (nose & (x < side - 0.52) & (y > 0.45 * m.nose) & (y < m.nose - 0.08), DARK),
            (lamp, LAMP),
            (stop, TAIL_LAMP),
            (tail & (x < 0.27) & (y > 0.50 * m.tail) & (y < 0.50 * m.tail + 0.13), PLATE),
            (well | (y < m.clearance + 0.01), DARK),
        )
        return painted(paint, (self._bed(folded) < 0.02, TRIM)) if self.is_pickup else paint


def _slope(start: tuple[float, float], end: tuple[float, float]) -> tuple[Triple, Triple]:
    """The plane through two points (y, z) of the side view, ``end`` behind ``start``, facing up."""
    return (0.0, end[1] - start[1], start[0] - end[0]), (0.0, *start)
