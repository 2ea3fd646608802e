"""Radiance fields: a client holds a few views of an object, or of several, and fits a field that
renders to them.

As in the 3-D experiments of FedMeNF (https://arxiv.org/abs/2508.06301): the field adapts on rays of
the support views and is judged on rays of the query views, which it has not seen. Default objects
are procedural cars, heads or people; ``data.path`` takes ShapeNet in the learnit layout, FaceScape,
and folders with a ``transforms.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tasks.adaptation import Adaptation
from tasks.data.cameras import PixelRays, Views, on_sphere, orbit
from tasks.data.deal import share
from tasks.data.layouts import DatasetLayout, Holder
from tasks.data.pictures import beside
from tasks.data.shapes.sdf import Solid
from tasks.data.sources import UNSEEN, DatasetFolder, Procedural
from tasks.derivatives import Autograd, chosen
from tasks.errors import InputError
from tasks.fields.hashgrid import HashGrid
from tasks.fields.radiance import Radiance, RadianceDerivatives, Space, prepare_each
from tasks.fitting import FieldTask, Source
from tasks.randomness import generator
from tasks.render.hull import Hull, carve
from tasks.settings import DataSettings, EvaluationSettings, TaskSettings
from tasks.signals import Samples, Signal, compact
from tasks.types import Batch, Evaluation, Video

# Cameras of procedural objects, which lie within the unit sphere.
RADIUS = 3.2
NEAR = 2.0
FAR = 4.4
PERSON = 1.5  # units of a scene in a head height: people with their hair fill the unit sphere
FIELD_OF_VIEW = 0.72  # picture side over focal length
TURN = 48  # frames of a turntable: two seconds
FEWEST = 4  # samples of a ray between an object's own limits
HULL_SHARE = 0.3  # of all samples, about how many lie in the visual hull of a few views


def rays_of(views: Views, chosen: torch.Tensor) -> Samples:
    """All pixels of the chosen views: rays ``[N, 6]`` (origin, unit direction) and colours ``[N,
    3]``."""
    images = views.images[chosen]
    places = PixelRays(views.poses[chosen], views.focal, images.shape[1], images.shape[2])
    return Samples(places, compact(images.reshape(-1, 3).contiguous()))


def hull_of(views: Views, chosen: torch.Tensor) -> Hull:
    """The visual hull of the chosen views, in the cube that reaches half of the way from near to
    far."""
    masks = views.masks
    if masks is None:  # no silhouettes came with the pictures: what is not background is the object
        masks = (views.images - views.background).abs().amax(-1) > 0.5 / 255
    return carve(masks[chosen], views.poses[chosen], views.focal, (views.far - views.near) / 2)


def bounded(samples: Samples, hull: Hull | None, views: Views) -> Samples:
    """The samples with two more numbers per ray: bounds of the distances at which it may meet
    something, the object's near and far or (``hull``) closer ones."""
    if hull is None:
        reach = torch.tensor([views.near, views.far]).expand(len(samples.places), 2)
    else:
        reach = hull.reach(samples.inputs, views.near, views.far)
    assert isinstance(samples.places, PixelRays), "only rays are bounded"
    return replace(samples, places=replace(samples.places, reach=reach))


