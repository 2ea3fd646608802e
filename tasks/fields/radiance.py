r"""The radiance field of FedMeNF: a ReLU network on Fourier features of the position,
volume-rendered.

*Privacy-Preserving Federated Meta-Learning for Neural Fields*, J. Yun, M. Hong, G. Kim, ICCV 2025,
https://arxiv.org/abs/2508.06301; the field is that of *Learned Initializations for Optimizing
Coordinate-Based Neural Representations*, M. Tancik, B. Mildenhall, T. Wang, D. Schmidt, P.
Srinivasan, J. Barron, R. Ng, CVPR 2021, https://arxiv.org/abs/2012.02189.

.. math::
    \gamma(x) = [\sin(f_j x), \cos(f_j x)]_{j=1\dots F}, \quad f_j = 2^{m (j-1)/(F-1)}, \qquad
    (r, s) = \mathrm{MLP}(\gamma(x)), \quad
    c = \mathrm{sigmoid}(r), \quad \sigma = \mathrm{softplus}(s)

The frequencies are constants (the published release trains them by accident). No view direction:
colours are those of the surface.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from tasks.derivatives import ByHand
from tasks.fields.network import Network, Relu, Tape
from tasks.params import Layout
from tasks.render.compositing import Rendered, directional, squared_error
from tasks.render.marching import (
    BOUNDED,
    NOTHING,
    RAY,
    Dense,
    Sparse,
    all_points,
    collect,
    keep,
    spread,
)
from tasks.render.volume import composite, weights
from tasks.types import Batch


@dataclass(frozen=True)
class Space:
    """Space that a field is rendered through: limits along rays, samples per ray, the background.

    ``share``: fraction of all samples that is evaluated, roughly (sizes a cohort's chunks, nothing
    else). ``opaque``: the last sample of a ray stands for all that is behind it.
    """

    near: float = 2.0
    far: float = 6.0
    samples: int = 32
    background: float = 1.0
    share: float = 1.0
    opaque: bool = False

    @property
    def spacing(self) -> float:
        """The length of ray that a sample stands for."""
        return (self.far - self.near) / self.samples

    def march(self, batch: Batch) -> Dense | Sparse:
        """The points of ``batch.inputs [C, B, 6 to 9]`` (see :mod:`tasks.render.marching`)."""
        if batch.inputs.shape[-1] >= BOUNDED:
            return keep(batch, self.near, self.far, self.samples, self.background)
        points = all_points(batch.inputs, self.near, self.far, self.samples)
        return Dense(points.flatten(1, 2), batch.targets - self.background)

    def colours(self, raw: Tensor) -> Tensor:
        """``raw [C, B, S, 4]`` (colour and density before their maps) ``-> colours [C, B, 3]`` in
        [0, 1]."""
        density = torch.nn.functional.softplus(raw[..., 3])
        weight = weights(density, self.spacing, self.opaque)
        return composite(torch.sigmoid(raw[..., :3]), weight, self.background)

    def rendered(self, raw: Tensor, marched: Dense | Sparse, rays: int) -> Tensor:
        """``raw [C, M, 4]`` of the points -> ``[C, B, 3]``, B = ``rays``."""
        if isinstance(marched, Dense):
            return self.colours(raw.unflatten(1, (rays, self.samples)))
        shown = self.colours(spread(raw, marched.source, NOTHING))
        behind = shown.new_full((len(raw), rays, 3), self.background)
        return behind.scatter(1, marched.ray[:, : shown.shape[1], None].expand(-1, -1, 3), shown)

    def loss(self, raw: Tensor, marched: Dense | Sparse) -> Tensor:
        """Mean squared error over rays and channels, one value per client ``[C]``,
        differentiable."""
        if isinstance(marched, Dense):
            shown = self.rendered(raw, marched, marched.contrast.shape[1])
            return (shown - self.background - marched.contrast).square().mean((1, 2))
        shown = self.colours(spread(raw, marched.source, NOTHING))
        error = (shown - self.background - marched.contrast).square().sum((1, 2))
        return (error + marched.rest) / (3 * marched.ray.shape[1])


@dataclass(frozen=True)
class Radiance:
    """Architecture: ``frequencies`` F up to :math:`2^{m}`, then ``depth`` hidden ReLU layers of
    ``width`` units."""

    space: Space
    width: int = 256
    depth: int = 5
    frequencies: int = 20
    max_frequency: float = 8.0

    inputs = RAY
    outputs = 3
    bounded = True

    @cached_property
    def network(self) -> Network:
        """The layers behind the Fourier features."""
        return Network((6 * self.frequencies, *[self.width] * self.depth, 4), Relu())

    @property
    def layout(self) -> Layout:
        """``layers.<l>.weight [o, i]`` and ``layers.<l>.bias [o]``, as in ``torch.nn.Linear``."""
        return self.network.layout

    def init(self, generator: torch.Generator) -> Tensor:
        """Initial parameters ``[P]``, as in ``torch.nn.Linear``."""
        return self.network.init(torch.empty(self.layout.size), generator)

    def features(self, points: Tensor) -> Tensor:
        """``[..., 3] -> [..., 6 F]``: all sines, then all cosines, frequency-major."""
        exponents = torch.linspace(
            0, self.max_frequency, self.frequencies, dtype=points.dtype, device=points.device
        )
        angle = (torch.exp2(exponents)[:, None] * points[..., None, :]).flatten(-2)
        return torch.cat([torch.sin(angle), torch.cos(angle)], -1)

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        """Bytes one client's second-order step keeps."""
        samples = math.ceil(batch_size * self.space.samples * self.space.share)
        activations = samples * (4 * self.width * self.depth + 12 * self.frequencies)
        return 4 * (inner_steps + 1) * (activations + 2 * self.layout.size)

    def prepare(self, batch: Batch | Dense | Sparse) -> Dense | Sparse:
        """Inputs of the network for a batch of rays: features instead of points ``[C, M, 6 F]``;
        once is enough."""
        if not isinstance(batch, Batch):
            return batch
        marched = self.space.march(batch)
        return marched._replace(points=self.features(marched.points))

    def __call__(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], rays [C, B, 6 to 9] -> colours [C, B, 3]`` in [0, 1], differentiable."""
        marched = self.prepare(Batch(inputs, inputs[..., :3]))
        return self.space.rendered(self.network(params, marched.points), marched, inputs.shape[1])

    def loss(self, params: Tensor, batch: Batch | Dense | Sparse) -> Tensor:
        """Mean squared error over rays and channels, one value per client ``[C]``."""
        marched = self.prepare(batch)
        return self.space.loss(self.network(params, marched.points), marched)


class Marching(Protocol):
    """A field that is rendered along rays."""

    def prepare(self, batch: Batch | Dense | Sparse) -> Dense | Sparse: ...


def prepare_each(field: Marching, batches: Batch) -> list[Dense | Sparse]:
    """Prepare each of ``batches [K, C, B, ...]``: all in one computation, unless each keeps samples
    of its own."""
    if batches.inputs.shape[-1] >= BOUNDED:
        return [
            field.prepare(Batch(*pair))
            for pair in zip(batches.inputs, batches.targets, strict=True)
        ]
    marched = field.prepare(Batch(batches.inputs.flatten(0, 1), batches.targets.flatten(0, 1)))
    parts = (
        part.unflatten(0, batches.inputs.shape[:2]) for part in (marched.points, marched.contrast)
    )
    return [Dense(*pair) for pair in zip(*parts, strict=True)]


class RadianceDerivatives(ByHand):
    """:class:`tasks.types.Derivatives` of :meth:`Radiance.loss`: the layers' and the rendering's,
    both by hand."""

    def __init__(self, field: Radiance) -> None:
        self.field = field

    def prepare(self, batch: Batch | Dense | Sparse) -> Dense | Sparse:
        return self.field.prepare(batch)

    def evaluate(
        self, params: Tensor, batch: Dense | Sparse
    ) -> tuple[Tensor, Tensor, tuple[Tape, Rendered]]:
        space = self.field.space
        scale = _scale(batch)
        raw, tape = self.field.network.forward(params, batch.points)
        on_rays = self._on_rays(raw, batch, NOTHING)
        loss, delta, rendered = squared_error(
            on_rays, batch.contrast, space.spacing, space.background, scale, space.opaque
        )
        gradient = self.field.network.backward(params, tape, self._at_points(delta, batch))
        if isinstance(batch, Sparse):
            loss = torch.add(loss, batch.rest, alpha=scale / 2)
        return loss, gradient, (tape, rendered)

    def product(
        self, params: Tensor, vector: Tensor, batch: Dense | Sparse, tape: tuple[Tape, Rendered]
    ) -> Tensor:
        network = self.field.network
        (layers, rendered) = tape
        tangent = network.tangent(params, vector, layers)
        along = self._on_rays(tangent.z[-1], batch, 0.0)
        dot = directional(rendered, along, self.field.space.spacing, _scale(batch))
        return network.backward_tangent(
            params, vector, layers, tangent, self._at_points(dot, batch)
        )

    def _on_rays(self, values: Tensor, marched: Dense | Sparse, fill: float) -> Tensor:
        """``[C, M, 4] -> [C, rays, samples, 4]``."""
        if isinstance(marched, Sparse):
            return spread(values, marched.source, fill)
        return values.unflatten(1, (marched.contrast.shape[1], self.field.space.samples))

    def _at_points(self, values: Tensor, marched: Dense | Sparse) -> Tensor:
        """``[C, rays, samples, 4] -> [C, M, 4]``."""
        return (
            collect(values, marched.slot) if isinstance(marched, Sparse) else values.flatten(1, 2)
        )


def _scale(marched: Dense | Sparse) -> float:
    """Weight of half a squared error of one channel in the mean over all rays of the batch."""
    return 2 / (3 * (marched.ray if isinstance(marched, Sparse) else marched.contrast).shape[1])
