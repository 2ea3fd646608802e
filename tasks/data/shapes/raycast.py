"""Views of a solid, exact to rounding but for grazes: sphere tracing, bisection, and one fixed
light.

The light stands still in the world and the paint is matt, so a point looks the same from
everywhere: what a radiance field without view dependence can represent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.cameras import Views, rays
from tasks.data.shapes.sdf import Solid, normals
from tasks.errors import InputError

RAYS_AT_ONCE = 1 << 15  # bounds the memory: under 100 MiB with the graph that the normals need
FEW = 128  # rays
LEAST_STEP = 4e-3  # a graze that is inside the solid for less than this may be missed
HALVINGS = 12  # 4e-3 / 2^12 is the depth's resolution, about that of float32
LIGHT = (0.45, 0.80, 0.40)  # towards the light; normalised before use
AMBIENT = 0.45


@dataclass(frozen=True)
class Cast:
    """First surfaces along N rays. Where ``hit`` is false, colour is 0 and depth is ``far``."""

    colour: Tensor  # [N, 3] in [0, 1], lit
    depth: Tensor  # [N] along the unit direction
    hit: Tensor  # [N] bool


@torch.no_grad()
def raycast(solid: Solid, origins: Tensor, directions: Tensor, near: float, far: float) -> Cast:
    """The first surface along each ray between two distances.

    A ray advances by the solid's function, which never exceeds the distance to the surface, until
    it is inside; halving the last step then gives the depth to about 1e-6. A ray that starts inside
    is hit where it starts.

    Args:
        solid: geometry and paint.
        origins: of the rays, ``[N, 3]``.
        directions: of unit length, ``[N, 3]``.
        near: least distance along a ray, from 0 up.
        far: greatest one, finite.
    """
    if not 0 <= near < far < math.inf:
        raise InputError(
            "near, far",
            (near, far),
            "bounds along a ray need 0 <= near < far",
            "use distance -/+ radius",
        )
    colour = torch.zeros_like(origins)
    depth = torch.full_like(origins[:, 0], far)
    hit = torch.zeros_like(depth, dtype=torch.bool)
    for start in range(0, len(origins), RAYS_AT_ONCE):
        block = slice(start, start + RAYS_AT_ONCE)
        index, found = _trace(solid, origins[block], directions[block], near, far)
        index = index + start
        points = origins[index] + found[:, None] * directions[index]
        colour[index] = shade(solid, points)
        depth[index] = found
        hit[index] = True
    return Cast(colour, depth, hit)


def _trace(
    solid: Solid, origins: Tensor, directions: Tensor, near: float, far: float
) -> tuple[Tensor, Tensor]:
    """The rays that hit, as an index, and their depths."""
    # Only the chord inside the bounding sphere can hold anything: |o + t d|^2 = R^2 has roots -b
    # -/+ sqrt(b^2 - c).
    middle = -(origins * directions).sum(-1)
    square = middle.square() - origins.square().sum(-1) + solid.radius**2
    chord = square.clamp(min=0).sqrt()
    depth = (middle - chord).clamp(min=near)
    last = (middle + chord).clamp(max=far)
    index = ((square > 0) & (depth < last)).nonzero().squeeze(-1)

    origins, directions, depth, last = origins[index], directions[index], depth[index], last[index]
    before = depth
    found: list[tuple[Tensor, ...]] = []
    while len(index) > FEW:  # each step is LEAST_STEP or more, so this ends
        value = solid.sdf(origins + depth[:, None] * directions)
        inside = value <= 0
        found.append(
            (index[inside], origins[inside], directions[inside], before[inside], depth[inside])
        )
        ahead = depth + value.clamp(min=LEAST_STEP)
        going = ~inside & (ahead < last)
        before, depth, last = depth[going], ahead[going], last[going]
        index, origins, directions = index[going], origins[going], directions[going]
    if len(index):
        # Rays that graze a surface creep for a hundred calls. For the last few, looking everywhere
        # at once is cheaper.
        count = math.ceil(float((last - depth).max()) / LEAST_STEP) + 1
        steps = depth[:, None] + LEAST_STEP * torch.arange(
            count, dtype=depth.dtype, device=depth.device
        )
        steps = torch.minimum(steps, last[:, None])
        points = origins[:, None] + steps[..., None] * directions[:, None]
        inside = solid.sdf(points.reshape(-1, 3)).reshape(steps.shape) <= 0
        edges = torch.cat([before[:, None], steps], dim=1)
        first = inside.byte().argmax(dim=1, keepdim=True)  # the first of several largest
        outer, inner = edges.gather(1, first).squeeze(1), steps.gather(1, first).squeeze(1)
        some = inside.any(dim=1)
        found.append((index[some], origins[some], directions[some], outer[some], inner[some]))
    if not found:
        return index, depth
    index, origins, directions, outer, inner = (
        torch.cat(column) for column in zip(*found, strict=True)
    )
    for _ in range(HALVINGS):
        middle = (outer + inner) / 2
        inside = solid.sdf(origins + middle[:, None] * directions) <= 0
        outer, inner = torch.where(inside, outer, middle), torch.where(inside, middle, inner)
    return index, inner


def shade(solid: Solid, points: Tensor) -> Tensor:
    r"""Paint times :math:`a + (1 - a) \max(n \cdot l, 0)`: Lambert's law, ambient share a. ``[N,
    3]`` in [0, 1]."""
    light = torch.nn.functional.normalize(points.new_tensor(LIGHT), dim=0)
    share = AMBIENT + (1 - AMBIENT) * (normals(solid, points) @ light).clamp(min=0)
    return (solid.colour(points) * share[:, None]).clamp(0, 1)


def render(
    solid: Solid,
    poses: Tensor,
    focal: float,
    height: int,
    width: int,
    near: float,
    far: float,
    background: float = 1.0,
    samples: int = 1,
) -> Views:
    """Pictures of the solid on a plain background.

    Args:
        solid: geometry and paint.
        poses: camera to world, ``[V, 4, 4]``.
        focal: focal length in pixels of the finished picture.
        height: H, in pixels.
        width: W, in pixels.
        near: least distance of a surface from a camera.
        far: greatest one.
        background: grey level in [0, 1].
        samples: rays per pixel: 1 looks through its centre, 4 averages the centres of its quarters,
            which softens outlines.
    """
    if samples not in (1, 4):
        raise InputError(
            "samples",
            samples,
            "rays per pixel are 1 or 4",
            "4 gives softer outlines at 4 times the cost",
        )
    if not 0 <= background <= 1:
        raise InputError(
            "background", background, "a grey level lies in [0, 1]", "1.0 is white, 0.0 is black"
        )
    grain = 1 if samples == 1 else 2
    origins, directions = rays(poses, focal * grain, height * grain, width * grain)
    cast = raycast(solid, origins.reshape(-1, 3), directions.reshape(-1, 3), near, far)
    colour = torch.where(cast.hit[:, None], cast.colour, torch.full_like(cast.colour, background))
    # Quarters are summed over two axes; 4 equal values have themselves as the mean, so the
    # background stays exact.
    parts = (len(poses), height, grain, width, grain)
    images = colour.reshape(*parts, 3).mean(dim=(2, 4))
    masks = cast.hit.reshape(parts).any(dim=4).any(dim=2)
    return Views(solid.name, images, poses, focal, near, far, background, masks)
