r"""The radiance field of FedMeNF: a ReLU network on Fourier features of the position, volume-rendered.

*Privacy-Preserving Federated Meta-Learning for Neural Fields*, J. Yun, M. Hong, G. Kim, ICCV 2025,
https://arxiv.org/abs/2508.06301; the field is that of *Learned Initializations for Optimizing Coordinate-Based Neural
Representations*, M. Tancik, B. Mildenhall, T. Wang, D. Schmidt, P. Srinivasan, J. Barron, R. Ng, CVPR 2021,
https://arxiv.org/abs/2012.02189.

.. math::
    \gamma(x) = [\sin(f_j x), \cos(f_j x)]_{j=1\dots F}, \quad f_j = 2^{m (j-1)/(F-1)}, \qquad
    (r, s) = \mathrm{MLP}(\gamma(x)), \quad c = \mathrm{sigmoid}(r), \quad \sigma = \mathrm{softplus}(s)

The frequencies are constants (the published release trains them by accident). No view direction: colours are those of
the surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tasks.fields.network import Network, Relu, Tape
from tasks.params import Layout
from tasks.render.compositing import Rendered, directional, squared_error
from tasks.render.volume import composite, distances, weights
from tasks.types import Batch, Linearised

RAY = 6  # origin and unit direction; a seventh number is where in its stratum a ray is sampled


@dataclass(frozen=True)
class Space:
    """What a field is rendered through: limits along rays, samples a ray, and what lies behind."""

    near: float = 2.0
    far: float = 6.0
    samples: int = 32
    background: float = 1.0

    @property
    def spacing(self) -> float:
        """The length of ray that a sample stands for."""
        return (self.far - self.near) / self.samples

    def points(self, rays: Tensor) -> Tensor:
        """``rays [C, B, 6 or 7] -> points [C, B, S, 3]``; without a seventh number the middle of each stratum."""
        origin, direction = rays[..., :3], rays[..., 3:RAY]
        offset = rays[..., RAY] if rays.shape[-1] > RAY else torch.full_like(rays[..., 0], 0.5)
        t = distances(self.near, self.far, self.samples, offset)
        return origin[..., None, :] + t[..., None] * direction[..., None, :]

    def colours(self, raw: Tensor) -> Tensor:
        """``raw [C, B, S, 4]`` (colour and density before their maps) ``-> colours [C, B, 3]`` in [0, 1]."""
        density = torch.nn.functional.softplus(raw[..., 3])
        weight = weights(density, self.spacing)
        return composite(torch.sigmoid(raw[..., :3]), weight, self.background)


@dataclass(frozen=True)
class Radiance:
    """Architecture: ``frequencies`` F up to :math:`2^{m}`, then ``depth`` hidden ReLU layers of ``width`` units."""

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
        r"""Initial parameters ``[P]``: ``torch.nn.Linear``'s :math:`U(\pm 1/\sqrt i)` for weights and biases."""
        vector = torch.empty(self.layout.size)
        params = self.layout.unflatten(vector)
        for index, i in enumerate(self.network.widths[:-1]):
            params[f"layers.{index}.weight"].uniform_(-(i**-0.5), i**-0.5, generator=generator)
            params[f"layers.{index}.bias"].uniform_(-(i**-0.5), i**-0.5, generator=generator)
        return vector

    def features(self, points: Tensor) -> Tensor:
        """``[..., 3] -> [..., 6 F]``: all sines, then all cosines, frequency-major."""
        exponents = torch.linspace(0, self.max_frequency, self.frequencies, dtype=points.dtype, device=points.device)
        angle = (torch.exp2(exponents)[:, None] * points[..., None, :]).flatten(-2)
        return torch.cat([torch.sin(angle), torch.cos(angle)], -1)

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        """Bytes one client's second-order step keeps."""
        samples = batch_size * self.space.samples
        activations = samples * (4 * self.width * self.depth + 12 * self.frequencies)
        return 4 * (inner_steps + 1) * (activations + 2 * self.layout.size)

    def encode(self, rays: Tensor) -> Tensor:
        """What the network sees of rays ``[C, B, 6 or 7]``: ``[C, B S, 6 F]``."""
        return self.features(self.space.points(rays)).flatten(1, 2)

    def __call__(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], rays [C, B, 6 or 7] -> colours [C, B, 3]`` in [0, 1], differentiable."""
        raw = self.network(params, self.encode(inputs))
        return self.space.colours(raw.unflatten(1, (inputs.shape[1], self.space.samples)))

    def loss(self, params: Tensor, batch: Batch) -> Tensor:
        """Mean squared error over rays and channels, one value per client ``[C]``."""
        return (self(params, batch.inputs) - batch.targets).square().mean((1, 2))


class RadianceDerivatives:
    """:class:`tasks.types.Derivatives` of :meth:`Radiance.loss`: the layers' and the rendering's, both by hand."""

    def __init__(self, field: Radiance) -> None:
        self.field = field

    def gradient(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, gradient, _, _, _ = self._pass(params, batch)
        return loss, gradient

    def linearise(self, params: Tensor, batch: Batch) -> Linearised:
        network, spacing = self.field.network, self.field.space.spacing
        loss, gradient, tape, rendered, scale = self._pass(params, batch)

        @torch.no_grad()
        def hvp(vector: Tensor) -> Tensor:
            tangent = network.tangent(params, vector, tape)
            along = tangent.z[-1].unflatten(1, (batch.inputs.shape[1], self.field.space.samples))
            dot = directional(rendered, along, spacing, scale).flatten(1, 2)
            return network.backward_tangent(params, vector, tape, tangent, dot)

        return Linearised(loss, gradient, hvp)

    @torch.no_grad()
    def _pass(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tape, Rendered, float]:
        space, rays = self.field.space, batch.inputs.shape[1]
        scale = 2 / (3 * rays)
        raw, tape = self.field.network.forward(params, self.field.encode(batch.inputs))
        raw = raw.unflatten(1, (rays, space.samples))
        loss, delta, rendered = squared_error(raw, batch.targets, space.spacing, space.background, scale)
        gradient = self.field.network.backward(params, tape, delta.flatten(1, 2))
        return loss.sum(1), gradient, tape, rendered, scale
