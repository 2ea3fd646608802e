"""The two halves of a split radiance field, each with its optimiser, and the field that is not
split.

A step of training is ``embed`` on the server, ``step`` on the client, ``learn`` on the server; per-
parameter Adam makes two optimisers equal to one. The server's half recomputes features from its own
parameters when a gradient comes back: of several mini-batches that went out together, each is
applied
to what the one before left (replayed in order).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tasks.optimise import Adam
from tasks.randomness import Key, generator
from tasks.settings import SplitSettings
from tasks.split_nerf.grids import Grid, Visits
from tasks.split_nerf.head import Cut, Head, Uniform, composite, expected_depth, named
from tasks.split_nerf.scene import Geometry, Samples

BETAS = (0.9, 0.99)  # of Adam, as released
EPSILON = 1e-15
FINAL = 0.1  # of the step size, at the end
LIGHT = 16  # units everywhere in the light variant
FOURIER = 32  # frequencies of the baseline without a grid
FOURIER_SCALE = 1.5  # their deviation, in turns per side of the box


class Encoder(Protocol):
    """Features of positions, with a table of parameters ``[R, F]`` (which may be empty)."""

    @property
    def width(self) -> int: ...
    def init(self, generator: torch.Generator) -> Tensor: ...
    def visit(self, points: Tensor) -> Visits: ...
    def read(self, table: Tensor, visits: Visits) -> Tensor: ...
    def pull_back(self, gradient: Tensor, visits: Visits) -> Tensor: ...


@dataclass(frozen=True)
class Fourier:
    """Random Fourier features: nothing to learn, nothing to store.

    *Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains*, M.
    Tancik et al., NeurIPS 2020, https://arxiv.org/abs/2006.10739.
    """

    frequencies: int = FOURIER

    @property
    def width(self) -> int:
        return 2 * self.frequencies

    def init(self, generator: torch.Generator) -> Tensor:
        return torch.empty(0, 1)

    def visit(self, points: Tensor) -> Visits:
        """The features themselves stand in the place of weights ``[1, M, 2 f]``."""
        matrix = torch.randn(3, self.frequencies, generator=generator("fourier features"))
        turns = 2 * torch.pi * FOURIER_SCALE * (points @ matrix)
        features = torch.cat([turns.sin(), turns.cos()], 1)
        return Visits(torch.empty(0), features[None])

    def read(self, table: Tensor, visits: Visits) -> Tensor:
        return visits.weights[0]

    def pull_back(self, gradient: Tensor, visits: Visits) -> Tensor:
        return gradient.new_zeros(0, 1)


class Places(NamedTuple):
    """One mini-batch of positions, in an encoder's terms."""

    samples: Samples
    visits: Visits


@dataclass(frozen=True)
class Division:
    """Everything both halves of a scene's field agree on.

    Args:
        encoder: of positions, the server's.
        head: the layers behind it, and where they are cut.
        rays: B, of a mini-batch.
        samples: S, along a ray.
        steps: of the whole training.
        rate: of Adam at the start.
    """

    encoder: Encoder
    head: Head
    rays: int
    samples: int
    steps: int
    rate: float

    @classmethod
    def of(
        cls,
        settings: SplitSettings,
        steps: int,
        cut: Cut | None = None,
        encoder: Encoder | None = None,
    ) -> Division:
        """The division a configuration describes; ``cut`` and ``encoder`` replace its own."""
        cells = tuple(int(part) for part in settings.cells.split(","))
        encoder = encoder or Grid(cells, settings.features, settings.hashed)
        small = settings.variant == "light"
        head = Head(
            encoder.width,
            LIGHT if small else 64,
            LIGHT if small else 64,
            1 if small else 2,
            cut or settings.cut,
        )
        return cls(encoder, head, settings.rays, settings.samples, steps, settings.rate)

    def rate_at(self, step: int) -> float:
        """Adam's step size, a tenth of it at the end."""
        return self.rate * self.fade(step)

    def fade(self, step: int) -> float:
        """Share of the first step size that is left at ``step``."""
        return FINAL ** min(step / max(self.steps, 1), 1.0)

    def places(self, geometry: Geometry, seed: int, step: int) -> Places:
        """Positions of training step ``step``: both halves derive them from a seed."""
        pixels = geometry.batch(seed, step, self.rays)
        samples = geometry.march(pixels, self.samples, (seed, step))
        return Places(samples, self.encoder.visit(samples.points))


