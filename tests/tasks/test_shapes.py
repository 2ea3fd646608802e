"""Procedural solids, the cameras around them and the views they give, against closed forms and
first principles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache

import pytest
import torch
from torch import Tensor

from tasks.data.cameras import look_at, on_sphere, orbit, rays
from tasks.data.shapes import sdf
from tasks.data.shapes.cars import KINDS, car
from tasks.data.shapes.heads import HAIRSTYLES, head
from tasks.data.shapes.raycast import AMBIENT, LIGHT, raycast, render
from tasks.data.shapes.sdf import Solid
from tasks.errors import InputError
from tasks.randomness import generator

# The first object of every kind and style, cars before heads.
FIRST = {
    solid.name.split("(")[1]: solid
    for make in (car, head)
    for solid in map(make, reversed(range(60)))
}
SOLIDS = sorted(FIRST.values(), key=lambda solid: solid.name)
ALL = pytest.mark.parametrize("solid", SOLIDS, ids=lambda solid: solid.name)
NEAR, FAR = 1.5, 3.5  # bounds of the unit sphere, with slack, from a distance of 2.5


def points(count: int, *key: object, reach: float = 1.2) -> Tensor:
    return (
        2 * torch.rand(count, 3, generator=generator("test", *key), dtype=torch.float64) - 1
    ) * reach


def ball(radius: float = 0.5, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Solid:
    return Solid("ball", lambda p: sdf.sphere(p, centre, radius), lambda p: torch.full_like(p, 0.5))


@cache
def surface(solid: Solid, count: int = 250) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the surface, the depths there and the rays' directions, from all around, in
    float64."""
    eyes = torch.nn.functional.normalize(points(count, "eyes"), dim=-1) * 2.5
    aims = torch.nn.functional.normalize(points(count, "aims", reach=0.5) - eyes, dim=-1)
    cast = raycast(solid, eyes, aims, NEAR, FAR)
    return (eyes + cast.depth[:, None] * aims)[cast.hit], cast.depth[cast.hit], aims[cast.hit]


# ---------------------------------------------------------------- primitives

TENT = sdf.faces(((3, 0, 0), (0.4, 9, 9)), ((0, -2, 0), (0, -0.3, 0)), ((-1, 1, 1), (0, 0.1, 0.2)))
PRIMITIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "sphere": lambda p: sdf.sphere(p, (0.1, 0.2, 0.0), 0.4),
    "ellipsoid": lambda p: sdf.ellipsoid(p, (0.0, 0.1, 0.0), (0.2, 0.5, 0.9)),
    "box": lambda p: sdf.box(p, (0.0, 0.1, 0.0), (0.6, 0.3, 0.4), 0.1),
    "capsule": lambda p: sdf.capsule(p, (-0.4, 0.0, 0.1), (0.3, 0.2, 0.0), 0.2),
    "cylinder": lambda p: sdf.cylinder(p, (0.0, 0.1, 0.0), 0.5, 0.3, 1, 0.1),
    "polyhedron": lambda p: sdf.polyhedron(sdf.planes(p, *TENT), 0.1),
}
EXACT = {"sphere", "box", "capsule", "cylinder"}
COMBINED: dict[str, Callable[[Tensor], Tensor]] = {
    "smooth union": lambda p: sdf.smooth_union(PRIMITIVES["sphere"](p), PRIMITIVES["box"](p), 0.3),
    "union": lambda p: sdf.union(*(solid(p) for solid in PRIMITIVES.values())),
    "subtraction": lambda p: sdf.subtraction(PRIMITIVES["box"](p), PRIMITIVES["sphere"](p)),
    "smooth subtraction": lambda p: sdf.subtraction(
        PRIMITIVES["box"](p), PRIMITIVES["sphere"](p), 0.2
    ),
    "mirrored": lambda p: PRIMITIVES["capsule"](sdf.mirrored(p)),
}


