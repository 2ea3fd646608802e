"""Split radiance fields: grids, head, geometry, and the two halves against one graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import layout_kit
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.flower.wire16 import narrow, widen
from tasks.data.cameras import Views
from tasks.errors import InputError
from tasks.metrics import psnr
from tasks.settings import DataSettings, SplitSettings, TaskSettings
from tasks.split_nerf.grids import Grid, Visits
from tasks.split_nerf.halves import ClientHalf, Cost, Division, ServerHalf, Whole
from tasks.split_nerf.head import (
    Head,
    composite,
    density_of,
    expected_depth,
    harmonics,
    named,
)
from tasks.split_nerf.rooms import photographs
from tasks.split_nerf.scene import Samples, Scene, scene_of, seen_by
from tasks.split_nerf.task import SplitNerf

SMALL = SplitSettings(cells="4,8", rays=32, samples=8)


def scene(size: int = 12) -> Scene:
    one = torch.ones(3)
    return scene_of(photographs(0, "plain", size, 4, 1), 1, (-one, one))


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------- grids
@pytest.mark.parametrize("hashed", [0, 64])
def test_a_grid_reads_trilinear_means_of_its_corners(hashed: int) -> None:
    """Against a loop over corners; hashed levels by Instant NGP's own formula."""
    grid = Grid((2, 5), 3, hashed)
    table, points = (
        torch.randn(grid.rows, 3, generator=drawn()),
        torch.rand(7, 3, generator=drawn()),
    )
    found = grid.read(table, grid.visit(points))
    primes = (1, 2654435761, 805459861)
    for m, point in enumerate(points.tolist()):
        first, parts = 0, []
        for side, size in zip(grid.cells, grid.sizes, strict=True):
            low = [min(int(x * side), side - 1) for x in point]
            value = torch.zeros(3)
            for corner in range(8):
                bits = [corner >> 2 & 1, corner >> 1 & 1, corner & 1]
                at = [a + b for a, b in zip(low, bits, strict=True)]
                weight = math.prod(
                    (x * side - a) if b else 1 - (x * side - a)
                    for x, a, b in zip(point, low, bits, strict=True)
                )
                if hashed and size < (side + 1) ** 3:
                    row = 0
                    for a, prime in zip(at, primes, strict=True):
                        row ^= a * prime
                    row %= size
                else:
                    row = (at[0] * (side + 1) + at[1]) * (side + 1) + at[2]
                value += weight * table[first + row]
            parts.append(value)
            first += size
        assert torch.allclose(found[m], torch.cat(parts), atol=1e-5)


@given(seed=st.integers(0, 99), hashed=st.sampled_from([0, 32]))
@settings(max_examples=20, deadline=None)
def test_pulling_back_is_the_transpose_of_reading(seed: int, hashed: int) -> None:
    grid = Grid((3, 4), 2, hashed)
    stream = drawn(seed)
    table, points = torch.randn(grid.rows, 2, generator=stream), torch.rand(9, 3, generator=stream)
    onto = torch.randn(9, 4, generator=stream)
    visits = grid.visit(points)
    one = (grid.read(table, visits) * onto).sum()
    two = (table * grid.pull_back(onto, visits)).sum()
    assert torch.allclose(one, two, atol=1e-4)
    assert torch.allclose(grid.visited(visits).sum(), torch.tensor(18.0), atol=1e-4)


# ---------------------------------------------------------------------- head
def test_harmonics_are_orthonormal_on_the_sphere() -> None:
    """Their Gram matrix over many uniform directions is the identity over 4 pi."""
    directions = torch.nn.functional.normalize(torch.randn(400_000, 3, generator=drawn()), dim=1)
    values = harmonics(directions).double()
    gram = 4 * math.pi * values.T @ values / len(values)
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=0.02)


def test_the_density_has_a_second_derivative_and_a_bounded_first() -> None:
    x = torch.tensor([0.5, 20.0], requires_grad=True)
    (first,) = torch.autograd.grad(density_of(x).sum(), x, create_graph=True)
    assert torch.allclose(first.detach(), torch.tensor([0.5, 15.0]).exp())
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second[0] == pytest.approx(math.exp(0.5), rel=1e-5)


def test_an_infinite_density_is_a_wall_and_hides_nothing_in_front_of_it() -> None:
    """Half of the light is stopped before the wall, half by it; slopes are finite."""
    samples = Samples(torch.empty(0, 3), torch.empty(1, 3), torch.ones(1),
                      torch.tensor([[1.0, 2.0, 3.0]]))  # fmt: skip
    logs = torch.tensor([[math.log(math.log(2)), 100.0, 0.0]], requires_grad=True)
    density = density_of(logs)
    assert torch.isinf(density[0, 1])
    colour = torch.eye(3)[None]
    shown = composite(density, colour, samples, 1.0)
    assert torch.allclose(shown.detach(), torch.tensor([[0.5, 0.5, 0.0]]), atol=1e-6)
    assert float(expected_depth(density, samples)[0]) == pytest.approx(1.5)
    (slope,) = torch.autograd.grad(shown[0, 0], logs)
    assert bool(torch.isfinite(slope).all()) and float(slope[0, 0]) > 0


