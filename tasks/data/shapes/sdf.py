r"""Solids as signed functions of a point: negative inside, zero on the surface, positive outside.

**The contract.** Every function here returns an ``f`` with :math:`|f(p) - f(q)| \le |p - q|` (it is
1-Lipschitz), if the functions it is given are. So :math:`|f(p)|` never exceeds the distance to the
surface: a ray may always advance by it (:mod:`tasks.data.shapes.raycast`). Some are the exact
distance and some only bounds of it; each says which. The zero set is exact either way. Only
isometries may move a solid; to scale by s, use ``s * f(p / s)``.

Points are ``[N, 3]``, values ``[N]``, in the points' dtype and device; lengths are in the points'
unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Triple = Sequence[float]
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solid:
    """A coloured solid centred on the origin.

    ``sdf: [N, 3] -> [N]`` is 1-Lipschitz; ``colour: [N, 3] -> [N, 3]`` in [0, 1] is the paint
    without any light, meant for points of the surface; nothing of the solid is further than
    ``radius`` from the origin.
    """

    name: str
    sdf: Function
    colour: Function
    radius: float = 1.0


def normals(solid: Solid, points: Tensor) -> Tensor:
    r"""Outward unit normals ``[N, 3]``: :math:`\nabla f / |\nabla f|` by differentiating the closed
    form.

    Off the surface it is the normal of the level set through the point. On a crease, where there is
    no normal, it is that of one of the sides.
    """
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(solid.sdf(points).sum(), points)
    return torch.nn.functional.normalize(gradient, dim=-1)


# ---------------------------------------------------------------- primitives


def length(vectors: Tensor) -> Tensor:
    """``[N, D] -> [N]``: Euclidean length. The tiny term, far below rounding, makes its gradient 0
    at 0, not nan.

    Written out because ``torch.linalg.vector_norm`` over so short a last axis takes several times
    as long.
    """
    squares = vectors * vectors
    return (sum(squares.unbind(-1)[1:], squares[:, 0]) + 1e-30).sqrt()


def sphere(points: Tensor, centre: Triple, radius: float) -> Tensor:
    """:math:`|p - c| - r`. Exact."""
    return length(points - points.new_tensor(centre)) - radius


def ellipsoid(points: Tensor, centre: Triple, radii: Triple) -> Tensor:
    r""":math:`\min(r) \, (|(p - c) / r| - 1)`, with the division axis by axis. A bound, not the
    distance.

    Its slope lies between :math:`\min(r) / \max(r)` and 1, so rays need more steps the flatter the
    ellipsoid is.
    """
    scaled = (points - points.new_tensor(centre)) / points.new_tensor(radii)
    return min(radii) * (length(scaled) - 1)


def box(points: Tensor, centre: Triple, half: Triple, rounding: float) -> Tensor:
    r""":math:`|\max(q, 0)| + \min(\max_i q_i, 0) - \rho` with :math:`q = |p - c| - h + \rho`.
    Exact.

    Args:
        points: ``[N, 3]``.
        centre: c.
        half: h, the outer half sizes.
        rounding: radius of the edges, at most the least half size.
    """
    excess = (points - points.new_tensor(centre)).abs() - (points.new_tensor(half) - rounding)
    outside = length(excess.clamp(min=0))
    return outside + excess.amax(dim=-1).clamp(max=0) - rounding


def capsule(points: Tensor, start: Triple, end: Triple, radius: float) -> Tensor:
    r""":math:`|p - a - t (b - a)| - r`, :math:`t = \mathrm{clamp}((p - a) \cdot (b - a) / |b -
    a|^2, 0, 1)`. Exact.

    Args:
        points: ``[N, 3]``.
        start: a, one end of the axis.
        end: b, the other one.
        radius: r.
    """
    first = points.new_tensor(start)
    axis = points.new_tensor(end) - first
    along = ((points - first) @ axis / axis.dot(axis)).clamp(0, 1)
    return length(points - first - along[:, None] * axis) - radius


def cylinder(
    points: Tensor, centre: Triple, radius: float, half: float, axis: int, rounding: float
) -> Tensor:
    r""":math:`|\max(q, 0)| + \min(\max_i q_i, 0) - \rho`, :math:`q = (|p_\perp| - r + \rho,
    |p_\parallel| - h + \rho)`.

    Exact.

    Args:
        points: ``[N, 3]``.
        centre: c.
        radius: r, the outer one.
        half: h, half the outer height.
        axis: number of the axis it turns about (0, 1, 2).
        rounding: radius of both rims, at most the smaller of ``radius`` and ``half``.
    """
    offset = points - points.new_tensor(centre)
    across = [offset[:, other] for other in range(3) if other != axis]
    radial = length(torch.stack(across).T) - (radius - rounding)
    excess = torch.stack([radial, offset[:, axis].abs() - (half - rounding)]).T
    outside = length(excess.clamp(min=0))
    return outside + excess.amax(dim=-1).clamp(max=0) - rounding


def faces(*given: tuple[Triple, Triple]) -> tuple[Tensor, Tensor]:
    """Planes for :func:`planes`, each given as (outward normal of any length, a point of it).

    Returns unit normals ``[P, 3]`` and offsets ``[P]``, in float64.
    """
    normal = torch.nn.functional.normalize(
        torch.tensor([face[0] for face in given], dtype=torch.float64), dim=-1
    )
    return normal, (normal * torch.tensor([face[1] for face in given], dtype=torch.float64)).sum(-1)


def planes(points: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
    r""":math:`n_i \cdot p - d_i`, ``[N, P]``: the distance above each of P planes, unit normals
    ``[P, 3]``."""
    return (normal.to(points) @ points.T - offset.to(points)[:, None]).T


def polyhedron(heights: Tensor, rounding: float) -> Tensor:
    r""":math:`\rho \log \sum_i \exp(h_i / \rho)` of the heights ``[N, P]`` above the faces' planes.

    A convex solid with softly rounded edges, smooth everywhere: the gradient is a weighted mean of
    the normals. A bound of the distance. It lies inside the sharp polyhedron, by :math:`\rho \log
    m` where m faces meet and by next to nothing a few :math:`\rho` away from the edges.
    """
    top = heights.amax(dim=-1, keepdim=True)
    # exp(-40) is nothing next to the 1 of the highest face; below -87 it is denormal, and ten times
    # as slow.
    terms = ((heights - top) / rounding).clamp(min=-40).exp()
    return top.squeeze(-1) + rounding * terms.sum(dim=-1).log()


# ---------------------------------------------------------------- combinations and paint


def union(*parts: Tensor) -> Tensor:
    r""":math:`\min_i f_i`: exact outside if the parts are; a bound inside, where parts overlap."""
    nearest = parts[0]
    for part in parts[1:]:
        nearest = torch.minimum(nearest, part)
    return nearest


def smooth_union(first: Tensor, second: Tensor, width: float) -> Tensor:
    r""":math:`\min(a, b) - \max(k - |a - b|, 0)^2 / (4 k)`, ``width`` k: a fillet where the two are
    within k.

    The gradient is a weighted mean of the two gradients, so the result is 1-Lipschitz; a bound. It
    bulges by k/4 at most beyond the union.
    """
    return torch.minimum(first, second) - (width - (first - second).abs()).clamp(min=0).square() / (
        4 * width
    )


def subtraction(solid: Tensor, tool: Tensor, width: float = 0.0) -> Tensor:
    r""":math:`\max(a, -b)`: the solid without the tool; a bound. ``width`` rounds the rim as in a
    smooth union."""
    return torch.maximum(solid, -tool) if width == 0 else -smooth_union(-solid, tool, width)


def mirrored(points: Tensor) -> Tensor:
    """:math:`(|x|, y, z)`: whatever is modelled at x >= 0 appears on both sides. Folding never
    lengthens."""
    x, y, z = points.unbind(-1)
    # column by column in memory, which makes all that follows faster
    return torch.stack([x.abs(), y, z]).T


def painted(paint: Tensor, *layers: tuple[Tensor, Triple]) -> Tensor:
    """``paint [N, 3]`` with each layer's colour wherever its ``[N]`` bool says so; later layers
    cover earlier ones."""
    for where, colour in layers:
        paint = torch.where(where[:, None], paint.new_tensor(colour), paint)
    return paint