def steepest(solid: Callable[[Tensor], Tensor], *key: object) -> float:
    """The largest |f(p) - f(q)| / |p - q| over pairs both far apart and close together."""
    first = points(1500, *key)
    slopes = []
    for reach in (1.0, 0.1, 0.001):
        second = first + points(1500, *key, "to", reach=reach)
        slopes.append(
            (solid(first) - solid(second)).abs() / torch.linalg.vector_norm(first - second, dim=-1)
        )
    return float(torch.cat(slopes).max())


@pytest.mark.parametrize("name", [*PRIMITIVES, *COMBINED])
def test_every_building_block_is_1_lipschitz(name: str) -> None:
    solid = {**PRIMITIVES, **COMBINED}[name]
    assert steepest(solid, name) <= 1 + 1e-9
    if name in EXACT:  # a distance has slope 1 wherever it has a slope
        whole = Solid(name, solid, solid)
        at = points(200, name)
        ahead = solid(at + 1e-5 * sdf.normals(whole, at)) - solid(at)
        assert float((ahead / 1e-5).median()) == pytest.approx(1, abs=1e-4)


def test_primitives_against_numbers_worked_out_by_hand() -> None:
    at = torch.tensor(
        [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64
    )
    root2 = math.sqrt(2)
    root3 = math.sqrt(3)

    def check(values: Tensor, expected: list[float]) -> None:
        torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))

    check(sdf.sphere(at, (0, 0, 0), 0.5), [0.5, 1.5, root3 - 0.5, -0.5])
    check(sdf.box(at, (0, 0, 0), (0.5, 0.5, 0.5), 0.0), [0.5, 1.5, 0.5 * root3, -0.5])
    # Rounded by 0.1, the corner is that of a cube of half side 0.4, 0.1 nearer.
    check(sdf.box(at, (0, 0, 0), (0.5, 0.5, 0.5), 0.1), [0.5, 1.5, 0.6 * root3 - 0.1, -0.5])
    check(sdf.capsule(at, (0, 0, 0), (0, 1, 0), 0.25), [0.75, 0.75, root2 - 0.25, -0.25])
    # About y: (1, 1, 1) is sqrt 2 off the axis and 0.5 above the lid; the rim is at (0.5, 0.5).
    check(
        sdf.cylinder(at, (0, 0, 0), 0.5, 0.5, 1, 0.0),
        [0.5, 1.5, math.hypot(root2 - 0.5, 0.5), -0.5],
    )
    # (0, 2, 0) over radii (1, 0.5, 1) has length 4, and the least radius is 0.5.
    check(
        sdf.ellipsoid(at, (0, 0, 0), (1, 0.5, 1)),
        [0.0, 1.5, 0.5 * (math.sqrt(1 + 4 + 1) - 1), -0.5],
    )
    # Two faces x <= 0.2 and y <= 0.2: on their edge the log of a sum of two equal terms is rho log
    # 2.
    corner = sdf.faces(((2, 0, 0), (0.2, 0, 0)), ((0, 1, 0), (0, 0.2, 7)))
    heights = sdf.planes(at.new_tensor([[0.2, 0.2, 0.0]]), *corner)
    check(sdf.polyhedron(heights, 0.1), [0.1 * math.log(2)])
    # Equal values 0.3: the union bulges by a quarter of the width; a tool on the surface leaves a
    # fillet as deep.
    same = at.new_full((1,), 0.3)
    check(sdf.smooth_union(same, same, 0.2), [0.3 - 0.2 / 4])
    check(sdf.subtraction(same, -same, 0.2), [0.3 + 0.2 / 4])


def test_smooth_combinations_are_the_sharp_ones_away_from_the_seam() -> None:
    first = torch.tensor([0.1, 0.9])
    second = torch.tensor([0.8, 0.2])
    assert torch.equal(sdf.smooth_union(first, second, 0.5), torch.minimum(first, second))
    assert torch.equal(sdf.subtraction(first, -second, 0.5), torch.maximum(first, second))


# ---------------------------------------------------------------- ray-casting


