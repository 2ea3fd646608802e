"""Empty space left out: a meta-step on real silhouettes against the published loop, which samples
all of every ray."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sim.bench.limits import chunks, products
from sim.bench.loops import CLIP, INNER_STEPS, RATE, SIDE, Holding, Inner, as_published, lean
from sim.bench.rows import Row, row
from sim.bench.timing import interleaved
from sim.bench.trainer import agree, split
from strategies.cohort import chunk_width
from strategies.local.meta import Meta
from tasks.errors import FedappError
from tasks.fields.radiance import Radiance, RadianceDerivatives, Space
from tasks.metrics import psnr
from tasks.nerf import FAR, NEAR, dealt, procedural, signal_of
from tasks.optimise import Adam
from tasks.render.marching import Sparse
from tasks.settings import DataSettings
from tasks.signals import Signal
from tasks.types import Batch, Episode

VIEWS = 25  # support views of an object, as in the paper's cars
QUERY = 2
STEPS = 800  # of the fit that is judged on unseen views
BATCH = 128  # rays per step of that fit
LOST = 0.1  # dB it may lose
TARGET = 8.0


class Car(NamedTuple):
    """An object with its rays bounded by its hull, and as the published loop holds it."""

    signal: Signal
    holding: Holding


def cars(clients: int, count: int) -> list[Car]:
    """Procedural cars seen from all around, and ``K + 1`` batches of ``count`` rays for each."""
    data = DataSettings(size=SIDE, support_views=VIEWS, query_views=QUERY)
    draw = torch.Generator().manual_seed(0)
    made = []
    for number in range(clients):
        views = procedural(number, data)
        support, _ = dealt(views, data)
        index = torch.randint(VIEWS * SIDE * SIDE, (INNER_STEPS + 1, count), generator=draw)
        offset = torch.rand(INNER_STEPS + 1, count, generator=draw)
        holding = Holding(views.images[support], index, views.poses[support], views.focal, offset)
        made.append(Car(signal_of(views, data, cut=True), holding))
    return made


def episode_of(cohort: list[Car], bounded: bool) -> Episode:
    """Batches of all cars, with or without the bounds of their rays."""

    def batch(k: int) -> Batch:
        rays: list[Tensor] = []
        values: list[Tensor] = []
        for signal, holding in cohort:
            index = holding.index[k]
            assert holding.offset is not None, "cars are seen along jittered rays"
            given, colours = signal.support.at(index)
            given = given if bounded else given[..., :6]
            rays.append(torch.cat([given, holding.offset[k][:, None]], -1))
            values.append(colours)
        return Batch(torch.stack(rays), torch.stack(values))

    batches = [batch(k) for k in range(INNER_STEPS + 1)]
    return Episode(batches[:-1], batches[-1])


def share(episode: Episode, field: Radiance) -> float:
    """Share of the samples of the query rays that are kept."""
    rays = episode.query.inputs.shape[1]
    return kept_points(field, episode.query) / (rays * field.space.samples)


def kept_points(field: Radiance, batch: Batch) -> float:
    """Mean number of kept samples per client, without what pads clients to the largest."""
    marched = field.prepare(batch)
    assert isinstance(marched, Sparse), "the rays are bounded"
    points = (marched.source < marched.points.shape[1]).sum()
    return float(points) / len(marched.points)


def measure(repeats: int) -> Iterator[Row]:
    """One thread, float32: the gradient on kept samples, and what leaving the others out does to
    unseen views."""
    for clients, count, samples in ((8, 64, 16), (4, 128, 32)):
        yield _against_published(cars(clients, count), count, samples, repeats)
    signals = [car.signal for car in cars(3, 1)]
    field = Radiance(Space(NEAR, FAR, 16), 64, 3, 8, 4.0)
    found = [_unseen(field, signals, cut) for cut in (True, False)]
    if found[0] < found[1] - LOST:
        raise FedappError(
            f"leaving empty space out costs {found[1] - found[0]:.2f} dB on unseen views: no ratio"
        )
    case = f"unseen views of 3 cars after {STEPS} steps of Adam, kept samples; reference: all"
    yield row(case, "dB", found[0], found[1], None)


def _against_published(cohort: list[Car], count: int, samples: int, repeats: int) -> Row:
    whole, bounded = (episode_of(cohort, flag) for flag in (False, True))
    kept = share(bounded, Radiance(Space(NEAR, FAR, samples)))
    field = Radiance(Space(NEAR, FAR, samples, share=kept), 128, 4)
    clients = len(cohort)
    draw = torch.Generator().manual_seed(0)
    params = torch.stack([field.init(draw) for _ in range(clients)])
    learner = Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0)
    derivatives = RadianceDerivatives(field)
    inner = Inner(RATE, CLIP)
    width = chunk_width(field.working_set(count, INNER_STEPS), params.device)
    parts = split(params, bounded, width)
    # padding is ours to remove, so it is no part of what the machine needs
    points = [math.ceil(kept_points(field, batch)) for batch in (*bounded.support, bounded.query)]
    bare = products(field.network, chunks(clients, width, points))

    def ours() -> Tensor:
        return torch.cat([learner.step(derivatives, *part).gradient for part in parts])

    def published() -> Tensor:
        return as_published(field, inner, params, [car.holding for car in cohort])

    agree(learner.step(derivatives, params, whole).gradient, published(), 1e-3)  # all samples, both
    agree(ours(), lean(field, inner, params, bounded), 1e-3)  # kept samples, both
    mine, theirs, least = interleaved(ours, published, bare.run, repeats=repeats)
    name = f"radiance field 4×128, {count} rays × {samples}"
    case = f"{name}, {100 * kept:.0f} % of them kept, C = {clients}, against published (all)"
    scale = 1e3 / clients
    limit = bare.limit(least, scale)
    return row(case, "CPU ms/client", scale * mine, scale * theirs, TARGET, limit)


def _unseen(field: Radiance, signals: list[Signal], cut: bool) -> float:
    """Mean PSNR on query views of fields fitted to the support views' kept samples, or to all."""
    numbers = 8 if cut else 6
    draw = torch.Generator().manual_seed(0)
    params = field.init(draw).expand(len(signals), -1).clone()
    adam = Adam(3e-3)
    derivatives = RadianceDerivatives(field)
    for _ in range(STEPS):
        index = torch.randint(VIEWS * SIDE * SIDE, (BATCH,), generator=draw)
        drawn = [signal.support.at(index) for signal in signals]
        rays, values = (torch.stack(part) for part in zip(*drawn, strict=True))
        params = params - adam.direction(
            derivatives.gradient(params, Batch(rays[..., :numbers], values))[1]
        )
    with torch.no_grad():
        shown = field(params, torch.stack([signal.query.inputs[:, :numbers] for signal in signals]))
    scores = [psnr(shown[i].view(signal.shape), signal.truth) for i, signal in enumerate(signals)]
    return sum(scores) / len(scores)
