"""Distance fields: readings, density, sampling and its bound, the bounded network, meshes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.fields.sdf import (
    BOX,
    LipschitzNet,
    Volume,
    ball,
    corners,
    density,
    opacity_error,
    resized,
    sample,
)
from tasks.head.export import read_ply, write_ply
from tasks.head.mesh import Mesh, compare, floor, is_watertight, largest, sampled, surface
from tasks.randomness import generator


def test_a_ball_is_read_with_its_normals() -> None:
    volume = Volume(ball(48, 2, 0.4))
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    points = 0.42 * torch.nn.functional.normalize(points, dim=1)
    reading = volume.read(points)
    assert float((reading.sdf - 0.02).abs().max()) < 4e-3
    towards = torch.nn.functional.normalize(points, dim=1)
    cosine = torch.nn.functional.cosine_similarity(reading.normal, towards)
    assert float(cosine.min()) > 0.999
    assert float((reading.normal.norm(dim=1) - 1).abs().max()) < 0.02, "eikonal residual"
    assert reading.features.shape == (200, 2)
    assert torch.allclose(volume.sdf(points.view(20, 10, 3)).view(-1), reading.sdf, atol=1e-6)


def test_gradients_reach_the_grid_through_values_and_normals() -> None:
    field = ball(16, 1).requires_grad_()
    reading = Volume(field).read(torch.rand(50, 3) - 0.5)
    (onto,) = torch.autograd.grad((reading.normal.norm(dim=1) - 1).square().sum(), field)
    assert float(onto[0].abs().sum()) > 0 and float(onto[1].abs().sum()) == 0


def test_a_finer_grid_is_the_same_field() -> None:
    fine = resized(ball(20, 0), 39)
    assert fine.shape == (1, 39, 39, 39)
    truth = corners(39).norm(dim=-1) - 0.48
    assert float((fine[0] - truth)[truth.abs() < 0.1].abs().max()) < 4e-3


@given(st.floats(-3, 3), st.floats(1e-4, 1.0))
@settings(max_examples=200, deadline=None)
def test_the_laplace_density_and_its_limits(sdf: float, beta: float) -> None:
    """Half of 1 / beta on the surface, 1 / beta inside, 0 outside, falling."""
    values = torch.tensor([sdf, sdf + 0.01, 0.0, -1e3, 1e3], dtype=torch.float64)
    found = density(values, beta)
    assert bool(torch.isfinite(found).all()) and bool((found >= 0).all())
    assert float(found[0]) >= float(found[1]) - 1e-9 / beta
    assert float(found[2]) == pytest.approx(0.5 / beta)
    assert float(found[3]) == pytest.approx(1 / beta) and float(found[4]) < 1e-9
    inside = 1 / beta - 0.5 / beta * math.exp(-0.1 / beta)
    assert float(density(torch.tensor(-0.1, dtype=torch.float64), beta)) == pytest.approx(inside)


def opacity(sdf: torch.Tensor, spacing: torch.Tensor, beta: float) -> torch.Tensor:
    return (density(sdf, beta) * spacing).sum(1)


@pytest.mark.parametrize("beta", [0.1, 0.03, 0.01])
def test_the_bound_holds_against_a_dense_reference(beta: float) -> None:
    """For a sphere, whose distances are true: |1 - e^-R sampled - (1 - e^-R dense)| <= bound, at
    every sample; and where the bound is small it is near."""
    stream = generator("bound")
    directions = torch.nn.functional.normalize(
        torch.tensor([0.0, 0, -1]) + 0.25 * torch.randn(60, 3, generator=stream), dim=1
    )
    origins = torch.tensor([0.0, 0, 1.2]).expand(60, 3)

    def sdf(distance: torch.Tensor) -> torch.Tensor:
        return (origins[:, None] + distance[..., None] * directions[:, None]).norm(dim=-1) - 0.4

    for count in (8, 24, 96):
        edges = torch.linspace(0.2, 2.2, count + 1).expand(60, -1)
        distance = edges[:, :-1]
        bound = opacity_error(sdf(distance), edges.diff(dim=1), beta)
        fine = torch.linspace(0.2, 2.2, count * 400 + 1).expand(60, -1)
        dense = density(sdf(fine[:, :-1]), beta) * fine.diff(dim=1)
        true = dense.cumsum(1)[:, 399::400]
        own = (density(sdf(distance), beta) * edges.diff(dim=1)).cumsum(1)
        error = (torch.exp(-own) - torch.exp(-true))[:, :-1].abs().amax(1)
        assert bool((error <= bound + 1e-4).all())
    assert beta < 0.05 or float(bound.max()) < 0.1


def test_samples_lie_in_the_cube_in_order_and_gather_at_the_surface() -> None:
    volume = Volume(ball(48, 0, 0.4))
    origins = torch.tensor([[0.0, 0.05, 2.0], [0.0, 5.0, 2.0]])
    directions = torch.tensor([[0.0, 0, -1], [0, 0, -1]])
    for stream in (None, generator("samples")):
        found = sample(volume, origins, directions, 0.003, 24, 12, stream)
        assert bool((found.distance.diff(dim=1) >= 0).all()) and bool((found.spacing >= 0).all())
        assert float(found.distance[0].min()) >= 2.0 - BOX - 1e-4
        assert float(found.distance[0].max()) <= 2.0 + BOX
        near = (found.distance[0] - (2 - math.sqrt(0.16 - 0.05**2))).abs() < 0.06
        assert int(near.sum()) >= 10, "most of the fine ones"
        assert float(found.spacing[1].sum()) == 0, "a ray that misses the cube sees nothing"


@given(st.integers(0, 10_000), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_the_networks_slope_never_exceeds_its_bound(seed: int, inflated: int) -> None:
    """In the maximum norm, before the sigmoid, also where weights have grown beyond their k."""
    net = LipschitzNet((5, 16, 16, 3), generator("lipschitz", seed))
    with torch.no_grad():
        for weight in net.tensors[0::3]:
            weight *= 10.0**inflated
    one = torch.randn(64, 5, generator=generator("points", seed))
    other = one + 0.1 * torch.randn(64, 5, generator=generator("other points", seed))
    with torch.no_grad():
        moved = (net.raw(one) - net.raw(other)).abs().amax(1)
    assert bool((moved <= net.slope * (one - other).abs().amax(1) * (1 + 1e-4)).all())


def test_the_bound_is_tight_at_the_start_and_changes_nothing() -> None:
    net = LipschitzNet((4, 8, 3), generator("tight"))
    inputs = torch.randn(20, 4)
    weight, bias, _, last, rest, _ = net.tensors
    plain = torch.nn.functional.gelu(inputs @ weight.T + bias) @ last.T + rest
    assert torch.allclose(net.raw(inputs), plain, atol=1e-6)
    assert float(net.product.detach()) == pytest.approx(
        float(weight.abs().sum(1).max() * last.abs().sum(1).max()), rel=1e-4
    )


# ---------------------------------------------------------------------- meshes
def test_the_mesh_of_a_ball_is_the_ball() -> None:
    """Within a third of a cell, watertight, the same from a file; a level outside is larger."""
    distances = corners(40).norm(dim=-1) - 0.4
    mesh = surface(distances)
    cell = 2 * BOX / 39
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.4).max() < cell / 3
    assert is_watertight(mesh)
    assert np.linalg.norm(surface(distances, 0.05).vertices, axis=1).mean() == pytest.approx(
        0.45, abs=0.01
    )
    with pytest.raises(ValueError, match="no surface"):
        surface(distances + 10)


def test_only_the_largest_part_is_kept_and_a_hole_is_seen() -> None:
    distances = torch.minimum(
        corners(40).norm(dim=-1) - 0.3, (corners(40) - 0.5).norm(dim=-1) - 0.1
    )
    mesh = surface(distances)
    assert np.linalg.norm(mesh.vertices, axis=1).max() < 0.32
    holed = Mesh(mesh.vertices, mesh.faces[1:])
    assert not is_watertight(holed) and len(largest(holed).faces) == len(holed.faces)


def test_chamfer_distance_is_that_of_two_spheres_and_its_floor() -> None:
    """Spheres of .40 and .43: .03 apart everywhere, but for the sampling floor."""
    one, other = (surface(corners(64).norm(dim=-1) - r) for r in (0.40, 0.43))
    found = compare(one, other, samples=40_000)
    assert found["chamfer_head"] == pytest.approx(0.03, abs=0.002)
    assert found["normals"] > 0.98
    assert floor(one, 40_000)["chamfer_head"] < 0.006
    points, normals = sampled(one, 1000, 0)
    assert np.abs((points * normals).sum(1)).min() > 0.38


def test_files_of_meshes_read_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    mesh = surface(corners(16).norm(dim=-1) - 0.4)
    write_ply(tmp_path / "a.ply", mesh)
    again = read_ply(tmp_path / "a.ply")
    assert np.allclose(again.vertices, mesh.vertices, atol=1e-6)
    assert np.array_equal(again.faces, mesh.faces)
