"""Fits of shapes whose distance is known: from colours, and from gradient magnitudes with few."""

from __future__ import annotations

import pytest
import torch

from tasks.errors import InputError
from tasks.fields.distance import representation
from tasks.fields.sdf import BOX, START, Volume, ball
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
        assert isinstance(volume, Volume)
        near = volume.distances.abs() < 0.05
        slope = volume.slopes.detach().square().sum(0).sqrt()[near]
        assert float((slope - 1).abs().mean()) < 0.2  # the eikonal residual at the surface


@pytest.mark.parametrize(("name", "rate"), [("hash=5x11", 1e-2), ("mlp=2x64", 3e-3)])
def test_networks_begin_as_a_ball_and_become_the_shape(name: str, rate: float) -> None:
    points = (torch.rand(500, 3, generator=generator("ball", 0)) * 2 - 1) * BOX
    true = points.norm(dim=1) - START
    whole = representation(name.partition("=")[0])  # a narrow network is a rough ball
    begun = whole.ready(whole.start(24, generator("start", 0)), 24)
    assert float((begun.sdf(points) - true).abs().mean()) < 0.5 * float(true.abs().mean())
    kind = representation(name)
    begun = kind.ready(kind.start(24, generator("start", 0)), 24)
    mesh = solid(SHAPES["ellipsoid"])
    fit = Fit(Evidence(views(mesh, 8), None, 1.0), Budget(96, 3, 8, 16, 8), 0, None, 16, None, kind)
    before = compare(surface(begun.lattice()), mesh, samples=4000)["chamfer_head"]
    fit.run(Stage("all", 60, rate, (0.1, 0.01), BASE | {"neutral": 1.0}, (16, 24), 10))
    after = compare(fit.surface(), mesh, samples=4000)["chamfer_head"]
    assert after < 0.5 * before
    # what is kept goes on as the same field
    again = Fit(fit.evidence, fit.budget, 0, representation=kind)
    again.restore(fit.tensors(), 1)
    assert torch.equal(again.volume.lattice(), fit.volume.lattice()) and again.side == 24


@pytest.mark.parametrize("name", ["hash=5x11", "mlp=3x32"])
def test_normals_of_networks_are_the_slopes_of_their_distances(name: str) -> None:
    kind = representation(name)
    field = kind.start(24, generator("start", 1))
    field += 0.02 * torch.randn(field.shape, generator=generator("bumps", 1))
    volume = kind.ready(field.double(), 64)
    points = (torch.rand(40, 3, generator=generator("places", 1)) * 2 - 1).double() * 0.6
    step = 1e-6
    found = volume.read(points)
    for axis in range(3):
        offset = torch.zeros(3, dtype=torch.float64)
        offset[axis] = step
        slope = (volume.sdf(points + offset) - volume.sdf(points - offset)) / (2 * step)
        assert torch.allclose(found.normal[:, axis], slope, atol=2e-4)


def test_fine_levels_of_a_hash_grid_are_silent_until_their_turn() -> None:
    kind = representation("hash=4x12")
    field = kind.start(24, generator("start", 2))
    tables = field[: 4 * 2**12 * 2].view(4, -1)
    points = (torch.rand(50, 3, generator=generator("places", 2)) * 2 - 1) * 0.6
    # columns of the features are zero at the start: give them some weight
    field[tables.numel() :] += 0.1
    early, late = kind.ready(field, 16).sdf(points), kind.ready(field, 256).sdf(points)
    tables[3] += 1.0  # the finest level, of 128 cells
    assert torch.equal(kind.ready(field, 16).sdf(points), early)
    assert not torch.allclose(kind.ready(field, 256).sdf(points), late)


@pytest.mark.parametrize("name", ["sphere", "grid=2x2", "hash=99x4", "mlp=0x64", "mlp=2x4"])
def test_a_representation_that_cannot_be_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=r"head\.field"):
        representation(name)