@pytest.mark.parametrize("cut", ["features", "hidden", "geometry"])
def test_a_cut_moves_layers_and_changes_nothing_else(cut: str) -> None:
    head = Head(8, cut=cut)  # type: ignore[arg-type]
    assert head.server.size + head.client.size == sum(math.prod(s) for s in head.shapes.values())
    features = torch.randn(6, 8, generator=drawn())
    ray = torch.nn.functional.normalize(torch.randn(2, 3, generator=drawn(1)), dim=1)
    every = head.init(head.server, named(drawn(2))), head.init(head.client, named(drawn(3)))
    whole = Head(8, cut="features")
    together = torch.cat(every)
    crossing = head.embed(every[0], features)
    assert crossing.shape == (6, head.crossing)
    one = head.shade(every[1], crossing.view(2, 3, -1), ray)
    two = whole.shade(together, features.view(2, 3, -1), ray)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, two, strict=True))


def test_the_published_head_has_the_published_sizes() -> None:
    """S2NeRF's release: 7,296 parameters on the client, 32 x 64 on the server."""
    head = Head(32, cut="hidden")
    assert (head.client.size, head.server.size, head.crossing) == (7296, 2048, 64)
    light = Division.of(SplitSettings(variant="light"), 10).head
    assert light.crossing == 16 and light.client.size < 1100


# ---------------------------------------------------------------------- geometry
def test_rays_enter_and_leave_through_the_box() -> None:
    shown = scene()
    pixels = torch.arange(40)
    samples = shown.geometry.march(pixels, 16)
    rays = shown.geometry.pixels[pixels]
    ends = (
        samples.distance[:, 0] - samples.spacing / 2,
        samples.distance[:, -1] + samples.spacing / 2,
    )
    outside = [
        (rays[:, :3] + (end + side)[:, None] * rays[:, 3:]).abs().amax(1)
        for end, side in zip(ends, (-1e-3, 1e-3), strict=True)
    ]
    hit = samples.spacing > 1e-6
    assert hit.any() and all(bool((far[hit] > 1 - 1e-4).all()) for far in outside)
    assert samples.points.min() >= 0 and samples.points.max() <= 1


def test_batches_follow_from_the_seed_and_leave_held_out_views_alone() -> None:
    geometry = scene().geometry
    one, two, other = (
        geometry.batch(3, 7, 500),
        geometry.batch(3, 7, 500),
        geometry.batch(3, 8, 500),
    )
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert int(one.max()) < geometry.train * geometry.height * geometry.width
    jitter = [geometry.march(one, 8, (3, step)).distance for step in (7, 7, 8)]
    assert torch.equal(jitter[0], jitter[1]) and not torch.equal(jitter[0], jitter[2])


def test_a_box_holds_what_the_cameras_see() -> None:
    views = photographs(1, "fine", 8, 3, 1)
    lower, upper = seen_by(views)
    ends = views.poses[:, :3, 3] - views.far * views.poses[:, :3, 2]
    assert bool((ends > lower).all()) and bool((ends < upper).all())


def test_views_that_are_all_held_out_are_refused() -> None:
    views = photographs(0, "plain", 8, 1, 1)
    one = torch.ones(3)
    with pytest.raises(InputError, match="none is left to train on"):
        scene_of(views, 2, (-one, one))


# ---------------------------------------------------------------------- halves
def halves(division: Division) -> tuple[ServerHalf, ClientHalf]:
    return ServerHalf(division, ("t",)), ClientHalf(division, named(drawn(5)))


