"""Empty space: hulls hold what they must, and leaving samples out is exactly the field that is
empty there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from strategies.local.meta import Meta
from tasks.data.cameras import Views, on_sphere, rays
from tasks.derivatives import Autograd
from tasks.errors import InputError
from tasks.fields.hashgrid import HashGrid
from tasks.fields.radiance import Radiance, RadianceDerivatives, Space
from tasks.nerf import NerfTask, signal_of
from tasks.render.hull import Hull, carve
from tasks.render.marching import NOTHING, Sparse, all_points, collect, spread
from tasks.settings import DataSettings, EvaluationSettings, FieldSettings, TaskSettings
from tasks.types import Batch, Episode

SPACE = Space(near=1.0, far=3.0, samples=7, background=0.25)
FIELD = Radiance(SPACE, width=6, depth=2, frequencies=3, max_frequency=2.0)
GRID = HashGrid(SPACE, width=6, levels=3, table=5)


def bounded(
    clients: int, count: int, seed: int = 0, nearest: float = 1.2, farthest: float = 2.8
) -> Tensor:
    """Rays ``[C, B, 9]`` with random bounds; about a quarter meet nothing."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.rand(clients, count, 6, generator=draw, dtype=torch.float64)
    origin = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64).expand(clients, count, 3)
    direction = torch.nn.functional.normalize(numbers[..., :3] - 0.5 - origin, dim=-1)
    ends = (nearest + (farthest - nearest) * numbers[..., 3:5]).sort(-1).values
    nowhere = (numbers[..., 5:] < 0.25) & (nearest > SPACE.near)
    ends = torch.where(nowhere, ends.new_tensor([SPACE.far, SPACE.near]), ends)
    offset = torch.rand(clients, count, 1, generator=draw, dtype=torch.float64)
    return torch.cat([origin, direction, ends, offset], -1)


