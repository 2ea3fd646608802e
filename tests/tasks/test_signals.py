"""Signals: who gets what, which samples are drawn from where, few-shot views."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import layout_kit
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privacy.attacks.render import render_attack
from strategies.local.meta import Meta
from strategies.uploads import scores
from tasks import TASKS
from tasks.data.cameras import PixelRays, Views, on_sphere, rays
from tasks.data.deal import objects_of, share
from tasks.errors import InputError
from tasks.fitting import FieldTask
from tasks.image import ImageTask
from tasks.nerf import NerfTask, procedural, rays_of
from tasks.registry import load
from tasks.settings import DataSettings, EvaluationSettings, FieldSettings, TaskSettings
from tasks.signals import Lattice, compact, real
from tasks.types import Trainable
from tasks.video import VideoTask

CPU = torch.device("cpu")
BATCHES = EvaluationSettings(batch_size=16)
TINY = FieldSettings(width=8, depth=1, samples=4, frequencies=3, max_frequency=2.0)


def nerf(**data: object) -> NerfTask:
    given_ = {"size": 8, "held_out": 1, "support_views": 2, "query_views": 1, **data}
    task = NerfTask(
        TaskSettings(task="nerf", data=DataSettings(**given_), field=TINY, evaluation=BATCHES)
    )
    task.prepared = lambda batches: FieldTask.prepared(task, batches)  # rays as drawn
    return task


def video(**data: object) -> VideoTask:
    given_ = {"size": 8, "held_out": 1, "frames": 3, **data}
    return VideoTask(TaskSettings(task="video", data=DataSettings(**given_), field=TINY))


@pytest.mark.parametrize("task", [nerf(), video()], ids=["nerf", "video"])
def test_they_are_tasks_that_render(task: object) -> None:
    assert isinstance(task, Trainable) and task.renders


# ---------------------------------------------------------------- who gets what
@given(st.integers(1, 5), st.sampled_from([0.0, 0.5, 1.0, 10.0]))
def test_no_object_has_two_owners_and_none_is_skipped(mean: int, alpha: float) -> None:
    held = [objects_of(client, mean, alpha) for client in range(12)]
    assert [number for numbers in held for number in numbers] == list(range(held[-1].stop))
    assert all(len(numbers) >= 1 for numbers in held)


def test_the_last_of_many_clients_may_be_asked_for_first() -> None:
    assert objects_of(5000, 2, 0.7).start == objects_of(4999, 2, 0.7).stop > 5000


def test_a_small_concentration_skews_more() -> None:
    """Shares of Dirichlet(alpha) have a relative variance of about 1 / alpha."""
    spread = {}
    for alpha in (0.1, 0.5, 5.0):
        counts = torch.tensor([float(share(10_000, alpha, 0, "t", c)) for c in range(1000)])
        assert float(counts.mean()) == pytest.approx(10_000, rel=0.35)
        spread[alpha] = float((counts / counts.mean()).var())
    assert spread == pytest.approx({0.1: 10.0, 0.5: 2.0, 5.0: 0.2}, rel=0.35)
    assert share(4, 0.5, 3, "capped") <= 3


def test_a_client_weighs_as_much_as_it_has_views() -> None:
    task = nerf(support_views=8, views_alpha=0.5)
    holdings = [task.client_data(client) for client in range(6)]
    for holding in holdings:
        assert holding.examples == len(holding.signals[0].support) // 64, "64 pixels a view"
    assert len({holding.examples for holding in holdings}) > 1


# ---------------------------------------------------------------- what is drawn
def test_support_and_query_rays_come_from_different_views() -> None:
    task = nerf()
    holding = task.client_data(0)
    episode = task.episodes([holding], [("b", 0)], 2, 3, 20, CPU)(1)
    signal = holding.signals[0]
    support, query = (
        {tuple(row) for row in part.inputs.tolist()} for part in (signal.support, signal.query)
    )
    for batch in episode.support:
        assert {tuple(row[:6]) for row in batch.inputs[0].tolist()} <= support
    assert {tuple(row[:6]) for row in episode.query.inputs[0].tolist()} <= query
    assert not support & query
    offsets = torch.cat([batch.inputs[..., 6] for batch in episode.support])
    assert offsets.min() >= 0 and offsets.max() < 1 and offsets.std() > 0.1


def test_colours_stay_with_their_rays() -> None:
    task = nerf()
    samples = task.client_data(1).signals[0].support
    known = {
        tuple(ray): colour
        for ray, colour in zip(samples.inputs.tolist(), samples.values.tolist(), strict=True)
    }
    batch = task.episodes([task.client_data(1)], [("b", 1)], 1, 1, 30, CPU)(0).support[0]
    for ray, colour in zip(batch.inputs[0].tolist(), batch.targets[0].tolist(), strict=True):
        assert known[tuple(ray[:6])] == colour


def test_a_step_looks_at_one_object_and_all_get_their_turn() -> None:
    task = nerf(objects=3)
    holding = task.client_data(0)
    owner = {
        tuple(ray): i
        for i, s in enumerate(holding.signals)
        for part in (s.support, s.query)
        for ray in part.inputs.tolist()
    }
    episodes = task.episodes([holding], [("b", 0)], 12, 2, 5, CPU)
    seen = set()
    for step in range(12):
        batches = [*episodes(step).support, episodes(step).query]
        owners = {owner[tuple(ray[:6])] for batch in batches for ray in batch.inputs[0].tolist()}
        assert len(owners) == 1
        seen |= owners
    assert seen == {0, 1, 2} and (holding.units, holding.examples) == (3, 6), (
        "three objects, two views each"
    )


@pytest.mark.parametrize("task", [nerf(objects=2), video(objects=2)], ids=["nerf", "video"])
def test_draws_depend_neither_on_the_cohort_nor_on_how_many_steps_there_are(task: NerfTask) -> None:
    pair = [task.client_data(0), task.client_data(1)]
    both = task.episodes(pair, [("b", 0), ("b", 1)], 7, 1, 5, CPU)(2)
    alone = task.episodes(pair[1:], [("b", 1)], 3, 1, 5, CPU)(2)
    assert torch.equal(both.query.targets[1], alone.query.targets[0])
    assert torch.equal(both.support[0].inputs[1], alone.support[0].inputs[0])


def test_steps_are_the_same_however_many_are_looked_up_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = nerf(objects=2)
    holding = task.client_data(0)
    whole = [("b", 0)]
    together = task.episodes([holding], whole, 7, 2, 5, CPU)
    monkeypatch.setattr("tasks.fitting.SAMPLES_HELD", 2 * 3 * 5)  # two steps
    apart = task.episodes([holding], whole, 7, 2, 5, CPU)
    for step in (0, 3, 6, 1):
        pairs = zip(
            [*together(step).support, together(step).query],
            [*apart(step).support, apart(step).query],
            strict=True,
        )
        assert all(torch.equal(*parts) for pair in pairs for parts in zip(*pair, strict=True))


# ---------------------------------------------------------------- how samples are kept
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_a_lattice_is_the_grid_of_its_axes(shape: list[int]) -> None:
    axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape]
    listed = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    places = Lattice(tuple(shape))
    assert len(places) == len(listed) and torch.equal(places[torch.arange(len(listed))], listed)
    some = torch.randint(len(listed), (2, 3))
    assert torch.equal(places[some], listed[some])


def test_only_what_loses_nothing_is_kept_as_bytes() -> None:
    photograph = torch.arange(256, dtype=torch.float32) / 255
    assert compact(photograph).dtype == torch.uint8 and torch.equal(
        real(compact(photograph)), photograph
    )
    between = photograph + 1e-6
    assert compact(between) is between
    assert compact(photograph + 1).dtype == torch.float32, "what leaves the range is not cut"


def test_a_ray_looked_up_is_that_of_its_pixel() -> None:
    poses = on_sphere(3, 2.5, torch.Generator().manual_seed(0))
    places = PixelRays(poses, 11.0, 4, 6)
    listed = torch.cat(rays(poses, 11.0, 4, 6), -1).reshape(-1, 6)
    assert len(places) == len(listed) == 72
    index = torch.randint(72, (5, 7))
    torch.testing.assert_close(places[index], listed[index], rtol=0, atol=1e-6)
    reach = torch.rand(72, 2)
    assert torch.equal(replace(places, reach=reach)[index][..., 6:], reach[index])


def test_a_photographed_object_costs_three_bytes_a_pixel() -> None:
    picture = (torch.rand(2, 5, 5, 3) * 255).round() / 255
    views = Views(
        "v", picture, on_sphere(2, 2.5, torch.Generator().manual_seed(0)), 5.0, 2.0, 4.0, 1.0, None
    )
    samples = rays_of(views, torch.arange(2))
    assert samples.stored.dtype == torch.uint8 and samples.stored.nbytes == 3 * 50
    assert torch.equal(samples.values, picture.reshape(-1, 3)) and not isinstance(
        samples.places, torch.Tensor
    )


# ---------------------------------------------------------------- what is shown
def test_uploads_render_to_every_query_view() -> None:
    task = nerf(objects=2)
    cohort = [task.client_data(0), task.client_data(1)]
    rendered = task.render(torch.stack([task.init(0), task.init(1)]), cohort)
    assert (
        [image.shape for image in rendered]
        == [data.truth.shape for data in cohort]
        == [(2, 1, 8, 8, 3)] * 2
    )


def test_objects_are_the_same_everywhere_and_differ() -> None:
    data = DataSettings(size=8, support_views=2, query_views=1)
    assert torch.equal(procedural(3, data).images, procedural(3, data).images)
    assert not torch.equal(procedural(3, data).images, procedural(4, data).images)
    heads = procedural(3, data.model_copy(update={"shape": "heads"}))
    assert heads.images.shape == (3, 8, 8, 3) and heads.name != procedural(3, data).name


def test_a_turntable_shows_the_object_before_and_after() -> None:
    task = nerf()
    found = task.evaluate(
        task.init(0), EvaluationSettings(steps="0,2", batch_size=16, rate=1.0, rates="1"), tune=True
    )
    frames = found.videos["turntable"].frames
    assert frames.shape[0] == 48 and frames.shape[2] == 3 * 8 + 2 * 4
    assert found.metrics["psnr"].keys() == {"0", "2"} and found.metrics["psnr_floor_held_out"] > 5


# ---------------------------------------------------------------- own data
TASKS_OF = {
    "shapenet": ("nerf", layout_kit.shapenet),
    "facescape": ("nerf", layout_kit.facescape),
    "transforms": ("nerf", layout_kit.transforms),
    "petface": ("image", layout_kit.petface),
    "golfdb": ("video", lambda root: layout_kit.golfdb(root, used=False)),
    "clips": ("video", layout_kit.clips),
}


@pytest.mark.parametrize("layout", TASKS_OF)
def test_own_data_in_every_layout_trains_and_is_judged(tmp_path: Path, layout: str) -> None:
    name, build = TASKS_OF[layout]
    build(tmp_path)
    views = {"support_views": 1, "query_views": 1}
    data = DataSettings(path=str(tmp_path), size=8, held_out=1, frames=2, **views)
    task = load("task", name, TASKS)(
        TaskSettings(task=name, data=data, field=TINY, evaluation=BATCHES)
    )
    task.check(1)
    holding = task.client_data(0)
    episode = task.episodes([holding], [("b", 0)], 1, 1, 4, CPU)(0)
    step = Meta(1, 0.01, 5.0, 0.01).step(task.derivatives, task.init(0)[None], episode)
    assert torch.isfinite(step.gradient).all() and step.gradient.abs().max() > 0
    assert task.render(task.init(0)[None], [holding])[0].shape == holding.truth.shape
    found = task.evaluate(task.init(0), EvaluationSettings(steps="0,1", batch_size=4), tune=False)
    assert found.metrics["psnr"]["1"] is not None
    with pytest.raises(InputError, match="too few") as caught:
        task.check(50)
    assert caught.value.key == "data.path" and caught.value.remedy


def test_data_for_another_task_are_refused(tmp_path: Path) -> None:
    layout_kit.shapenet(tmp_path)
    data = DataSettings(path=str(tmp_path), layout="shapenet")
    with pytest.raises(InputError, match="holds views, this task fits pictures") as caught:
        ImageTask(TaskSettings(data=data))
    assert "nerf" in caught.value.remedy


def test_too_few_views_and_a_missing_folder_have_their_errors(tmp_path: Path) -> None:
    layout_kit.shapenet(tmp_path)
    with pytest.raises(InputError, match="views are too few") as caught:
        nerf(path=str(tmp_path), support_views=5, query_views=5).check(1)
    assert "data.support-views" in caught.value.remedy
    with pytest.raises(InputError) as caught:
        nerf(path=str(tmp_path / "nothing"))
    assert caught.value.key == "data.path"


def test_objects_with_other_bounds_are_refused(tmp_path: Path) -> None:
    layout_kit.scene(tmp_path / "a", near=1.0, far=5.0)
    layout_kit.scene(tmp_path / "b", near=2.0, far=12.0)
    with pytest.raises(InputError, match=r"near and far are 2\.0 and 12\.0") as caught:
        nerf(path=str(tmp_path), support_views=1, query_views=1).check(1)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: nerf(layout="shapenet").check(1), "data.path"),
        (lambda: video(frames=0), "data.frames"),
        (lambda: video(size=0), "data.size"),
        (
            lambda: ImageTask(TaskSettings(data=DataSettings(size=0, objects=2))).check(2),
            "data.size",
        ),
        (
            lambda: NerfTask(TaskSettings(data=DataSettings(size=8), field=TINY)).check(1),
            "evaluation.batch-size",
        ),
    ],
    ids=["a layout without a folder", "no frames", "no size", "mixed sizes", "all rays at once"],
)
def test_what_cannot_be_made_is_refused_before_work(build: Callable[[], object], key: str) -> None:
    with pytest.raises(InputError) as caught:
        build()
    assert caught.value.key == key and caught.value.remedy


def test_clips_of_one_client_must_be_equally_long(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 5)):
        for frame in range(count):
            layout_kit.paint(tmp_path / "ann" / name / f"{frame}.png")
    layout_kit.clips(tmp_path / "other")
    (tmp_path / "other" / "ben").rename(tmp_path / "ben")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(InputError, match="differ in length"):
        video(path=str(tmp_path), objects=2, frames=0, layout="clips").check(1)


def test_each_signal_of_a_client_is_scored_on_its_own() -> None:
    """Two pictures, black and white, each matched by its own constant colour: not one grey card
    for both."""
    both = torch.stack([torch.zeros(4, 4, 1), torch.ones(4, 4, 1)])
    apart, together = (scores(render_attack, [both], [both], [parts]) for parts in (2, 1))
    assert apart["psnr_floor"] == [100.0] and together["psnr_floor"][0] == pytest.approx(
        6.02, abs=0.01
    )