def split_steps(
    division: Division, shown: Scene, steps: int, wire: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[ServerHalf, ClientHalf]:
    server, client = halves(division)
    for step in range(steps):
        places = division.places(shown.geometry, 1, step)
        targets = shown.colours[shown.geometry.batch(1, step, division.rays)]
        crossing = wire(server.embed(places))
        _, gradient = client.step(places.samples, crossing, targets, 1.0, step)
        server.learn(places, wire(gradient), step)
    return server, client


def gathered(table: torch.Tensor, visits: Visits) -> torch.Tensor:
    """The same features as ``Grid.read``, by a gather that autograd goes through."""
    parts = [
        (table[rows.long()] * weights[..., None]).sum(1)
        for rows, weights in zip(visits.rows, visits.weights, strict=True)
    ]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("cut", ["features", "hidden", "geometry"])
def test_split_equals_unsplit_after_two_hundred_steps(
    cut: str, request: pytest.FixtureRequest
) -> None:
    """Against one graph over all parameters and torch's own Adam, in double precision: Adam divides
    by roots of squares near zero, which amplifies the roundings of single precision."""
    torch.set_default_dtype(torch.float64)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    shown = scene()
    division = Division.of(SMALL, 200, cut=cut)  # type: ignore[arg-type]
    server, client = halves(division)
    params = [server.table.params.clone(), server.layers.params.clone(), client.head.params.clone()]
    params = [tensor.requires_grad_() for tensor in params]
    adam = torch.optim.Adam([p for p in params if p.numel()], lr=0.01, betas=(0.9, 0.99), eps=1e-15)
    for step in range(200):
        places = division.places(shown.geometry, 1, step)
        targets = shown.colours[shown.geometry.batch(1, step, division.rays)]
        features = gathered(params[0], places.visits)
        crossing = division.head.embed(params[1], features).view(
            division.rays, -1, division.head.crossing
        )
        density, colour = division.head.shade(params[2], crossing, places.samples.directions)
        loss = (composite(density, colour, places.samples, 1.0) - targets).square().mean()
        adam.zero_grad()
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = 0.01 * 0.1 ** (step / 200)
        adam.step()
    mine = split_steps(division, shown, 200, lambda x: x)
    found = [mine[0].table.params, mine[0].layers.params, mine[1].head.params]
    for one, two in zip(found, params, strict=True):
        assert one.dtype is torch.float64 and torch.allclose(one, two.detach(), atol=1e-5)


def test_sixteen_bits_cost_no_quality() -> None:
    shown = scene(16)
    division = Division.of(SMALL, 150)
    reached = []
    for wire in (lambda x: x, lambda x: widen(narrow(x[None]))[0]):
        server, client = split_steps(division, shown, 150, wire)
        whole = Whole(server, client)
        rays = shown.geometry.pixels[shown.geometry.of_view(4)]
        reached.append(psnr(whole.render(shown.geometry, rays)[0], shown.colours[-256:]))
    assert abs(reached[0] - reached[1]) < 0.1


def test_a_field_that_is_not_split_is_both_halves() -> None:
    shown = scene()
    division = Division.of(SMALL, 20)
    whole = Whole(*halves(division))
    for step in range(5):
        whole.step(shown.geometry, shown.colours, 1, step)
    server, client = split_steps(division, shown, 5, lambda x: x)
    assert torch.equal(whole.server.table.params, server.table.params)
    assert torch.equal(whole.client.head.params, client.head.params)


def test_halves_restore_what_they_were() -> None:
    shown = scene()
    division = Division.of(SMALL, 20)
    server, client = split_steps(division, shown, 4, lambda x: x)
    again = halves(division)
    again[0].restore(server.tensors())
    again[1].restore(client.tensors())
    for half in ((server, client), again):
        places = division.places(shown.geometry, 1, 4)
        targets = shown.colours[shown.geometry.batch(1, 4, division.rays)]
        _, gradient = half[1].step(places.samples, half[0].embed(places), targets, 1.0, 4)
        half[0].learn(places, gradient, 4)
    assert torch.equal(server.table.params, again[0].table.params)
    assert torch.equal(client.head.params, again[1].head.params)


def test_costs_are_those_of_the_parts() -> None:
    division = Division.of(SplitSettings(), 1)
    split, whole = Cost.of(division, False), Cost.of(division, True)
    assert split.parameters == 7296 and whole.parameters > 450_000
    assert split.multiply_adds == 7296 and whole.multiply_adds == 7296 + 20 * 64 + 8 * 20
    # numbers per sample that a step keeps: hidden layer, geometry, colour layers, colour
    samples = 4 * 256 * 32
    behind = 16 + 2 * 64 + 3
    assert split.activations == samples * (64 + behind)
    for cut, own in (("features", 20 + 64), ("hidden", 64), ("geometry", 0)):
        other = Division.of(SplitSettings(), 1, cut=cut)  # type: ignore[arg-type]
        assert Cost.of(other, False).activations == samples * (own + behind)
        assert Cost.of(other, True).activations == samples * (20 + 64 + behind), "the same field"


# ---------------------------------------------------------------------- task
def test_a_folder_of_scenes_is_a_client_each(tmp_path: Path) -> None:
    """``transforms.json`` in two layouts: below a folder each, photographs in ``train/``."""
    for name in ("one", "two"):
        layout_kit.scene(tmp_path / name, views=4)
    data = DataSettings(path=str(tmp_path), size=8)
    task = SplitNerf(TaskSettings(data=data, split=SplitSettings(test_views=1)))
    task.check(2)
    geometry = task.client_data(1).geometry
    assert (task.client_data(0).name, task.client_data(1).name) == ("one", "two")
    assert geometry.train == 3 and len(task.tour(geometry, 5)) == 5
    eyes = geometry.poses[:, :3, 3]
    assert bool((eyes > torch.tensor(geometry.lower)).all()), "what is near is in the box, too"
    with pytest.raises(InputError, match="2 scenes are too few for 3 clients"):
        task.check(3)


def test_rooms_differ_by_number_and_texture() -> None:
    plain, fine = photographs(0, "plain", 8, 2, 1), photographs(0, "fine", 8, 2, 1)
    assert isinstance(plain, Views) and not torch.equal(plain.images, fine.images)
    task = SplitNerf(TaskSettings(split=SplitSettings(train_views=2, test_views=1)))
    assert [task.texture(client) for client in (0, 1, 2)] == ["plain", "fine", "plain"]
