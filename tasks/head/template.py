r"""A template of heads: what shapes of a population have in common, small enough to be federated.

Shapes are distances to the surface on a coarse lattice, cut off at ``CUT``. A template is a mean
and K components; a head is the mean plus components times its own K coefficients (which stay
personal) plus what no template says, a fine grid (which stays personal as well). A mean alone gains
nothing from more people than a few; a basis does.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tasks.fields.sdf import FEATURES, corners, resized
from tasks.head.mesh import Mesh, sampled, surface
from tasks.head.truth import of_person

LATTICE = 16  # corners per axis
SIZE = LATTICE**3
CUT = 0.2  # head heights: further away a distance says little about the shape
RIDGE = 1.0  # prior of coefficients: components are in standard deviations
NOISE = 0.01  # deviation, in head heights, of what a template does not say
NECK = -0.5  # height below which a head is its neck: meshes and fits end there as they like
POINTS = 40_000
PUBLIC = 20_000  # number of the first person of the public population


def cut(distances: Tensor) -> Tensor:
    """Distances ``[S, S, S]`` of any resolution as a vector ``[SIZE]``."""
    return resized(distances[None], LATTICE)[0].clamp(-CUT, CUT).flatten()


def redistanced(mesh: Mesh, signs: Tensor, side: int) -> Tensor:
    """Distances ``[side, side, side]`` to a mesh, with the signs of another field of that size: a
    fitted field, an average or a noisy one is no distance any more."""
    from scipy.ndimage import label
    from scipy.spatial import cKDTree

    parts, count = label(signs.numpy() < 0)
    if count > 1:  # islands that the mesh leaves out are no insides
        largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
        signs = torch.where(torch.from_numpy(parts == largest), -1.0, 1.0)
    samples, _ = sampled(mesh, POINTS, 5)
    points = corners(side).view(-1, 3).numpy()
    apart = torch.from_numpy(cKDTree(samples).query(points)[0]).float().view(side, side, side)
    return torch.where(signs > 0, apart, -apart)


@lru_cache(1)
def counted() -> Tensor:
    """Mask of the corners that count ``[SIZE]``: 1 above the cut of the neck, 0 below."""
    return (corners(LATTICE)[..., 1].flatten() > NECK).float()


def coefficients(mean: Tensor, components: Tensor, shape: Tensor) -> Tensor:
    r"""Coefficients ``[C, K]`` of shapes ``[C, N]`` under templates ``[C, N]`` and ``[C, K, N]``:

    .. math:: z = \arg\min_z \frac{1}{2 \nu^2} \|m + B^\top z - d\|^2 + \frac{\rho}{2} \|z\|^2

    (over the corners that count: :func:`counted`).
    """
    count = components.shape[1]
    components = components * counted()
    gram = components @ components.mT + RIDGE * NOISE**2 * torch.eye(count)
    right = components @ (shape - mean)[..., None]
    found: Tensor = torch.linalg.solve(gram, right)[..., 0]
    return found


def loss(mean: Tensor, components: Tensor, shape: Tensor) -> Tensor:
    r"""What a template leaves unsaid of shapes, ``[C]``: first of its mean, then of all of it.

    .. math:: L = \frac12 \|m - d\|^2 + \frac12 \min_z \Big( \|\bar m + B^\top z - d\|^2 +
        \rho \nu^2 \|z\|^2 \Big)

    The mean stands in the second term as a constant :math:`\bar m`: otherwise coefficients take up
    what a population has in common, and the mean stays where it was (measured). Gradients of the
    components are those at the best z.
    """
    rest = (shape - mean) * counted()
    found = rest.square().sum(1) / 2
    if not components.shape[1]:
        return found
    rest = rest.detach()
    own = coefficients(mean.detach(), components, shape)
    rest = rest - (own[:, None] @ components)[:, 0] * counted()
    return found + (rest.square().sum(1) + RIDGE * NOISE**2 * own.square().sum(1)) / 2


@lru_cache(4)
def public(people: int, style: str, count: int) -> tuple[Tensor, Tensor]:
    """Mean ``[SIZE]`` and components ``[count, SIZE]`` (in standard deviations) of public people:
    scans that anybody may have."""
    numbers = range(PUBLIC, PUBLIC + people)
    shapes = torch.stack([cut(of_person(number, style, LATTICE)) for number in numbers])
    mean = shapes.mean(0)
    _, values, axes = torch.linalg.svd(shapes - mean, full_matrices=False)
    found = torch.zeros(count, SIZE)
    kept = min(count, people - 1)
    found[:kept] = axes[:kept] * values[:kept, None] / max(people - 1, 1) ** 0.5
    return mean, found


def start(mean: Tensor, side: int) -> Tensor:
    """A mean ``[SIZE]`` as the start of a fit ``[1 + F, side, side, side]``, without features, made
    distances again (an average of distances that were cut off is none)."""
    found = torch.zeros(1 + FEATURES, side, side, side)
    found[0] = resized(mean.view(1, LATTICE, LATTICE, LATTICE), side)[0]
    with contextlib.suppress(ValueError):  # no surface: noise has won; it is used as it is
        found[0] = redistanced(surface(found[0]), found[0], side)
    return found


def basis(components: Tensor) -> Tensor:
    """Components ``[K, SIZE]`` as a basis of a fit ``[K, LATTICE, LATTICE, LATTICE]``."""
    return components.view(-1, LATTICE, LATTICE, LATTICE)