class Trained:
    """A vector of parameters with Adam, the kind of state both halves keep."""

    def __init__(self, params: Tensor, rate: float) -> None:
        self.params = params
        self.adam = Adam(rate, BETAS, EPSILON)

    def step(self, gradient: Tensor, rate: float) -> None:
        """One step against ``gradient``, which has the shape of the parameters."""
        self.adam.rate = rate
        self.params = self.params - self.adam.direction(gradient)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Copies of all it needs to go on, under ``name``."""
        blank = torch.zeros_like(self.params)
        first, second = self.adam.first, self.adam.second
        return {
            f"{name}.params": self.params.clone(),
            f"{name}.first": (blank if first is None else first).clone(),
            f"{name}.second": (blank if second is None else second).clone(),
            f"{name}.steps": torch.tensor(self.adam.steps),
        }

    def restore(self, tensors: Mapping[str, Tensor], name: str) -> None:
        """Inverse of :meth:`tensors`."""
        self.params = tensors[f"{name}.params"].clone()
        self.adam.first = tensors[f"{name}.first"].clone()
        self.adam.second = tensors[f"{name}.second"].clone()
        self.adam.steps = int(tensors[f"{name}.steps"])


class ServerHalf:
    """The encoder's table and the layers before the cut.

    Args:
        division: of the field.
        key: stream of its initial parameters, which are public.
    """

    def __init__(self, division: Division, key: Key) -> None:
        self.division = division
        stream = generator("split encoder", *key)
        self.table = Trained(division.encoder.init(stream), division.rate)
        self.layers = Trained(
            division.head.init(division.head.server, named(stream)), division.rate
        )

    @torch.no_grad()
    def embed(self, places: Places) -> Tensor:
        """What crosses, ``[B S, W]``."""
        features = self.division.encoder.read(self.table.params, places.visits)
        return self.division.head.embed(self.layers.params, features)

    def learn(self, places: Places, gradient: Tensor, step: int) -> None:
        """One Adam step on the loss's ``gradient [B S, W]`` with respect to what crossed."""
        encoder, head = self.division.encoder, self.division.head
        rate = self.division.rate_at(step)
        if not head.server.size:
            self.table.step(encoder.pull_back(gradient, places.visits), rate)
            return
        with torch.enable_grad():
            features = encoder.read(self.table.params, places.visits).requires_grad_()
            params = self.layers.params.detach().requires_grad_()
            crossing = head.embed(params, features)
            onto = torch.autograd.grad(crossing, [features, params], gradient)
        self.table.step(encoder.pull_back(onto[0], places.visits), rate)
        self.layers.step(onto[1], rate)

    def tensors(self) -> dict[str, Tensor]:
        return self.table.tensors("table") | self.layers.tensors("layers")

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.table.restore(tensors, "table")
        self.layers.restore(tensors, "layers")


class ClientHalf:
    """The layers behind the cut, rendering and loss.

    Args:
        division: of the field.
        uniform: numbers for its initial weights. They must be nobody else's to know or to search
            through: with them the first gradient that crosses gives the colours of its rays away.
    """

    def __init__(self, division: Division, uniform: Uniform) -> None:
        self.division = division
        self.head = Trained(division.head.init(division.head.client, uniform), division.rate)

    def step(
        self, samples: Samples, crossing: Tensor, targets: Tensor, background: float, step: int
    ) -> tuple[float, Tensor]:
        """One Adam step; returns the loss and its gradient ``[B S, W]`` at what crossed.

        Args:
            samples: of the batch's rays.
            crossing: ``[B S, W]``.
            targets: colours ``[B, 3]``.
            background: grey level.
            step: number of the step.
        """
        with torch.enable_grad():
            received = crossing.detach().requires_grad_()
            params = self.head.params.detach().requires_grad_()
            density, colour = self.division.head.shade(
                params, received.view(len(targets), -1, received.shape[1]), samples.directions
            )
            shown = composite(density, colour, samples, background)
            loss = (shown - targets).square().mean()
            gradient, onto = torch.autograd.grad(loss, [received, params])
        if bool(torch.isfinite(onto).all()):  # else the head stays, and says nothing of it
            self.head.step(onto, self.division.rate_at(step))
        return float(loss.detach()), gradient

    @torch.no_grad()
    def render(
        self, samples: Samples, crossing: Tensor, background: float
    ) -> tuple[Tensor, Tensor]:
        """Colours ``[B, 3]`` and depths ``[B]`` of rays from what crossed for them ``[B S, W]``."""
        crossing = crossing.view(len(samples.directions), -1, crossing.shape[1])
        density, colour = self.division.head.shade(self.head.params, crossing, samples.directions)
        shown = composite(density, colour, samples, background)
        return shown, expected_depth(density, samples)

    def tensors(self) -> dict[str, Tensor]:
        return self.head.tensors("head")

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.head.restore(tensors, "head")


class Whole:
    """A field that is not split: both halves in one place, and nothing crosses."""

    def __init__(self, server: ServerHalf, client: ClientHalf) -> None:
        self.server = server
        self.client = client

    def step(self, geometry: Geometry, colours: Tensor, seed: int, step: int) -> float:
        """One step of training on ``colours [N, 3]`` of all pixels; returns the loss."""
        division = self.client.division
        places = division.places(geometry, seed, step)
        targets = colours[geometry.batch(seed, step, division.rays)]
        loss, gradient = self.client.step(
            places.samples, self.server.embed(places), targets, geometry.background, step
        )
        self.server.learn(places, gradient, step)
        return loss

    def render(self, geometry: Geometry, rays: Tensor) -> tuple[Tensor, Tensor]:
        """Colours ``[B, 3]`` and depths ``[B]`` of ``rays [B, 6]``."""
        samples = geometry.march_rays(rays, self.client.division.samples)
        places = Places(samples, self.client.division.encoder.visit(samples.points))
        return self.client.render(samples, self.server.embed(places), geometry.background)


@dataclass(frozen=True)
class Cost:
    """Price of a design on the client, per step, as arithmetic says."""

    parameters: int
    multiply_adds: int  # per sample, forward
    activations: int  # bytes that a step keeps for its gradient

    @classmethod
    def of(cls, division: Division, whole: bool) -> Cost:
        """``whole``: the client holds the encoder as well."""
        head = division.head
        before, behind = head.arithmetic
        table = division.encoder.init(torch.Generator()).numel()
        reading = 8 * division.encoder.width if table else 0
        held = {"features": head.inputs + head.width, "hidden": head.width, "geometry": 0}
        units = head.inputs + head.width if whole else held[head.cut]
        units += 16 + head.depth * head.colour + 3
        parameters = head.client.size + (head.server.size + table if whole else 0)
        arithmetic = behind + (before + reading if whole else 0)
        kept = 4 * division.rays * division.samples * units
        return cls(parameters, arithmetic, kept)

    @cached_property
    def table(self) -> dict[str, int]:
        """As metrics."""
        return {
            "client_parameters": self.parameters,
            "client_multiply_adds": self.multiply_adds,
            "client_activation_bytes": self.activations,
        }