def dealt(views: Views, data: DataSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """The first ``support-views`` (or fewer: ``views-alpha``) and the next ``query-views`` of a
    shuffled order."""
    name = views.name
    total = data.support_views + data.query_views
    if len(views.images) < total:
        raise InputError(
            "data.path",
            name,
            f"{len(views.images)} views are too few for {data.support_views} support and "
            f"{data.query_views} query views",
            "lower data.support-views or data.query-views",
        )
    order = torch.randperm(len(views.images), generator=generator("views", name))
    count = share(data.support_views, data.views_alpha, data.support_views, "support views", name)
    return order[:count], order[data.support_views : total]


def signal_of(
    views: Views, data: DataSettings, cut: bool = False, own_limits: bool = False
) -> Signal:
    """An object as rays; ``cut``: to the visual hull of its support views; ``own_limits``: to its
    own near and far."""
    support, query = dealt(views, data)
    parts = [rays_of(views, support), rays_of(views, query)]
    if cut:
        hull = hull_of(views, support)
        parts = [bounded(part, hull, views) for part in parts]
        inputs = parts[0].inputs
        if not bool((inputs[:, 7] > inputs[:, 6]).any()):
            raise InputError(
                "field.skip-empty",
                views.name,
                "the visual hull of the support views is empty: the object is not "
                "around the origin, or masks and poses do not belong together",
                "centre the scene, or set field.skip-empty to false",
            )
    elif own_limits:
        parts = [bounded(part, None, views) for part in parts]
    return Signal(
        views.name, parts[0], parts[1], (len(query), *views.images.shape[1:]), len(support)
    )


def solid_of(number: int, data: DataSettings) -> Solid:
    """The geometry of object ``number``."""
    from tasks.data.shapes.cars import car
    from tasks.data.shapes.heads import head

    return car(number) if data.shape == "cars" else head(number)


def procedural(number: int, data: DataSettings) -> Views:
    """Pictures of object ``number`` from random places on the upper half of a sphere."""
    draw = generator("cameras", data.shape, number)
    poses = on_sphere(data.support_views + data.query_views, RADIUS, draw, lowest=5.0, highest=50.0)
    return pictured(number, data, poses)


def pictured(number: int, data: DataSettings, poses: torch.Tensor) -> Views:
    """Pictures of object ``number`` from ``poses [V, 4, 4]``, on white."""
    focal, side = data.size / FIELD_OF_VIEW, data.size
    if data.shape == "people":
        from tasks.data.people.person import person
        from tasks.data.people.photograph import Portrait, photographs

        nearer = poses.clone()
        nearer[:, :3, 3] /= PERSON
        shots = photographs(Portrait.of(person(number)), nearer, focal, side)
        return Views(
            f"person {number}", shots.images, poses, focal, NEAR, FAR, 1.0, shots.cover > 0
        )
    from tasks.data.shapes.raycast import render

    solid = solid_of(number, data)
    return render(solid, poses, focal, side, side, NEAR, FAR, background=1.0, samples=4)


def refuse_outside(views: Views, space: Space, own_limits: bool, remedy: str = "") -> None:
    """An object whose limits are not those of the run's space, or (``own_limits``) not within or
    so close together that hardly any sample of a ray falls between them."""
    near, far = space.near, space.far
    if not own_limits and (views.near, views.far) == (near, far):
        return
    if own_limits and near <= views.near and views.far <= far:
        if (views.far - views.near) / space.spacing >= FEWEST:
            return
        raise InputError(
            "data.near, data.far",
            (near, far),
            f"of {space.samples} samples a ray fewer than {FEWEST} fall between "
            f"{views.near!r} and {views.far!r}, where {views.name} is",
            "narrow the space, or raise field.samples",
        )
    wider = (min(near, views.near), max(far, views.far))
    raise InputError(
        "data.path",
        views.name,
        f"near and far are {views.near!r} and {views.far!r}, and the run's space goes from "
        f"{near!r} to {far!r}",
        remedy
        or f"set data.near and data.far to {wider[0]!r} and {wider[1]!r} for all nodes (with "
        "field.last-sample = thin): objects then keep limits of their own",
    )


class NerfTask(FieldTask):
    """:class:`tasks.types.Task` for few-shot radiance fields."""

    def __init__(self, settings: TaskSettings) -> None:
        data = settings.data
        shape = settings.field
        if data.channels != 3:
            raise InputError("data.channels", data.channels, "radiance is RGB", "use 3")
        self.cut = shape.skip_empty
        opaque = shape.last_sample == "opaque"
        if opaque and (self.cut or data.near):
            raise InputError(
                "field.last-sample",
                "opaque",
                "rays with limits of their own leave strata out, and with them the last",
                "use thin, or leave field.skip-empty, data.near and data.far as they are",
            )
        if bool(data.near) != bool(data.far) or data.near >= data.far > 0:
            raise InputError(
                "data.near, data.far",
                (data.near, data.far),
                "the space of a run needs both ends, the nearer one first",
                "give both, or neither",
            )
        self.own_limits = bool(data.far)
        self.samples = shape.samples
        source, (near, far, background) = self._source(data)
        kept = HULL_SHARE if shape.skip_empty else 1.0
        self.space = space = Space(near, far, shape.samples, background, kept, opaque)
        field: Radiance | HashGrid
        if shape.encoding == "hash":
            if shape.compiled:
                raise InputError(
                    "field.compiled",
                    True,
                    "the hash grid's derivatives are automatic, and torch.compile cannot "
                    "differentiate twice",
                    "set it to false, or field.encoding to fourier",
                )
            field = HashGrid(space, shape.width, shape.depth)
            super().__init__(field, Autograd(field.loss), source, shape.samples, jitter=True)
        else:
            field = Radiance(
                space, shape.width, shape.depth, shape.frequencies, shape.max_frequency
            )
            derivatives = chosen(RadianceDerivatives(field), shape.compiled)
            super().__init__(field, derivatives, source, shape.samples, jitter=True)
        self.data = data
        self.evaluation = settings.evaluation

    def in_space(self, near: float, far: float, background: float) -> None:
        """Render through this space instead of the data's (a field that left its run)."""
        assert isinstance(self.field, Radiance | HashGrid)
        self.space = replace(self.space, near=near, far=far, background=background)
        self.field = replace(self.field, space=self.space)

    def check(self, clients: int) -> None:
        if not self.evaluation.batch_size:
            raise InputError(
                "evaluation.batch-size",
                0,
                "all rays of all views in one step would not fit",
                "set it to 128 or so",
            )
        super().check(clients)

    def prepared(self, batches: Batch) -> Sequence[Any]:
        return prepare_each(self.field, batches)  # type: ignore[arg-type]

    def _source(self, data: DataSettings) -> tuple[Source, tuple[float, float, float]]:
        """The source, and (near, far, background), which all objects of a data set share."""
        if not data.path:
            if not data.size:
                raise InputError(
                    "data.size", 0, "ray-cast objects have no native size", "set it to 32 or so"
                )
            made = Procedural(data, lambda n: signal_of(procedural(n, data), data, self.cut))
            if data.near:
                raise InputError(
                    "data.near",
                    data.near,
                    f"made objects lie between {NEAR:g} and {FAR:g}",
                    "leave data.near and data.far out, or give data.path",
                )
            return made, (NEAR, FAR, 1.0)
        wanted = data.support_views + data.query_views

        source = DatasetFolder(data, "views", lambda *which: load(*which))
        first = source.layout.load_views(source.holders[0].items[0], data.size, 1)
        near, far = (data.near, data.far) if self.own_limits else (first.near, first.far)

        def load(layout: DatasetLayout, holder: Holder, item: int) -> Signal:
            views = layout.load_views(holder.items[item], data.size, wanted)
            refuse_outside(views, Space(near, far, self.samples), self.own_limits)
            return signal_of(views, data, self.cut, self.own_limits)

        return source, (near, far, first.background)

    def evaluate(self, model: torch.Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        """As for any field, and (``tune``) a turntable of the first held-out object before and
        after adaptation."""
        found = super().evaluate(model, settings, tune)
        if not tune or self.data.path:
            return found
        film = Video(self.turntable(model, settings), torch.zeros(0))
        return found._replace(videos={"turntable": film})

    def turntable(self, model: torch.Tensor, settings: EvaluationSettings) -> torch.Tensor:
        """``[T, H, W', 3]``: the object itself, the shared model, and the field adapted to the
        support views."""
        signal = self.held_out()[0]
        side = self.data.size
        truth = pictured(UNSEEN + self.data.skip, self.data, orbit(TURN, RADIUS))
        around = rays_of(truth, torch.arange(TURN))
        if self.cut:
            views = procedural(UNSEEN + self.data.skip, self.data)
            around = bounded(around, hull_of(views, dealt(views, self.data)[0]), truth)
        shown = [truth.images]
        last = max(settings.step_list)
        for params in Adaptation(self, model, settings).adapted(signal, (0, last)):
            colours = self.predict(params[None], around.inputs[None].to(params))[0]
            shown.append(colours.clamp(0, 1).nan_to_num(0.0).cpu().view(TURN, side, side, 3))
        return beside(shown)