def batch_of(clients: int, count: int, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(100 + seed)
    return Batch(
        bounded(clients, count, seed),
        torch.rand(clients, count, 3, generator=draw, dtype=torch.float64),
    )


def everywhere(rays_: Tensor) -> Tensor:
    """The same rays without bounds ``[C, B, 7]``."""
    return torch.cat([rays_[..., :6], rays_[..., 8:]], -1)


def masked(field: Radiance | HashGrid, params: Tensor, inputs: Tensor) -> Tensor:
    """Colours of a field made empty outside each ray's bounds, every sample evaluated: the oracle
    ``[C, B, 3]``."""
    plain = everywhere(inputs)
    points = all_points(plain, SPACE.near, SPACE.far, SPACE.samples).flatten(1, 2)
    if isinstance(field, Radiance):
        raw = field.network(params, field.features(points))
    else:
        features = field.features_of(field.layout.unflatten(params)["tables"], points)
        raw = field.network(params[:, field.layout.size - field.network.layout.size :], features)
    t = SPACE.near + (torch.arange(SPACE.samples) + inputs[..., 8:]) * SPACE.spacing
    inside = (t >= inputs[..., 6:7]) & (t <= inputs[..., 7:8])
    raw = raw.unflatten(1, inside.shape[1:])
    return SPACE.colours(torch.where(inside[..., None], raw, torch.full_like(raw, -200.0)))


def params_of(field: Radiance | HashGrid, clients: int) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return 3 * torch.stack([field.init(draw) for _ in range(clients)]).double()


# ---------------------------------------------------------------- what is left out
@pytest.mark.parametrize("field", [FIELD, GRID], ids=["fourier", "hash"])
def test_leaving_samples_out_is_the_field_that_is_empty_there(field: Radiance | HashGrid) -> None:
    params = params_of(field, 3)
    batch = batch_of(3, 11)
    oracle = masked(field, params, batch.inputs)
    torch.testing.assert_close(field(params, batch.inputs), oracle, rtol=1e-12, atol=1e-12)
    error = (oracle - batch.targets).square().mean((1, 2))
    torch.testing.assert_close(field.loss(params, batch), error, rtol=1e-12, atol=1e-12)
    marched = field.prepare(batch)
    assert isinstance(marched, Sparse) and marched.points.shape[1] < 11 * SPACE.samples / 2
    everything = field.loss(params, Batch(everywhere(batch.inputs), batch.targets))
    assert not torch.allclose(everything, error, rtol=1e-3), "the bounds must matter"


def test_derivatives_on_kept_samples_equal_autograd_through_all() -> None:
    params = params_of(FIELD, 3)
    batch = batch_of(3, 11)

    def loss(point: Tensor, given_: Batch) -> Tensor:
        return (masked(FIELD, point, given_.inputs) - given_.targets).square().mean((1, 2))

    mine = RadianceDerivatives(FIELD).linearise(params, batch)
    oracle = Autograd(loss).linearise(params, batch)
    direction = torch.randn(
        params.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    torch.testing.assert_close(mine.loss, oracle.loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.gradient, oracle.gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mine.hvp(direction), oracle.hvp(direction), rtol=1e-9, atol=1e-12)


@given(count=st.integers(1, 9), seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_bounds_that_hold_everything_change_nothing(count: int, seed: int) -> None:
    params = params_of(FIELD, 2)
    batch = batch_of(2, count, seed)
    wide = batch.inputs.clone()
    wide[..., 6:8] = wide.new_tensor([SPACE.near, SPACE.far])
    kept = RadianceDerivatives(FIELD).gradient(params, Batch(wide, batch.targets))
    dense = RadianceDerivatives(FIELD).gradient(params, Batch(everywhere(wide), batch.targets))
    for ours, reference in zip(kept, dense, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


def test_clients_are_padded_to_each_other_and_do_not_see_each_other() -> None:
    """A meta-step of three clients, one of which meets nothing at all, is that of each alone."""
    params = params_of(FIELD, 3)
    batches = [batch_of(3, 6, seed) for seed in range(3)]
    for batch in batches:
        batch.inputs[1, :, 6:8] = batch.inputs.new_tensor([SPACE.far, SPACE.near])
    learner = Meta(2, 0.5, 0.1, 1.0, gamma=0.75)
    derivatives = RadianceDerivatives(FIELD)
    prepared = [FIELD.prepare(batch) for batch in batches]
    together = learner.step(derivatives, params, Episode(prepared[:-1], prepared[-1]))
    for client in range(3):
        own = [
            FIELD.prepare(Batch(*(part[client : client + 1] for part in batch)))
            for batch in batches
        ]
        alone = learner.step(derivatives, params[client : client + 1], Episode(own[:-1], own[-1]))
        torch.testing.assert_close(
            together.gradient[client], alone.gradient[0], rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(
            together.objective[client], alone.objective[0], rtol=1e-9, atol=1e-12
        )
    assert not together.gradient[1].any() and together.gradient[0].any()


def test_collecting_is_the_transpose_of_spreading() -> None:
    marched = FIELD.space.march(batch_of(2, 5))
    assert isinstance(marched, Sparse)
    x = torch.randn(*marched.points.shape[:2], 4, dtype=torch.float64)
    x[marched.slot == marched.source[0].numel()] = 0  # padding stands for nothing
    y = torch.randn(*marched.source.shape, 4, dtype=torch.float64)
    y[marched.source == marched.points.shape[1]] = 0
    torch.testing.assert_close(
        (spread(x, marched.source, 0.0) * y).sum(), (x * collect(y, marched.slot)).sum()
    )
    assert math.log1p(math.exp(NOTHING)) < 1e-17


# ---------------------------------------------------------------- hulls
def sphere_views(radius: float, count: int, side: int = 40) -> Views:
    """Silhouettes of a ball around the origin: a pixel is covered if its ray passes within
    ``radius``."""
    poses = on_sphere(count, 3.0, torch.Generator().manual_seed(0), -60.0, 60.0)
    focal = 0.9 * side
    origins, directions = rays(poses, focal, side, side)
    closest = torch.linalg.cross(origins, directions, dim=-1).norm(dim=-1)
    masks = closest < radius
    images = torch.where(masks[..., None], 0.2, 1.0).expand(-1, -1, -1, 3).contiguous()
    return Views("ball", images, poses, focal, 1.8, 4.2, 1.0, masks)


def test_a_hull_holds_its_object_and_little_more() -> None:
    views = sphere_views(0.6, 12, side=80)
    hull = carve(views.masks, views.poses, views.focal, 1.2, cells=48)
    draw = torch.Generator().manual_seed(1)
    points = torch.nn.functional.normalize(torch.randn(2000, 3, generator=draw), dim=-1)
    inside = (
        points * torch.rand(2000, 1, generator=draw) ** (1 / 3) * (0.6 - 0.04)
    )  # a pixel is 0.04 wide there
    assert hull.holds(inside).all()
    assert not hull.holds(points * 0.85).any()
    volume = float(hull.occupied.double().mean()) * 2.4**3
    assert 1 < volume / (4 / 3 * math.pi * 0.6**3) < 2
    moved = carve(views.masks, views.poses.roll(1, 0), views.focal, 1.2, cells=48)
    lopsided = views.masks.clone()
    lopsided[0, :, :40] = False
    cut = carve(lopsided, views.poses, views.focal, 1.2, cells=48)
    assert moved.holds(inside).all(), "a ball looks alike from everywhere"
    assert not cut.holds(inside).all(), "a wrong silhouette must cost part of the object"


def test_bounds_of_a_ray_hold_its_chord() -> None:
    axis = torch.linspace(-1.2, 1.2, 65)
    centre = (axis[1:] + axis[:-1]) / 2
    x, y, z = torch.meshgrid(centre, centre, centre, indexing="ij")
    hull = Hull((x**2 + y**2 + z**2) < 0.7**2, 1.2)
    views = sphere_views(0.6, 3)
    origins, directions = (part.reshape(-1, 3) for part in rays(views.poses, views.focal, 40, 40))
    reach = hull.reach(torch.cat([origins, directions], -1), 1.8, 4.2)
    middle = -(origins * directions).sum(-1)
    squared = 0.6**2 - (origins + middle[:, None] * directions).square().sum(-1)
    hits = squared > 0
    half = squared.clamp(min=0).sqrt()
    assert (reach[hits, 0] <= (middle - half)[hits]).all() and (
        reach[hits, 1] >= (middle + half)[hits]
    ).all()
    misses = squared < 0.6**2 - 0.8**2
    assert misses.any() and (reach[misses] == torch.tensor([4.2, 1.8])).all()


@pytest.mark.parametrize("start", [-0.99, -0.95, -0.9, -0.85, -0.8, -0.76])
def test_bounds_reach_beyond_the_first_and_the_last_hit(start: float) -> None:
    """Along x through cells of side 0.5, of which [0, 0.5) is occupied, a look every 0.25 from
    ``start``: wherever the looks fall, all of the cell is inside, and no more than a step beyond
    it."""
    occupied = torch.zeros(4, 4, 4, dtype=torch.bool)
    occupied[2] = True
    ray = torch.tensor([[-3.0, 0.1, 0.1, 1.0, 0.0, 0.0]], dtype=torch.float64)
    (reach,) = Hull(occupied, 1.0).reach(ray, 3.0 + start, 3.0 + 0.9)
    nearest, farthest = (reach - 3.0).tolist()
    assert -0.25 <= nearest <= 1e-9 and 0.5 - 1e-9 <= farthest <= 0.5 + 0.25


def test_an_object_that_is_not_there_is_named() -> None:
    views = sphere_views(0.6, 4)
    nothing = Views(
        "ghost",
        views.images,
        views.poses,
        views.focal,
        1.8,
        4.2,
        1.0,
        torch.zeros_like(views.masks),
    )
    with pytest.raises(
        InputError, match=r"field.skip-empty.*ghost.*hull of the support views is empty"
    ):
        signal_of(nothing, DataSettings(support_views=3, query_views=1), cut=True)


def test_silhouettes_are_taken_from_the_background_where_none_came_along() -> None:
    views = sphere_views(0.6, 5)
    bare = Views("ball", views.images, views.poses, views.focal, 1.8, 4.2, 1.0, None)
    data = DataSettings(support_views=4, query_views=1)
    one = signal_of(views, data, cut=True)
    other = signal_of(bare, data, cut=True)
    assert (
        torch.equal(one.support.inputs, other.support.inputs) and one.support.inputs.shape[1] == 8
    )


def test_a_task_adapts_and_is_judged_on_kept_samples() -> None:
    """The whole way: data, episodes prepared once, evaluation, turntable."""
    given_ = TaskSettings(
        task="nerf",
        data=DataSettings(size=10, held_out=1, support_views=6, query_views=1),
        field=FieldSettings(width=8, depth=1, frequencies=2, samples=8, skip_empty=True),
        evaluation=EvaluationSettings(steps="0,4", rates="0.5", batch_size=16),
    )
    task = NerfTask(given_)
    episode = task.episodes([task.client_data(0)], [("k",)], 1, 2, 16, torch.device("cpu"))(0)
    assert isinstance(episode.query, Sparse) and isinstance(episode.support[0], Sparse)
    assert episode.query.points.shape[1] < 0.6 * 16 * 8
    found = task.evaluate(task.init(0), given_.evaluation, tune=True)
    assert found.metrics["psnr"]["4"] > 0 and found.videos["turntable"].frames.shape[:2] == (48, 10)


def ball_scene(parent: Path, near: float, far: float) -> None:
    """The ball as a folder, its cameras ``near`` + 1.2 away."""
    views = sphere_views(0.6, 6)
    poses = views.poses.clone()
    poses[:, :3, 3] *= (near + 1.2) / 3.0
    frames = []
    parent.mkdir(parents=True)
    for number, pose in enumerate(poses):
        grey = (255 * views.images[number]).round().byte().numpy()
        Image.fromarray(grey).save(parent / f"{number}.png")
        frames.append({"file_path": f"{number}.png", "transform_matrix": pose.tolist()})
    said = {"fl_x": views.focal, "near": near, "far": far, "frames": frames}
    (parent / "transforms.json").write_text(json.dumps(said), encoding="utf-8")


def test_objects_keep_near_and_far_of_their_own_in_the_space_of_a_run(tmp_path: Path) -> None:
    """Two objects seen from unlike distances: refused without a common space, by the keys that
    make one; with it each ray has points within its own object's limits and nowhere else."""
    ball_scene(tmp_path / "a", 1.8, 4.2)
    ball_scene(tmp_path / "b", 4.0, 6.4)

    def task(**space: float) -> NerfTask:
        data = DataSettings(
            path=str(tmp_path), size=10, held_out=1, support_views=4, query_views=2, **space
        )
        field = FieldSettings(width=8, depth=1, frequencies=2, samples=8)
        steps = EvaluationSettings(steps="0,4", rates="0.5", batch_size=16)
        return NerfTask(TaskSettings(task="nerf", data=data, field=field, evaluation=steps))

    for narrow, asked in ((task(), 1), (task(near=1.9, far=6.4), 0)):
        read = narrow.held_out if asked else lambda narrow=narrow: narrow.client_data(0)
        with pytest.raises(InputError, match=r"set data.near and data.far to 1.8 and 6.4"):
            read()
    with pytest.raises(InputError, match="needs both ends"):
        task(near=1.8)
    with pytest.raises(InputError, match=r"fewer than 4 fall between 1\.8 and 4\.2"):
        task(near=1.0, far=40.0).client_data(0)
    wide = task(near=1.8, far=6.4)
    for signal, (near, far) in (
        (wide.client_data(0).signals[0], (1.8, 4.2)),
        (wide.held_out()[0], (4.0, 6.4)),
    ):
        for ray in signal.support.inputs[::7]:
            assert float(ray[:3].norm()) == pytest.approx(near + 1.2, abs=1e-3)
            marched = wide.space.march(Batch(ray[None, None], torch.zeros(1, 1, 3)))
            assert isinstance(marched, Sparse)
            away = (marched.points[0] - ray[:3]).norm(dim=1)
            # strata of (6.4 - 1.8) / 8, looked at in their middles
            middles = 1.8 + 0.575 * (torch.arange(8) + 0.5)
            torch.testing.assert_close(away, middles[(middles >= near) & (middles <= far)])
    found = wide.evaluate(wide.init(0), wide.evaluation, tune=True)
    assert math.isfinite(found.metrics["psnr"]["4"])