def test_a_sphere_is_hit_where_algebra_says() -> None:
    r"""For |o + t d| = r the first root is t = -o.d - sqrt((o.d)^2 - |o|^2 + r^2)."""
    eyes = torch.nn.functional.normalize(points(2000, "eyes"), dim=-1) * 2.5
    aims = torch.nn.functional.normalize(points(2000, "aims", reach=0.7) - eyes, dim=-1)
    along = -(eyes * aims).sum(-1)
    square = along.square() - 2.5**2 + 0.5**2
    cast = raycast(ball(), eyes, aims, NEAR, FAR)
    # A chord of less than the least step, 2 sqrt(square) < 0.004, may be missed; nothing else, and
    # nothing is made up.
    assert not bool((cast.hit & (square <= 0)).any())
    assert bool(cast.hit[square > 0.002**2].all())
    expected = along - square.clamp(min=0).sqrt()
    torch.testing.assert_close(cast.depth[cast.hit], expected[cast.hit], atol=2e-6, rtol=0)
    assert bool((cast.depth[~cast.hit] == FAR).all()) and not bool(cast.colour[~cast.hit].any())
    # Shading by hand: the normal of a sphere is the point over the radius.
    light = torch.nn.functional.normalize(torch.tensor(LIGHT, dtype=torch.float64), dim=0)
    lit = (((eyes + expected[:, None] * aims) / 0.5) @ light).clamp(min=0)
    shade = 0.5 * (AMBIENT + (1 - AMBIENT) * lit)
    torch.testing.assert_close(
        cast.colour[cast.hit], shade[cast.hit, None].expand(-1, 3), atol=1e-5, rtol=0
    )


def test_near_far_and_starting_inside() -> None:
    eye = torch.tensor([[0.0, 0.0, 2.5]])
    aim = torch.tensor([[0.0, 0.0, -1.0]])
    assert float(raycast(ball(), eye, aim, 1.0, 3.0).depth) == pytest.approx(2.0, abs=2e-6)
    assert not bool(raycast(ball(), eye, aim, 0.5, 1.9).hit), "the surface lies beyond far"
    assert float(raycast(ball(), eye, aim, 2.2, 3.0).depth) == pytest.approx(2.2), (
        "it starts inside"
    )
    for near, far in ((2.0, 1.0), (-1.0, 2.0), (1.0, math.inf)):
        with pytest.raises(InputError, match="near"):
            raycast(ball(), eye, aim, near, far)


