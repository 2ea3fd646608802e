r"""The fit of a head, stage by stage.

.. math:: L = \lambda_c \|\hat c - c\|_1 + \lambda_o \big| \hat g - g \big|
    + \lambda_e \big(\|\nabla f\| - 1\big)^2 + \lambda_k \kappa + \lambda_l \prod_i
    \mathrm{softplus}(k_i)

(the paper's Equations 4 to 11; the curvature term is ours, it keeps a dense grid smooth): colours
of single rays, operator values of patches, whose gradient magnitudes come out of the same function
as the device's (:mod:`tasks.modulus`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.fields.distance import DenseGrid, Readable, Representation
from tasks.fields.sdf import FEATURES, LipschitzNet, Reading, density, opacity_error, sample
from tasks.head.mesh import Mesh, surface
from tasks.head.stages import Stage
from tasks.head.views import Cameras, Coloured, Evidence, Obscured
from tasks.modulus import gradient_modulus
from tasks.randomness import generator
from tasks.render.volume import composite

WIDTH = 48
LEARNED = 1e-4  # floor of a learned beta
FINAL = 0.2  # of the rate, at the end of a stage
OPAQUE = 2.0  # widths of the density


@dataclass(frozen=True)
class Budget:
    """Work per step.

    Attributes:
        rays: whose colours are compared.
        patches: of ``patch`` by ``patch`` operator values (each takes ``(patch + 2)^2`` rays).
        patch: side.
        coarse, fine: samples per ray.
    """

    rays: int = 384
    patches: int = 6
    patch: int = 8
    coarse: int = 24
    fine: int = 12


class Fit:
    """A head being fitted.

    Args:
        evidence: what may be seen.
        budget: work per step.
        seed: of draws.
        start: a template's field ``[1 + F, S, S, S]`` (of a dense grid); ``None``: a ball.
        side: corners per axis at the start.
        basis: a template's components ``[K, L, L, L]``, whose coefficients are fitted as well.
        representation: of the distance.

    Raises:
        ValueError: a template under another representation than a dense grid.
    """

    def __init__(
        self,
        evidence: Evidence,
        budget: Budget,
        seed: int,
        start: Tensor | None = None,
        side: int = 24,
        basis: Tensor | None = None,
        representation: Representation | None = None,
    ) -> None:
        self.representation = representation or DenseGrid()
        if not isinstance(self.representation, DenseGrid) and not start is basis is None:
            raise ValueError("a template starts dense grids alone")
        self.evidence = evidence
        self.budget = budget
        self.seed = seed
        self.side = side if start is None else start.shape[-1]
        if start is None:
            start = self.representation.start(side, generator("head field", seed))
        self.field = start.clone().requires_grad_()
        self.colours = LipschitzNet(
            (FEATURES + 6, WIDTH, WIDTH, 3), generator("head colours", seed)
        )
        self.beta = torch.tensor(0.1)
        self.basis = torch.zeros(0, 2, 2, 2) if basis is None else basis
        self.coefficients = torch.zeros(len(self.basis), requires_grad=True)
        self.stage = 0  # stages that are done

    def run(self, stage: Stage, tell: Callable[[int], None] | None = None) -> None:
        """One stage; ``tell`` is told how many steps are done."""
        if stage.beta[1] == 0:
            self.beta = torch.tensor(stage.beta[0]).requires_grad_()
        optimiser = self._optimiser(stage)
        for step in range(stage.steps):
            if stage.grids:
                part = min(int(step / stage.steps * 2 * len(stage.grids)), len(stage.grids) - 1)
                if self.side != stage.grids[part]:
                    self.side = stage.grids[part]
                    finer = self.representation.refined(self.field.detach(), self.side)
                    self.field = finer.requires_grad_()
                    optimiser = self._optimiser(stage)
            if stage.beta[1]:
                share = step / max(stage.steps - 1, 1)
                low, high = stage.beta
                self.beta = torch.tensor(low * (high / low) ** share)
            rate = stage.rate * FINAL ** (step / stage.steps) * min(1, (step + 1) / stage.warm)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = self.loss(stage, generator("head step", self.seed, self.stage, step))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if tell:
                tell(step + 1)
        self.stage += 1

    @property
    def volume(self) -> Readable:
        """The field as it is read, and what the template's components add to it."""
        if not len(self.basis):
            return self.representation.ready(self.field, self.side)
        side = self.side
        grown = torch.nn.functional.interpolate(
            self.basis[None], size=(side,) * 3, mode="trilinear", align_corners=True
        )[0]
        added = torch.einsum("k,kzyx->zyx", self.coefficients, grown)
        whole = torch.cat([(self.field[0] + added)[None], self.field[1:]])
        return self.representation.ready(whole, side)

    def _optimiser(self, stage: Stage) -> torch.optim.Adam:
        own = list(self.colours.tensors)
        if stage.freeze != "geometry" and len(self.basis):
            own.append(self.coefficients)
        if stage.freeze == "":
            own.append(self.field)
        if self.beta.requires_grad:
            own.append(self.beta)
        return torch.optim.Adam(own, lr=stage.rate, betas=(0.9, 0.99), eps=1e-12)

    # ------------------------------------------------------------------ one step
    def loss(self, stage: Stage, stream: torch.Generator) -> Tensor:
        """The loss of one step's draws."""
        volume = self.volume
        total = torch.zeros(())
        read: list[Reading] = []
        if stage.weight("neutral") and self.evidence.neutral is not None:
            term, reading = self._colour_term(volume, self.evidence.neutral, stream)
            total = total + stage.weight("neutral") * term
            read.append(reading)
        if stage.weight("operator") and self.evidence.obscured is not None:
            term, reading = self._operator_term(volume, self.evidence.obscured, stream)
            total = total + stage.weight("operator") * term
            read.append(reading)
        if stage.freeze == "":
            total = total + self._shape_terms(stage, volume, read, stream)
        if stage.weight("prior") and len(self.basis):
            total = total + stage.weight("prior") * self.coefficients.square().mean()
        if stage.weight("lipschitz"):
            total = total + stage.weight("lipschitz") * self.colours.product
        return total

    def _colour_term(
        self, volume: Readable, views: Coloured, stream: torch.Generator
    ) -> tuple[Tensor, Reading]:
        count, height, width = views.images.shape[:3]
        pixel = torch.randint(count * height * width, (self.budget.rays,), generator=stream)
        view, row = pixel // (height * width), pixel // width % height
        column = pixel % width
        origins, directions = views.cameras.rays(view, row, column)
        shown, reading = self._render(volume, origins, directions, stream)
        return (shown - views.images[view, row, column]).abs().mean(), reading

    def _operator_term(
        self, volume: Readable, views: Obscured, stream: torch.Generator
    ) -> tuple[Tensor, Reading]:
        side, patches = self.budget.patch, self.budget.patches
        count, height, width = views.values.shape
        view = torch.randint(count, (patches,), generator=stream)
        top = torch.randint(height - side + 1, (patches,), generator=stream)
        left = torch.randint(width - side + 1, (patches,), generator=stream)
        # a patch of values and the ring of pixels around it
        row = (top[:, None] + torch.arange(side + 2))[:, :, None].expand(-1, -1, side + 2)
        column = (left[:, None] + torch.arange(side + 2))[:, None].expand(-1, side + 2, -1)
        which = view[:, None, None].expand_as(row)
        origins, directions = views.cameras.rays(
            which.reshape(-1), row.reshape(-1), column.reshape(-1)
        )
        shown, reading = self._render(volume, origins, directions, stream)
        found = gradient_modulus(shown.view(patches, side + 2, side + 2, 3), views.kernel)
        inner = which[:, :side, :side], row[:, :side, :side], column[:, :side, :side]
        wanted, valid = views.values[inner], views.valid[inner]
        apart = (found - wanted).abs() * valid
        return apart.sum() / valid.sum().clamp(min=1), reading

    def _render(
        self,
        volume: Readable,
        origins: Tensor,
        directions: Tensor,
        stream: torch.Generator | None,
    ) -> tuple[Tensor, Reading]:
        """Colours ``[B, 3]`` and what was read on the way."""
        beta = self.beta.abs() + LEARNED if self.beta.requires_grad else self.beta
        budget = self.budget
        places = sample(
            volume, origins, directions, float(beta.detach()), budget.coarse, budget.fine, stream
        )
        points = origins[:, None] + places.distance[..., None] * directions[:, None]
        reading = volume.read(points.reshape(-1, 3))
        shape = places.distance.shape
        optical = density(reading.sdf, beta).view(shape) * places.spacing
        weight = torch.exp(-(optical.cumsum(1) - optical)) * -torch.expm1(-optical)
        towards = directions[:, None].expand(*shape, 3).reshape(-1, 3)
        inputs = torch.cat([reading.features, reading.normal, towards], 1)
        colour = self.colours(inputs).view(*shape, 3)
        return composite(colour, weight, self.evidence.background), reading

    def _shape_terms(
        self, stage: Stage, volume: Readable, read: list[Reading], stream: torch.Generator
    ) -> Tensor:
        """Eikonal term over the cube and along rays, and curvature near the surface."""
        eikonal = volume.eikonal(stream)
        for reading in read:
            own = reading.normal.square().sum(1).clamp(min=1e-12).sqrt()
            eikonal = eikonal + (own - 1).square().mean()
        total = stage.weight("eikonal") * eikonal
        if stage.weight("curvature"):
            total = total + stage.weight("curvature") * volume.curvature(stream)
        return total

    # ------------------------------------------------------------------ afterwards
    @torch.no_grad()
    def render(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Colours ``[B, 3]`` of rays, without jitter."""
        volume = self.volume
        parts = [
            self._render(volume, one, other, None)[0]
            for one, other in zip(origins.split(4096), directions.split(4096), strict=True)
        ]
        return torch.cat(parts)

    def pictures(self, cameras: Cameras) -> Tensor:
        """Pictures ``[V, H, W, 3]`` in [0, 1]."""
        height, width = cameras.height, cameras.width
        pixel = torch.arange(len(cameras) * height * width)
        rays = cameras.rays(pixel // (height * width), pixel // width % height, pixel % width)
        return self.render(*rays).view(len(cameras), height, width, 3).clamp(0, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all it needs to go on with its next stage."""
        found = {
            "field": self.field.detach().clone(),
            "side": torch.tensor(self.side),
            "beta": self.beta.detach().clone(),
        }
        for index, tensor in enumerate(self.colours.tensors):
            found[f"colours.{index}"] = tensor.detach().clone()
        if len(self.basis):
            found["coefficients"] = self.coefficients.detach().clone()
            found["basis"] = self.basis.clone()
        return found

    def restore(self, tensors: Mapping[str, Tensor], stage: int) -> None:
        """Inverse of :meth:`tensors`, after ``stage`` stages."""
        self.field = tensors["field"].clone().requires_grad_()
        self.side = int(tensors["side"])
        self.beta = tensors["beta"].clone()
        self.colours.tensors = [
            tensors[f"colours.{index}"].clone().requires_grad_()
            for index in range(len(self.colours.tensors))
        ]
        if "basis" in tensors:
            self.basis = tensors["basis"].clone()
            self.coefficients = tensors["coefficients"].clone().requires_grad_()
        self.stage = stage

    @torch.no_grad()
    def sampling_error(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Bound ``[B]`` of the opacity's error along rays
        (:func:`tasks.fields.sdf.opacity_error`)."""
        volume, budget, beta = self.volume, self.budget, float(self.beta.detach().abs())
        places = sample(volume, origins, directions, beta, budget.coarse, budget.fine, None)
        points = origins[:, None] + places.distance[..., None] * directions[:, None]
        return opacity_error(volume.sdf(points), places.spacing, beta)

    @torch.no_grad()
    def surface(self) -> Mesh:
        """The mesh where rays become opaque: a grazing one does so ``OPAQUE`` widths outside of the
        zero set, which is therefore fitted too small by as much.

        Raises:
            ValueError: there is no surface.
        """
        return surface(self.volume.lattice(), OPAQUE * float(self.beta.abs()))
