r"""Signed distance fields on a dense grid, with the density and sampling of VolSDF.

*Volume Rendering of Neural Implicit Surfaces*, L. Yariv, J. Gu, Y. Kasten, Y. Lipman, NeurIPS 2021,
https://arxiv.org/abs/2106.12052. Distances are positive outside.

A grid stores distances and features at the corners of a cube; values, normals and features of a
point come out of one trilinear reading. Normals are central differences *of the grid*, read like
everything else, so that no second derivative of a reading is needed (torch has none).
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

BOX = 0.70  # half the side of the cube: a head with its hair is inside
START = 0.48  # radius of the ball that an untrained field is
FEATURES = 6  # numbers of a corner that colours are made of
NEAR_SURFACE = 0.05  # curvature counts within
BLUR = 0.6  # deviation, in cells, of what distances are smoothed by before they are read


class Reading(NamedTuple):
    """Values of a field at P points: ``sdf [P]``, ``normal [P, 3]`` (its gradient, of about unit
    length), ``features [P, F]``."""

    sdf: Tensor
    normal: Tensor
    features: Tensor


def corners(side: int) -> Tensor:
    """Places of a grid's corners ``[side, side, side, 3]``, the last axis x, y, z and the first
    three z, y, x (torch's order of volumes)."""
    line = torch.linspace(-BOX, BOX, side)
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    return torch.stack([x, y, z], -1)


def ball(side: int, features: int, radius: float = START) -> Tensor:
    """A field ``[1 + F, side, side, side]`` that is a ball, without features."""
    found = torch.zeros(1 + features, side, side, side)
    found[0] = corners(side).norm(dim=-1) - radius
    return found


def resized(field: Tensor, side: int) -> Tensor:
    """The same field with ``side`` corners per axis."""
    if field.shape[-1] == side:
        return field
    return torch.nn.functional.interpolate(
        field[None], size=(side,) * 3, mode="trilinear", align_corners=True
    )[0]


def smoothed(distances: Tensor) -> Tensor:
    """Distances ``[S, S, S]`` under a Gaussian of 3 cells, edges repeated."""
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / (2 * BLUR**2))
    line = line / line.sum()
    found = distances[None, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 3
        pad = [0] * 6
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = 1
        found = torch.nn.functional.pad(found, pad, mode="replicate")
        found = torch.nn.functional.conv3d(found, line.view(shape))
    return found[0, 0]


def slopes(distances: Tensor) -> Tensor:
    """Gradient ``[3, S, S, S]`` (x, y, z) by central differences, one-sided at the faces."""
    cell = 2 * BOX / (distances.shape[-1] - 1)
    found = torch.gradient(distances, spacing=cell)
    return torch.stack([found[2], found[1], found[0]])


class Volume:
    """A field that is ready to be read: smoothed, with normals worked out once per step.

    Args:
        field: ``[1 + F, S, S, S]``.
    """

    def __init__(self, field: Tensor) -> None:
        self.distances = smoothed(field[0])
        self.slopes = slopes(self.distances)
        self.table = torch.cat([self.distances[None], self.slopes, field[1:]])[None]

    def read(self, points: Tensor) -> Reading:
        """Everything at ``points [P, 3]``."""
        found = _grid_sample(self.table, points)
        return Reading(found[0], found[1:4].T, found[4:].T)

    @torch.no_grad()
    def sdf(self, points: Tensor) -> Tensor:
        """Distances ``[...]`` at ``points [..., 3]``; no gradients."""
        found = _grid_sample(self.distances[None, None], points.reshape(-1, 3))
        return found[0].view(points.shape[:-1])

    def lattice(self) -> Tensor:
        """Distances ``[S, S, S]`` at the corners."""
        return self.distances

    def eikonal(self, stream: torch.Generator) -> Tensor:
        """Mean of ``(|grad f| - 1)^2`` over all corners; nothing is drawn."""
        length = self.slopes.square().sum(0).clamp(min=1e-12).sqrt()
        return (length - 1).square().mean()

    def curvature(self, stream: torch.Generator) -> Tensor:
        """Mean absolute Laplacian of the corners near the surface, times a cell's width; nothing
        is drawn."""
        distances = self.distances
        cell = 2 * BOX / (distances.shape[-1] - 1)
        inner = distances[1:-1, 1:-1, 1:-1]
        laplacian = (
            distances[2:, 1:-1, 1:-1] + distances[:-2, 1:-1, 1:-1]
            + distances[1:-1, 2:, 1:-1] + distances[1:-1, :-2, 1:-1]
            + distances[1:-1, 1:-1, 2:] + distances[1:-1, 1:-1, :-2] - 6 * inner
        ) / cell  # fmt: skip
        near = (inner.detach().abs() < NEAR_SURFACE).float()
        return (laplacian.abs() * near).sum() / near.sum().clamp(min=1)


def _grid_sample(table: Tensor, points: Tensor) -> Tensor:
    """``[C, P]``; outside the cube the nearest face."""
    place = (points / BOX).view(1, 1, 1, -1, 3)
    found = torch.nn.functional.grid_sample(
        table, place, mode="bilinear", padding_mode="border", align_corners=True
    )
    return found[0, :, 0, 0]


# ---------------------------------------------------------------------- density
def density(sdf: Tensor, beta: Tensor | float) -> Tensor:
    r"""Laplace density.

    .. math:: \sigma = \frac{1}{\beta} \Psi_\beta(-f), \qquad
        \Psi_\beta(s) = \begin{cases} \frac12 e^{s/\beta} & s \le 0 \\
        1 - \frac12 e^{-s/\beta} & s > 0 \end{cases}

    Half of its greatest value on the surface, 0 far outside; :math:`\beta > 0` is its width. (A
    grazing ray is opaque while it is still 2 to 3 beta outside.)
    """
    return (0.5 + 0.5 * sdf.sign() * torch.expm1(-sdf.abs() / beta)) / beta


# ---------------------------------------------------------------------- sampling
class Distances(Protocol):
    """What a sampler asks of a field."""

    def sdf(self, points: Tensor) -> Tensor:
        """Distances ``[...]`` at ``points [..., 3]``."""


class Samples(NamedTuple):
    """Along B rays: ``distance [B, S]`` increasing and ``spacing [B, S]``."""

    distance: Tensor
    spacing: Tensor


def reach(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances ``[B]`` at which rays enter and leave the cube; equal for those that miss it."""
    inverse = 1 / torch.where(directions.abs() < 1e-9, 1e-9, directions)
    one, other = (-BOX - origins) * inverse, (BOX - origins) * inverse
    near = torch.minimum(one, other).amax(1).clamp(min=0)
    return near, torch.maximum(torch.maximum(one, other).amin(1), near)


@torch.no_grad()
def sample(
    volume: Distances,
    origins: Tensor,
    directions: Tensor,
    beta: float,
    coarse: int,
    fine: int,
    stream: torch.Generator | None,
) -> Samples:
    """Places along rays: ``coarse`` even ones that are looked at without gradients, and ``fine``
    more where those say the light comes from.

    One pass, not the paper's five: :func:`opacity_error` says how far off its opacity may be.

    Args:
        volume: the field.
        origins, directions: of rays, ``[B, 3]``.
        beta: width of the density.
        coarse, fine: numbers of samples.
        stream: of the jitter; ``None``: none.
    """
    near, far = reach(origins, directions)
    count = len(origins)
    if stream is None:
        offset = torch.full((count, coarse), 0.5)
    else:
        offset = torch.rand(count, coarse, generator=stream)
    width = ((far - near) / coarse)[:, None]
    first = near[:, None] + (torch.arange(coarse) + offset) * width
    sdf = volume.sdf(origins[:, None] + first[..., None] * directions[:, None])
    optical = density(sdf, max(beta, float(width.mean()) / 2)) * width
    weight = torch.exp(-(optical.cumsum(1) - optical)) * -torch.expm1(-optical) + 1e-4
    share = weight.cumsum(1)
    share = share / share[:, -1:]
    even = (torch.arange(fine) + 0.5) / fine
    if stream is None:
        wanted = even.expand(count, fine)
    else:
        wanted = (torch.arange(fine) + torch.rand(count, fine, generator=stream)) / fine
    bin_ = torch.searchsorted(share, wanted.contiguous()).clamp(max=coarse - 1)
    before = torch.where(bin_ > 0, share.gather(1, (bin_ - 1).clamp(min=0)), torch.zeros(()))
    inside = (wanted - before) / (share.gather(1, bin_) - before).clamp(min=1e-6)
    more = near[:, None] + (bin_ + inside.clamp(0, 1)) * width
    distance = torch.cat([first, more], 1).sort(1).values
    edges = torch.cat([distance[:, 1:], far[:, None]], 1)
    return Samples(distance, (edges - distance).clamp(min=0))


def opacity_error(sdf: Tensor, spacing: Tensor, beta: float) -> Tensor:
    r"""Upper bound ``[B]`` of how far a ray's opacity may be from that of the field it samples
    (VolSDF's Theorem 1 and Equation 12, for a true distance function):

    .. math:: B = \max_k e^{-\hat R(t_k)} \Big(e^{\hat E(t_k)} - 1\Big), \qquad
        \hat E(t_k) = \frac{1}{4\beta^2} \sum_{i<k} \delta_i^2\, e^{-d_i^*/\beta}

    with :math:`d^*_i` the least distance that the surface can have from interval i, by the
    distances at its ends.

    Args:
        sdf: at the samples, ``[B, S]``.
        spacing: of the intervals between them, ``[B, S]`` (the last is not used).
        beta: width of the density.
    """
    one, other, gap = sdf[:, :-1].abs(), sdf[:, 1:].abs(), spacing[:, :-1]
    half = (one + other + gap) / 2
    heron = half * (half - one) * (half - other) * (half - gap)
    height = 2 * heron.clamp(min=0).sqrt() / gap.clamp(min=1e-12)  # rounding may make it negative
    least = torch.where(gap**2 + one**2 <= other**2, one, height)
    least = torch.where(gap**2 + other**2 <= one**2, other, least)
    least = torch.where(one + other <= gap, torch.zeros(()), least)
    least = torch.where(sdf[:, :-1].sign() * sdf[:, 1:].sign() < 0, torch.zeros(()), least)
    error = (gap**2 * torch.exp(-least / beta)).cumsum(1) / (4 * beta**2)
    optical = (density(sdf, beta)[:, :-1] * gap).cumsum(1)
    before = torch.cat([torch.zeros_like(optical[:, :1]), optical[:, :-1]], 1)
    return (torch.exp(-before) * (torch.exp(error.clamp(max=math.log(1e6))) - 1)).amax(1)


# ---------------------------------------------------------------------- colours
class LipschitzNet:
    r"""A small network with a bound on how fast it can change.

    *Learning Smooth Neural Functions via Lipschitz Regularization*, H.-T. D. Liu et al., SIGGRAPH
    2022, https://arxiv.org/abs/2202.08345: every row of a layer is scaled so that

    .. math:: \hat W_r = W_r \min\Big(1, \frac{\mathrm{softplus}(k)}{\sum_j |W_{rj}|}\Big)

    and the product of :math:`\mathrm{softplus}(k)` over layers bounds the network's slope in the
    maximum norm, before the final sigmoid (activations have a slope of at most
    ``GELU_SLOPE``, which the bound counts).

    Args:
        sizes: of layers, inputs first.
        stream: of its initial weights.
    """

    GELU_SLOPE = 1.1290

    def __init__(self, sizes: tuple[int, ...], stream: torch.Generator) -> None:
        self.tensors: list[Tensor] = []
        for inputs, outputs in itertools.pairwise(sizes):
            scale = 1 / math.sqrt(inputs)
            weight = (torch.rand(outputs, inputs, generator=stream) * 2 - 1) * scale
            bound = weight.abs().sum(1).amax()
            # tight at the start: a slack bound is not felt before training ends
            k = torch.log(torch.expm1(bound))
            self.tensors += [weight, torch.zeros(outputs), k]
        for tensor in self.tensors:
            tensor.requires_grad_()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Colours ``[P, 3]`` in (0, 1)."""
        return torch.sigmoid(self.raw(inputs))

    def raw(self, inputs: Tensor) -> Tensor:
        """The same before the sigmoid."""
        found = inputs
        for layer in range(0, len(self.tensors), 3):
            weight, bias, k = self.tensors[layer : layer + 3]
            rows = weight.abs().sum(1, keepdim=True)
            bounded = weight * (torch.nn.functional.softplus(k) / rows.clamp(min=1e-12)).clamp(
                max=1
            )
            found = found @ bounded.T + bias
            if layer + 3 < len(self.tensors):
                found = torch.nn.functional.gelu(found)
        return found

    @property
    def product(self) -> Tensor:
        """The regulariser: product of softplus(k) over layers."""
        parts = [torch.nn.functional.softplus(k) for k in self.tensors[2::3]]
        return torch.stack(parts).prod()

    @property
    def slope(self) -> float:
        """Upper bound of its slope before the sigmoid, in the maximum norm."""
        hidden = len(self.tensors) // 3 - 1
        return float(self.product.detach()) * self.GELU_SLOPE**hidden
