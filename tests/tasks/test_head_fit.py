"""Fits of shapes whose distance is known: from colours, and from gradient magnitudes with few."""

from __future__ import annotations

import pytest
import torch

from tasks.fields.sdf import ball
from tasks.head.fit import Budget, Fit
from tasks.head.mesh import Mesh, compare, surface
from tasks.head.stages import BASE, Stage
from tasks.head.task import around
from tasks.head.views import Coloured, Evidence, Obscured
from tasks.modulus import gradient_modulus
from tasks.randomness import generator
from tasks.render.raster import rasterise, vertex_normals

SIZE, STEPS = 32, 180
SHAPES = {"sphere": (0.40, 0.40, 0.40), "ellipsoid": (0.33, 0.5, 0.42)}


def solid(axes: tuple[float, float, float]) -> Mesh:
    """An ellipsoid's surface."""
    mesh = surface(ball(40, 0, 0.4)[0])
    points = torch.nn.functional.normalize(torch.from_numpy(mesh.vertices), dim=1)
    return Mesh((points * torch.tensor(axes)).numpy(), mesh.faces)


def views(mesh: Mesh, count: int) -> Coloured:
    """It from all around, coloured by its normals and by height, on white."""
    cameras = around(count, (0.0, 360.0), SIZE, generator("ellipsoid"))
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.faces)
    stripes = 0.2 * torch.sin(25 * vertices[:, 1:2])
    paint = 0.5 + 0.35 * vertex_normals(vertices, faces) + stripes
    pictures = []
    for pose, matrix in zip(cameras.poses, cameras.intrinsics, strict=True):
        seen = rasterise(vertices, faces, pose, matrix, SIZE, SIZE)
        picture = torch.ones(SIZE, SIZE, 3)
        picture[seen.covered] = seen.interpolate(faces, paint).clamp(0, 1)
        pictures.append(picture)
    return Coloured(torch.stack(pictures), cameras)


def fitted(evidence: Evidence, **losses: float) -> Fit:
    fit = Fit(evidence, Budget(256, 3, 8), 0, side=16)
    fit.run(Stage("all", STEPS, 1e-2, (0.1, 0.003), BASE | losses, (16, 24), 20))
    return fit


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_recovered_from_colours_and_from_magnitudes(name: str) -> None:
    mesh = solid(SHAPES[name])
    seen = views(mesh, 10)
    colours = fitted(Evidence(seen, None, 1.0), neutral=1.0)
    values = gradient_modulus(seen.images)
    obscured = Obscured(values, torch.ones_like(values, dtype=torch.bool), seen.cameras)
    edges = fitted(
        Evidence(Coloured(seen.images[:4], seen.cameras.some(torch.arange(4))), obscured, 1.0),
        neutral=1.0,
        operator=1.0,
    )
    start = compare(surface(ball(24, 0)[0]), mesh, samples=4000)["chamfer_head"]
    floor = compare(mesh, mesh, samples=4000)["chamfer_head"]
    for fit, most in ((colours, 0.022), (edges, 0.03)):
        apart = compare(fit.surface(), mesh, samples=4000)["chamfer_head"]
        # the ball it starts as is 0.08 away; a cell of the grid is 0.06
        assert floor < apart < most and apart < start
        volume = fit.volume
        near = volume.distances.abs() < 0.05
        slope = volume.slopes.detach().square().sum(0).sqrt()[near]
        assert float((slope - 1).abs().mean()) < 0.2  # the eikonal residual at the surface
