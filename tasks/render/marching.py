"""From rays to the points a network is evaluated at, and back: all strata of all rays, or only
those kept.

Rays are rows ``[..., 6]`` (origin, unit direction). Two more numbers bound the distances at which a
ray may meet something (:meth:`tasks.render.hull.Hull.reach`); the last of 7 or 9 is the place in a
stratum at which the ray is sampled. What lies outside is empty *by definition*, so leaving it out
is exact: samples of no density change nothing, wherever along a ray they are, and a ray without any
shows the background.

Letters: C clients, B rays of a batch, S strata, M points kept (of the client that keeps most), R
rays that keep any, T strata kept of the ray that keeps most.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tasks.render.volume import distances
from tasks.types import Batch

RAY = 6  # numbers per ray: origin, unit direction
BOUNDED = 8  # numbers per ray with bounds of its own
NOTHING = -40.0  # density before its softplus: 4e-18


class Dense(NamedTuple):
    """All strata: ``points [C, B S, 3]`` (or a field's features of them), targets less the
    background ``[C, B, 3]``."""

    points: Tensor
    contrast: Tensor


class Sparse(NamedTuple):
    """Kept strata alone. ``rest`` is the squared error of rays that show the background: no
    parameter changes it."""

    points: Tensor  # [C, M, 3], or a field's features of them
    contrast: Tensor  # [C, R, 3], targets less the background
    slot: Tensor  # [C, M]: the place in R T of each point; R T where a client has fewer than M
    source: Tensor  # [C, R, T]: the point at each place; M where there is none
    ray: Tensor  # [C, B]: the order of all rays; the first R are kept
    rest: Tensor  # [C]

    @property
    def ragged(self) -> bool:
        """Whether sizes change from batch to batch."""
        return True


def all_points(rays: Tensor, near: float, far: float, samples: int) -> Tensor:
    """Points in all strata.

    Args:
        rays: ``[C, B, 6 or 7]``; without a seventh number the middle of each stratum is taken.
        near: where the first stratum begins, in scene units along the ray.
        far: where the last one ends.
        samples: S.

    Returns:
        ``[C, B, S, 3]``.
    """
    offset = rays[..., RAY] if rays.shape[-1] > RAY else torch.full_like(rays[..., 0], 0.5)
    return _along(rays, distances(near, far, samples, offset))


def keep(batch: Batch, near: float, far: float, samples: int, background: float) -> Sparse:
    """Points inside each ray's own bounds, without the rays that keep none.

    Args:
        batch: ``inputs [C, B, 8 or 9]`` and the colours ``targets [C, B, 3]``.
        near: where the first stratum begins, in scene units along the ray.
        far: where the last one ends.
        samples: S, the strata that the same rays would have without bounds: spacing stays theirs.
        background: grey level in [0, 1] behind everything.
    """
    rays = batch.inputs
    client = torch.arange(len(rays), device=rays.device)[:, None]
    offset = rays[..., BOUNDED] if rays.shape[-1] > BOUNDED else torch.full_like(rays[..., 0], 0.5)
    spacing = (far - near) / samples

    # Stratum j is sampled at near + (j + offset) spacing: the first and last j inside the bounds.
    first = ((rays[..., 6] - near) / spacing - offset).ceil().clamp(min=0)
    last = ((rays[..., 7] - near) / spacing - offset).floor().clamp(max=samples - 1)
    counts = (last - first + 1).clamp(min=0).long()
    hit = counts > 0

    # One transfer for all three sizes: on a GPU each `.tolist()` waits for the queue to run empty.
    sizes = torch.stack([hit.sum(1).max(), counts.max(), counts.sum(1).max()]).clamp(min=1)
    kept_rays, kept_strata, kept_points = sizes.tolist()
    order = hit.byte().argsort(dim=1, descending=True, stable=True)  # those that hit first
    ray = order[:, :kept_rays]
    rays = rays[client, ray]
    count = counts[client, ray]
    start = (first + offset)[client, ray]

    # Clients and rays keep different numbers of strata. They lie in a padded grid [R, T], whose
    # valid places are packed into M points and back: the network sees no padding but up to M.
    place = torch.arange(kept_strata, device=rays.device)
    valid = (place < count[..., None]).flatten(1)  # [C, R T]
    total = valid.sum(1, keepdim=True)
    source = torch.where(valid, valid.cumsum(1) - 1, kept_points)
    slot = valid.byte().argsort(dim=1, descending=True, stable=True)[:, :kept_points]
    t = near + (start[..., None] + place) * spacing
    points = _along(rays, t).flatten(1, 2)[client, slot]
    used = torch.arange(kept_points, device=rays.device) < total
    slot = torch.where(used, slot, valid.shape[1])

    contrast = batch.targets - background
    missed = contrast.square().sum(-1) * ~hit
    contrast = contrast[client, ray] * (count[..., None] > 0)
    return Sparse(points, contrast, slot, source.view(*count.shape, -1), order, missed.sum(1))


def _along(rays: Tensor, t: Tensor) -> Tensor:
    return rays[..., None, :3] + t[..., None] * rays[..., None, 3:RAY]


def spread(raw: Tensor, source: Tensor, fill: float) -> Tensor:
    """``raw [C, M, 4] -> [C, R, T, 4]``; places without a point get ``fill`` for everything."""
    padded = torch.nn.functional.pad(raw, (0, 0, 0, 1), value=fill)
    return _rows(padded, source.flatten(1)).unflatten(1, source.shape[1:])


def collect(values: Tensor, slot: Tensor) -> Tensor:
    """Transpose of :func:`spread`: ``[C, R, T, 4] -> [C, M, 4]``, zero where a client has no such
    point."""
    return _rows(torch.nn.functional.pad(values.flatten(1, 2), (0, 0, 0, 1)), slot)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """``values [C, N, k], index [C, n] -> [C, n, k]``, one gather over the cohort."""
    first = torch.arange(len(values), device=values.device)[:, None] * values.shape[1]
    return values.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)
