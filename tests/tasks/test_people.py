"""People made of a packed head: what is in it, that it is stable, and the rasteriser behind it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tasks.data.cameras import look_at, rays
from tasks.data.people.heads import FILE, head
from tasks.data.people.look import covered
from tasks.data.people.person import STYLES, person
from tasks.data.people.photograph import Portrait, photographs
from tasks.errors import InputError
from tasks.head.task import looking
from tasks.render.raster import pinhole, rasterise, vertex_normals


def sphere(rings: int, radius: float) -> tuple[Tensor, Tensor]:
    """Vertices and triangles of a sphere about the origin."""
    up = torch.linspace(0, math.pi, rings + 1)[:, None]
    around = torch.linspace(0, 2 * math.pi, 2 * rings + 1)[None, :-1]
    points = torch.stack(
        [up.sin() * around.sin(), up.cos().expand(-1, 2 * rings), up.sin() * around.cos()], -1
    ).reshape(-1, 3)
    index = torch.arange((rings + 1) * 2 * rings).view(rings + 1, 2 * rings)
    a, b = index[:-1], index[:-1].roll(-1, 1)
    c, d = index[1:], index[1:].roll(-1, 1)
    faces = torch.cat([torch.stack([a, c, b], -1), torch.stack([b, c, d], -1)])
    return radius * points, faces.reshape(-1, 3)


# ---------------------------------------------------------------------- rasteriser
def test_a_rasterised_sphere_is_the_analytic_one() -> None:
    """Depth and normals against |o + t d| = r; the outline to within a pixel."""
    vertices, faces = sphere(80, 0.5)
    size, focal = 96, 120.0
    pose = look_at(torch.tensor([0.7, 0.5, 1.6]))
    seen = rasterise(vertices, faces, pose, pinhole(focal, size, size), size, size)
    origins, directions = rays(pose[None], focal, size, size)
    middle = -(origins[0] * directions[0]).sum(-1)
    root = middle.square() - origins[0].square().sum(-1) + 0.25
    hit = root > 0
    distance = middle - root.clamp(min=0).sqrt()
    axis = -pose[:3, 2]
    depth = distance * (directions[0] @ axis)
    both = hit & seen.covered
    assert int((hit != seen.covered).sum()) < 0.03 * int(hit.sum())
    assert float((seen.depth - depth)[both].abs().median()) < 5e-4
    normals = seen.interpolate(faces, vertex_normals(vertices, faces))
    points = origins[0] + distance[..., None] * directions[0]
    true = torch.nn.functional.normalize(points, dim=-1)[seen.covered]
    inside = root[seen.covered] > 0.02  # not at the outline
    agreement = (torch.nn.functional.normalize(normals, dim=1) * true).sum(1)[inside]
    assert float(agreement.abs().min()) > 0.999


def test_a_pixel_by_hand_and_what_is_nearer_wins() -> None:
    """f = 100, axis at (30, 20): a point at x = .1, y = .2, 2 in front lies at (35, 10)."""
    intrinsics = torch.tensor([[100.0, 0, 30], [0, 100, 20], [0, 0, 1]])
    where = torch.tensor([0.1, 0.2, -2.0])
    tiny = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [0, 1.5, 0]])
    near, far = where + 0.011 * tiny, torch.tensor([0.1, 0.2, -2.0]) * 1.5 + 0.2 * tiny
    vertices = torch.cat([far, near])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    seen = rasterise(vertices, faces, torch.eye(4), intrinsics, 40, 60)
    own = (seen.triangle == 1).nonzero().float()
    assert len(own) and bool(((own + 0.5 - torch.tensor([10.0, 35.0])).abs() < 1).all())
    assert seen.triangle[20, 30 + 5] == 0 or bool((seen.triangle == 0).any())
    swapped = rasterise(vertices, faces.flip(0), torch.eye(4), intrinsics, 40, 60)
    assert torch.equal(seen.triangle == 1, swapped.triangle == 0), "the order of faces is nothing"
    weights = seen.weights[seen.covered].sum(1)
    assert torch.allclose(weights, torch.ones_like(weights), atol=1e-5)


def test_triangles_behind_the_camera_are_not_seen() -> None:
    vertices = torch.tensor([[-1.0, -1, 2], [1, -1, 2], [0, 1, 2]])
    seen = rasterise(
        vertices, torch.tensor([[0, 1, 2]]), torch.eye(4), pinhole(20.0, 16, 16), 16, 16
    )
    assert not bool(seen.covered.any())


# ---------------------------------------------------------------------- people
def test_the_pack_has_what_it_says() -> None:
    own = head()
    assert FILE.stat().st_size < 1_000_000
    assert own.base.shape == (len(own.part), 3) and int(own.faces.max()) < len(own.base)
    assert len(own.traits) >= 100 and len(own.asymmetries) >= 25 and len(own.units) == 52
    height = float(own.base[:, 1].max() - own.base[own.region("face") > 0.5, 1].min())
    assert 0.7 < height < 1.1, "about one head height"
    assert {0, 1, 2, 3} == set(own.part.tolist())


def test_left_and_right_are_tied_but_for_asymmetries() -> None:
    """The shape without asymmetry targets is its own mirror image, to a millimetre or so."""
    someone = person(3)
    even = {
        name: weight
        for name, weight in someone.weights.items()
        if not name.startswith("asym/") and "-in" not in name and "-out" not in name
    }
    from scipy.spatial import cKDTree

    skin = head().part == 0
    shape = head().shape(even)[skin].numpy()
    apart, _ = cKDTree(shape).query(shape * [-1, 1, 1])
    assert apart.mean() < 2e-3
    odd = head().shape(someone.weights)[skin].numpy()
    assert cKDTree(odd).query(odd * [-1, 1, 1])[0].mean() > 2 * apart.mean()


def test_people_are_stable_differ_and_keep_their_shape_in_every_style() -> None:
    one, again, other = person(1), person(1), person(2)
    assert one == again and torch.equal(one.shape(), again.shape())
    assert float((one.shape() - other.shape()).norm(dim=1).mean()) > 0.01
    short, long = person(1, "short"), person(1, "long")
    assert torch.equal(short.shape(), long.shape()) and short.hair != long.hair
    bases = [covered(each.hair, head().base, head().regions).sum() for each in (short, long)]
    assert bases[1] > 1.3 * bases[0]


def test_a_jaw_that_opens_lowers_the_chin_and_leaves_the_crown() -> None:
    someone = person(0)
    moved = (someone.shape({"jawOpen": 1.0}) - someone.shape())[head().part == 0]
    base = head().base[head().part == 0]
    chin = (base[:, 1] < -0.3) & (base[:, 2] > 0.2)
    assert float(moved[chin, 1].mean()) < -0.01
    assert float(moved[base[:, 1] > 0.3].abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("call", "key"),
    [
        (lambda: person(-1), "person"),
        (lambda: person(0, "bald"), "style"),
        (lambda: person(0).shape({"jawOpn": 1.0}), "expression"),
    ],
)
def test_people_that_are_none_are_refused(call, key: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.key == key


def test_photographs_are_lit_covered_and_the_same_again() -> None:
    portrait = Portrait.of(person(0))
    cameras = looking(torch.tensor([0.0, 180.0]), torch.tensor([5.0, 5.0]), 24)
    shots = photographs(portrait, cameras.poses, 1.9 * 24, 24)
    again = photographs(portrait, cameras.poses, 1.9 * 24, 24)
    assert torch.equal(shots.images, again.images)
    assert bool(((shots.images >= 0) & (shots.images <= 1)).all())
    assert 0.15 < float(shots.cover.mean()) < 0.6
    assert torch.equal(shots.images[shots.cover == 0], torch.ones(int((shots.cover == 0).sum()), 3))
    face, back = (image[cover == 1].mean(0) for image, cover in zip(*shots[:2], strict=True))
    assert float((face - back).abs().max()) > 0.05, "skin in front, hair behind"
    assert float(shots.images[1][shots.cover[1] == 1].mean()) > 0.02, "the back has light"
    assert set(STYLES) == {"short", "long", "mixed"}


def test_a_contact_sheet_is_drawn_and_nothing_is_overwritten(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from PIL import Image
    from typer.testing import CliRunner

    from fedapp.cli.main import app

    out = tmp_path / "people.png"
    command = ["portraits", str(out), "--count", "3", "--size", "16", "--json", "-"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert Image.open(out).size == (2 * 5 * 16, 2 * 16)
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, InputError)


def test_people_are_objects_of_radiance_fields() -> None:
    """A vertex at a scene's scale lies on the picture where the person is, and inside the sphere
    that rays are sampled in."""
    from tasks.data.people.photograph import Portrait
    from tasks.nerf import FAR, NEAR, PERSON, procedural
    from tasks.settings import DataSettings

    views = procedural(3, DataSettings(shape="people", size=24, support_views=2, query_views=1))
    assert views.masks is not None and views.images.shape == (3, 24, 24, 3)
    points = PERSON * Portrait.of(person(3)).vertices
    for pose, mask in zip(views.poses, views.masks, strict=True):
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        away = -local[:, 2]
        assert float(away.min()) > NEAR and float(away.max()) < FAR
        column = (local[:, 0] / away * views.focal + 12).floor().long()
        row = (12 - local[:, 1] / away * views.focal).floor().long()
        within = (row >= 0) & (row < 24) & (column >= 0) & (column < 24)
        assert float(mask[row[within], column[within]].float().mean()) > 0.97
        assert float(within.float().mean()) > 0.9 and 0.1 < float(mask.float().mean()) < 0.7


def test_visemes_move_the_mouth_and_nothing_else() -> None:
    from tasks.data.people.visemes import VISEMES, blended

    someone = person(3)
    still = someone.shape()
    places = head().base
    for name, units in VISEMES.items():
        assert set(units) <= set(head().units)
        moved = (someone.shape(units) - still).norm(dim=1)
        if name == "sil":
            assert moved.max() == 0
            continue
        assert moved.max() > 0.01
        # brows, eyes and scalp stay
        assert moved[places[:, 1] > 0.2].max() < 1e-6, name
    half = blended({"aa": 0.5, "sil": 0.5})
    assert half == {"jawOpen": 0.325}
    assert blended({"aa": 2.0}) == {"jawOpen": 1.0}