def test_tracing_many_rays_equals_tracing_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block, blocks of 150, and of 40 (then every ray goes through the dense look at the
    end)."""
    origins, directions = (part.reshape(-1, 3) for part in rays(orbit(1, 2.5), 20, 20, 20))
    whole = raycast(SOLIDS[0], origins, directions, NEAR, FAR)
    for block in (150, 40):
        monkeypatch.setattr("tasks.data.shapes.raycast.RAYS_AT_ONCE", block)
        parts = raycast(SOLIDS[0], origins, directions, NEAR, FAR)
        assert int((parts.hit != whole.hit).sum()) <= 1, "but for a graze"
        both = parts.hit & whole.hit
        torch.testing.assert_close(parts.depth[both], whole.depth[both], atol=1e-5, rtol=0)


# ---------------------------------------------------------------- the objects


@ALL
def test_objects_are_safe_to_trace_and_inside_the_unit_sphere(solid: Solid) -> None:
    assert steepest(solid.sdf, solid.name) <= 1 + 1e-9
    # Nothing at the bounding sphere nor anywhere on a grid of rays beyond it.
    outwards = torch.nn.functional.normalize(points(1000, "shell"), dim=-1)
    for reach in (solid.radius, 1.1, 1.5, 3.0):
        assert float(solid.sdf(outwards * reach).min()) > max(0.0, reach - 1.2) * 0.1


@ALL
def test_hits_normals_and_symmetry(solid: Solid) -> None:
    at, depth, aims = surface(solid)
    assert len(at) > 100
    assert float(solid.sdf(at).abs().max()) < 1e-3  # far less: the last step is halved 12 times
    assert bool((solid.sdf(at - 0.01 * aims) > -1e-6).mean(dtype=torch.float64) > 0.99), (
        "seen from outside"
    )

    normal = sdf.normals(solid, at)
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones_like(depth))
    step = 1e-6 * torch.eye(3, dtype=at.dtype)
    slope = torch.stack(
        [(solid.sdf(at + way) - solid.sdf(at - way)) / 2e-6 for way in step], dim=-1
    )
    apart = (normal - torch.nn.functional.normalize(slope, dim=-1)).norm(dim=-1)
    assert float((apart < 1e-4).double().mean()) > 0.98, (
        "equal but for points within 1e-6 of a crease"
    )

    flipped = at * at.new_tensor((-1.0, 1.0, 1.0))
    assert torch.equal(solid.sdf(flipped), solid.sdf(at)) and torch.equal(
        solid.colour(flipped), solid.colour(at)
    )
    paint = solid.colour(at)
    assert float(paint.min()) >= 0 and float(paint.max()) <= 1 and len(paint.unique(dim=0)) >= 3


@pytest.mark.parametrize(("make", "kinds"), [(car, KINDS), (head, HAIRSTYLES)])
def test_a_number_names_one_object_for_good(
    make: Callable[[int], Solid], kinds: Iterable[str]
) -> None:
    at = points(500, "same").float()
    values = [make(number).sdf(at) for number in range(24)]
    assert torch.equal(make(7).sdf(at), values[7]) and torch.equal(
        make(7).colour(at), make(7).colour(at)
    )
    for number, value in enumerate(values):
        assert all(float((value - other).abs().max()) > 1e-3 for other in values[:number])
    names = {make(number).name.split("(")[1].rstrip(")") for number in range(60)}
    assert names == set(kinds), "every kind occurs"
    with pytest.raises(InputError, match="numbered from 0"):
        make(-1)


def test_cars_stand_on_their_wheels_and_point_along_z() -> None:
    for solid in SOLIDS[: len(KINDS)]:
        at, _, _ = surface(solid)
        width, height, length = (at.amax(0) - at.amin(0)).tolist()
        assert length > width > 0.3 and length > height > 0.2
        low = at[at[:, 1] < at[:, 1].min() + 0.02]
        assert bool((solid.colour(low).amax(-1) < 0.2).all()), "only tyres touch the ground"


# ---------------------------------------------------------------- cameras and pictures


def test_the_middle_of_the_picture_is_the_target() -> None:
    eye = torch.tensor([[1.0, 2.0, -3.0], [0.0, -1.0, 2.0]])
    target = torch.tensor([0.3, -0.2, 0.1])
    poses = look_at(eye, target)
    origins, directions = rays(
        poses, 20.0, 5, 7
    )  # odd sides: pixel (2, 3) has the optical axis at its centre
    torch.testing.assert_close(
        directions[:, 2, 3], torch.nn.functional.normalize(target - eye, dim=-1)
    )
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, 5, 7))
    assert torch.equal(origins[:, 4, 0], eye)
    rotation = poses[:, :3, :3]
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(2))
    assert bool((rotation[:, 1, 0].abs() < 1e-6).all()) and bool((rotation[:, 1, 1] > 0).all()), (
        "level and upright"
    )


def test_a_known_point_is_seen_in_its_pixel() -> None:
    r"""A camera at (0, 0, 2) looks along -z with focal 10: (0.55, 0.35, 0) is 2 ahead, so it lands
    at column 4 + 10 * 0.55 / 2 = 6.75 and row 3 - 10 * 0.35 / 2 = 1.25 of an 8 x 6 picture: pixel
    (1, 6)."""
    solid = ball(0.05, (0.55, 0.35, 0.0))
    pose = look_at(torch.tensor([[0.0, 0.0, 2.0]]))
    torch.testing.assert_close(pose[0, :3, :3], torch.eye(3))
    # Its radius is 10 * 0.05 / 2 = 0.25 px; the centre of pixel (1, 6) is (1.5, 6.5): sqrt(2) / 4
    # away, so only the quarter centred at (1.25, 6.75) sees it.
    once, four = (
        render(solid, pose, 10.0, 6, 8, 1.0, 3.0, samples=samples).masks for samples in (1, 4)
    )
    assert once is not None and four is not None
    assert not bool(once.any()) and four.nonzero().tolist() == [[0, 1, 6]]
    direction = rays(pose, 20.0, 12, 16)[1][0, 2, 13]
    torch.testing.assert_close(
        direction, torch.nn.functional.normalize(torch.tensor([0.55, 0.35, -2.0]), dim=0)
    )


def test_orbits_and_spheres_keep_their_distance_and_elevation() -> None:
    poses = orbit(8, 2.5, 30.0)
    eyes = poses[:, :3, 3]
    torch.testing.assert_close(eyes.norm(dim=-1), torch.full((8,), 2.5))
    torch.testing.assert_close(eyes[:, 1], torch.full((8,), 2.5 * 0.5))  # sin 30 = 1/2
    level = 2.5 * math.sqrt(3) / 2
    torch.testing.assert_close(eyes[0], torch.tensor([0.0, 1.25, level]))
    torch.testing.assert_close(
        eyes[2], torch.tensor([level, 1.25, 0.0]), atol=1e-6, rtol=0
    )  # a quarter turn to +x

    eyes = on_sphere(4000, 1.3, generator("test", "sphere"), -10.0, 50.0)[:, :3, 3]
    torch.testing.assert_close(eyes.norm(dim=-1), torch.full((4000,), 1.3))
    low, high = (math.sin(math.radians(angle)) for angle in (-10, 50))
    heights = eyes[:, 1] / 1.3
    assert low - 1e-6 <= float(heights.min()) and float(heights.max()) <= high + 1e-6
    # Uniform by area is uniform in height (Archimedes); the mean of 4,000 has error (high - low) /
    # sqrt(12 * 4000).
    assert float(heights.mean()) == pytest.approx(
        (low + high) / 2, abs=4 * (high - low) / math.sqrt(12 * 4000)
    )
    assert torch.equal(on_sphere(3, 1.0, generator("a")), on_sphere(3, 1.0, generator("a")))


@pytest.mark.parametrize("background", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("samples", [1, 4])
def test_pictures_are_in_range_on_an_exact_background(background: float, samples: int) -> None:
    views = render(SOLIDS[1], orbit(2, 2.5), 24.0, 16, 20, NEAR, FAR, background, samples)
    assert (
        views.images.shape == (2, 16, 20, 3)
        and views.poses.shape == (2, 4, 4)
        and views.focal == 24.0
    )
    assert views.masks is not None and views.masks.shape == (2, 16, 20)
    assert 0.05 < float(views.masks.double().mean()) < 0.9
    assert float(views.images.min()) >= 0 and float(views.images.max()) <= 1
    assert bool((views.images[~views.masks] == torch.tensor(background)).all())


def test_a_point_looks_the_same_from_everywhere() -> None:
    """No view dependence: where two cameras see the same point of a matt solid they see the same
    colour."""
    solid = SOLIDS[-1]
    target = surface(SOLIDS[-1])[0]
    colours = []
    for turn in (0.0, 0.05):
        away = torch.nn.functional.normalize(sdf.normals(solid, target) + turn, dim=-1)
        cast = raycast(solid, target + 0.05 * away, -away, 0.0, 0.1)
        colours.append(
            torch.where((cast.depth - 0.05).abs()[:, None] < 1e-5, cast.colour, torch.nan)
        )
    both = colours[0].isfinite() & colours[1].isfinite()
    assert float(both.double().mean()) > 0.8
    assert float((colours[0] - colours[1])[both].abs().median()) < 1e-4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: look_at(torch.tensor([0.0, 2.0, 0.0])),
        lambda: look_at(torch.zeros(3)),
        lambda: on_sphere(1, 2.0, generator("x"), 50.0, 10.0),
        lambda: on_sphere(1, 2.0, generator("x"), 0.0, 90.0),
        lambda: orbit(4, 0.0),
        lambda: orbit(4, 2.0, 90.0),
        lambda: render(SOLIDS[0], orbit(1, 2.5), 8.0, 8, 8, NEAR, FAR, samples=2),
        lambda: render(SOLIDS[0], orbit(1, 2.5), 8.0, 8, 8, NEAR, FAR, background=2.0),
    ],
)
def test_what_makes_no_picture_is_refused_with_a_remedy(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        wrong()
    assert caught.value.remedy
