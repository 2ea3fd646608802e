r"""Attackers of split radiance fields: what a server makes of the features and gradients it sees.

All are passive and are fed one transcript, step by step; none is given anything of the client's but
what its name says. The surrogate is of *S2NeRF*, B. Chen et al., CCS 2024,
https://arxiv.org/abs/2409.01661 (recipe from the released program, less the mask of true densities
that it hands its attacker); the others are ours.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tasks.optimise import Adam
from tasks.randomness import generator
from tasks.split_nerf.halves import BETAS, EPSILON, ClientHalf, Division, Places
from tasks.split_nerf.head import composite, density_of, expected_depth, named
from tasks.split_nerf.scene import Geometry, Samples

WARM = 100  # steps over which the published attack measures the ratio of its two losses
SHOWN = 3  # leading directions that the subspace attack tries
SEEN_FROM = 0.6  # share of the training after which the subspace attack looks
PROBE_STEPS = 300


class Step(NamedTuple):
    """One mini-batch as the server sees it: its number, the public positions and pixels, what it
    sent and what came back, ``[B S, W]`` each."""

    number: int
    pixels: Tensor
    places: Places
    crossing: Tensor
    gradient: Tensor


class View(NamedTuple):
    """A view to render: positions along its rays, and what the server would send for them."""

    samples: Samples
    crossing: Tensor


class Guess(NamedTuple):
    """Renderings of views: ``pictures [V, B, 3]`` and ``depths [V, B]``."""

    pictures: Tensor
    depths: Tensor


class Attacker(Protocol):
    """Something that watches a training; ``guesses`` may be several, of which the best is scored
    (on null transcripts as well)."""

    def see(self, step: Step) -> None: ...
    def guesses(self, views: list[View]) -> list[Guess]: ...


def _rendered(head: ClientHalf, views: list[View], background: float) -> Guess:
    found = [head.render(view.samples, view.crossing, background) for view in views]
    return Guess(torch.stack([one for one, _ in found]), torch.stack([two for _, two in found]))


class Surrogate:
    r"""Surrogate model attack: a head of the same shape and a dummy picture for every view, fitted
    so
    that the surrogate's gradient is the one received.

    .. math:: L = \lambda \rho L_g + \mathrm{mean}((\hat C'(h) - Y')^2)

    with :math:`L_g` the mean squared difference of gradients (published) or one minus their cosine
    (:math:`\rho = \lambda = 1`), and :math:`\rho` the ratio of the two losses over the first steps.

    Args:
        division: of the field.
        geometry: of the scene.
        distance: ``mse`` or ``cosine``.
        schedule: of its step size: ``10/t`` (published) or ``tenth`` (a tenth at the end).
        start: share of the training after which it begins.
        seed: of its own start.
    """

    def __init__(
        self,
        division: Division,
        geometry: Geometry,
        distance: str,
        schedule: str,
        start: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.division = division
        self.geometry = geometry
        self.distance = distance
        self.schedule = schedule
        self.first = int(start * division.steps)
        stream = generator("surrogate", seed)
        self.head = ClientHalf(division, named(stream))
        total = len(geometry.poses) * geometry.height * geometry.width
        self.dummy = torch.empty(total, 3).normal_(generator=stream).abs().clamp(0, 1)
        self.head_adam = Adam(division.rate, BETAS, EPSILON)
        self.dummy_adam = Adam(division.rate, BETAS, EPSILON)
        self.ratios: list[float] = []

    def _rate(self, step: int) -> float:
        done = step - self.first
        if self.schedule == "10/t":
            return self.division.rate * 10 / (done + 1)
        return self.division.rate * 0.1 ** (done / max(self.division.steps - self.first, 1))

    def see(self, step: Step) -> None:
        if step.number < self.first:
            return
        division = self.division
        crossing = step.crossing.detach().requires_grad_()
        params = self.head.head.params.detach().requires_grad_()
        dummy = self.dummy[step.pixels].detach().requires_grad_()
        density, colour = division.head.shade(
            params,
            crossing.view(division.rays, -1, crossing.shape[1]),
            step.places.samples.directions,
        )
        shown = composite(density, colour, step.places.samples, self.geometry.background)
        error = (shown - dummy).square().mean()
        (own,) = torch.autograd.grad(error, crossing, create_graph=True)
        if self.distance == "cosine":
            apart = 1 - torch.nn.functional.cosine_similarity(
                own.flatten(), step.gradient.flatten(), 0, eps=1e-30
            )
            loss = apart + error
        else:
            apart = (own - step.gradient).square().mean()
            if len(self.ratios) < WARM:
                self.ratios.append(float((error / apart.clamp(min=1e-30)).detach()))
            loss = 0.01 * (sum(self.ratios) / len(self.ratios)) * apart + error
        onto = torch.autograd.grad(loss, [params, dummy])
        if not all(bool(torch.isfinite(part).all()) for part in onto):
            return
        self.head_adam.rate = self.dummy_adam.rate = self._rate(step.number)
        self.head.head.params = params.detach() - self.head_adam.direction(onto[0])
        whole = torch.zeros_like(self.dummy).index_add_(0, step.pixels, onto[1])
        self.dummy = (self.dummy - self.dummy_adam.direction(whole)).clamp(0, 1)

    def guesses(self, views: list[View]) -> list[Guess]:
        return [_rendered(self.head, views, self.geometry.background)]


class Subspace:
    """Gradients of a linear first layer lie in the space of its rows: one eigen-decomposition of
    their averaged second moments gives the row of the density, and false colours. No training.

    Noise of known deviation adds a multiple of the identity, which moves no eigenvector.
    """

    def __init__(self, division: Division, geometry: Geometry) -> None:
        width = division.head.crossing
        self.division = division
        self.geometry = geometry
        self.moment = torch.zeros(width, width, dtype=torch.float64)

    def see(self, step: Step) -> None:
        if step.number >= SEEN_FROM * self.division.steps:
            rows = step.gradient.double()
            # Batches count by the inverse of their noise, which their own size shows
            self.moment += rows.T @ rows / rows.square().mean().clamp(min=1e-60)

    def guesses(self, views: list[View]) -> list[Guess]:
        _, vectors = torch.linalg.eigh(self.moment)
        return [
            guess
            for index in range(min(SHOWN, vectors.shape[1]))
            for guess in along(
                vectors[:, -1 - index].float(), vectors.float(), views, self.geometry
            )
        ]


class Probe:
    """No gradients and no training at all: the leading direction of the features themselves."""

    def __init__(self, division: Division, geometry: Geometry) -> None:
        self.geometry = geometry

    def see(self, step: Step) -> None:
        return

    def guesses(self, views: list[View]) -> list[Guess]:
        rows = torch.cat([view.crossing for view in views]).double()
        rows = rows - rows.mean(0)
        _, vectors = torch.linalg.eigh(rows.T @ rows)
        return along(vectors[:, -1].float(), vectors.float(), views, self.geometry)


def along(direction: Tensor, basis: Tensor, views: list[View], geometry: Geometry) -> list[Guess]:
    """Renderings in which features along ``direction [W]`` (either sign) are log-densities and
    three more of the ``basis [W, W]`` are false colours."""
    found = []
    for sign in (1.0, -1.0):
        pictures, depths = [], []
        for view in views:
            raw = sign * (view.crossing @ direction)
            low, high = raw.quantile(0.5), raw.quantile(0.95)
            raw = (raw - low) / (high - low).clamp(min=1e-12)
            reach = float((view.samples.spacing * view.samples.distance.shape[1]).mean())
            logs = (math.log(1 / reach) + raw * math.log(60)).clamp(-8, 8)
            density = density_of(logs).view(view.samples.distance.shape)
            three = (
                view.crossing @ basis[:, -4:-1] if len(basis) > 3 else raw[:, None].expand(-1, 3)
            )
            three = torch.sigmoid((three - three.mean(0)) / three.std(0).clamp(min=1e-12))
            colour = three.view(*density.shape, 3)
            pictures.append(composite(density, colour, view.samples, geometry.background))
            depths.append(expected_depth(density, view.samples))
        found.append(Guess(torch.stack(pictures), torch.stack(depths)))
    return found


class OneImage:
    """Scene-aided: one picture with its camera has leaked; a fresh head is fitted to it on the
    frozen
    features, and renders the other views.

    ``leaked`` is its view, whose crossing the server can make at any time; ``colours [B, 3]`` its
    pixels.
    """

    def __init__(self, division: Division, geometry: Geometry, seed: int = 0) -> None:
        self.division = division
        self.geometry = geometry
        self.seed = seed

    def see(self, step: Step) -> None:
        return

    def fit(self, leaked: View, colours: Tensor) -> None:
        division = self.division
        head = Division(
            division.encoder,
            division.head,
            division.rays,
            division.samples,
            PROBE_STEPS,
            division.rate,
        )
        self.head = ClientHalf(head, named(generator("one image", self.seed)))
        crossing = leaked.crossing.view(len(colours), -1, leaked.crossing.shape[1])
        stream = generator("one image rays", self.seed)
        for step in range(PROBE_STEPS):
            at = torch.empty(division.rays).uniform_(0, len(colours), generator=stream).long()
            samples = Samples(
                leaked.samples.points,
                leaked.samples.directions[at],
                leaked.samples.spacing[at],
                leaked.samples.distance[at],
            )
            self.head.step(
                samples, crossing[at].flatten(0, 1), colours[at], self.geometry.background, step
            )

    def guesses(self, views: list[View]) -> list[Guess]:
        return [_rendered(self.head, views, self.geometry.background)]


class KnownStart:
    """A server that knows the head's initial weights (drawn from a seed of the run, say) solves
    each
    ray's gradient for its colour, takes the client's step itself, and ends with the client's head.

    A positive control: why initial weights come from a secret of the node.
    """

    def __init__(self, division: Division, geometry: Geometry, start: ClientHalf) -> None:
        self.division = division
        self.geometry = geometry
        self.head = start

    def see(self, step: Step) -> None:
        division, samples = self.division, step.places.samples
        crossing = step.crossing.detach().requires_grad_()
        density, colour = division.head.shade(
            self.head.head.params,
            crossing.view(division.rays, -1, crossing.shape[1]),
            samples.directions,
        )
        shown = composite(density, colour, samples, self.geometry.background)
        rows = [
            torch.autograd.grad(shown[:, channel].sum(), crossing, retain_graph=True)[0]
            for channel in range(3)
        ]
        jacobian = torch.stack(rows, -1).view(division.rays, -1, 3).double()
        received = step.gradient.view(division.rays, -1, 1).double()
        normal = jacobian.mT @ jacobian
        ease = 1e-9 * normal.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-30)
        onto = torch.linalg.solve(
            normal + ease[:, None, None] * torch.eye(3, dtype=torch.float64), jacobian.mT @ received
        )[..., 0]
        targets = (shown.detach() - onto.float() * (1.5 * division.rays)).clamp(0, 1)
        self.head.step(samples, step.crossing, targets, self.geometry.background, step.number)

    def guesses(self, views: list[View]) -> list[Guess]:
        return [_rendered(self.head, views, self.geometry.background)]


# ---------------------------------------------------------------------- scores
class Score(NamedTuple):
    """Share of a scene that a guess shows, means over views.

    psnr_affine: dB after the best affine map of each channel; ssim of that; edge: correlation of
    gradient magnitudes; depth: rank correlation with the depths that the field trained in one place
    finds.
    """

    psnr_affine: float
    ssim: float
    edge: float
    depth: float


def score(guess: Guess, pictures: Tensor, depths: Tensor) -> Score:
    """Score renderings against ``pictures [V, H, W, 3]`` and ``depths [V, H, W]``."""
    from tasks.metrics import psnr, ssim

    rows = []
    for shown, depth, truth, true_depth in zip(*guess, pictures, depths, strict=True):
        fitted = affine(shown.reshape(-1, 3), truth.reshape(-1, 3)).view(truth.shape)
        rows.append(
            (
                psnr(fitted, truth),
                ssim(fitted, truth) or 0.0,
                correlation(edges(shown.reshape(truth.shape)), edges(truth)),
                correlation(ranks(depth.flatten()), ranks(true_depth.flatten())),
            )
        )
    return Score(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))


def best(guesses: list[Guess], pictures: Tensor, depths: Tensor) -> tuple[Guess, Score]:
    """The guess with the clearest edges; every column is the best over guesses, so that null
    transcripts get the same choice."""
    scored = [(guess, score(guess, pictures, depths)) for guess in guesses]
    top = max(scored, key=lambda pair: pair[1].edge)[0]
    return top, Score(*(max(column) for column in zip(*(s for _, s in scored), strict=True)))


def affine(shown: Tensor, truth: Tensor) -> Tensor:
    """Channels of ``truth [N, 3]`` as affine functions of the three shown ones (least squares)."""
    design = torch.cat([shown.nan_to_num(), torch.ones(len(shown), 1)], 1).double()
    solution = torch.linalg.lstsq(
        design.T @ design + 1e-9 * torch.eye(4, dtype=torch.float64), design.T @ truth.double()
    ).solution
    return (design @ solution).float()


def edges(picture: Tensor) -> Tensor:
    """Gradient magnitude of the grey values of ``[H, W, 3]``, by Sobel."""
    grey = picture.nan_to_num().mean(-1)[None, None]
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])[None, None]
    across = torch.nn.functional.conv2d(grey, kernel)
    down = torch.nn.functional.conv2d(grey, kernel.mT)
    return (across.square() + down.square()).sqrt().flatten()


def ranks(values: Tensor) -> Tensor:
    """Ranks of numbers, equal ones sharing theirs."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(values.nan_to_num().numpy()))


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's; 0 where one of both is constant."""
    one, other = one.double() - one.double().mean(), other.double() - other.double().mean()
    size = float(one.norm() * other.norm())
    return float(one @ other) / size if size > 0 else 0.0
