r"""A feature grid that nobody holds: additive shares of its table on two holders.

**Guarantee** (new: ``docs/split.md`` says what broke it, and what is open). Whatever *one*
holder is sent in a whole training, and whatever it answers, the
distribution of what it receives is the same for every client's pictures, up to the advantage of
telling AES-128-CTR from random: the messages it gets are uniform in :math:`Z_{2^{64}}` or short
seeds, independent of the pictures, for a holder that follows the protocol as for one that sends
anything it likes. *Conditions:* the two holders do not pool what they have (one that controls both
reads the features as if they were not shared; ``fedapp attack`` shows that as its positive
control);
positions and cameras are public, and rays are drawn from a public seed, never by what pictures show
(no importance sampling, no occupancy grid); keys are pinned by a roster that the server cannot
write. *Not covered:* integrity (a holder can spoil the training), the fact
and the timing of taking part, how long a client computes, what it releases itself (metrics,
renderings), and what its node sends of the same pictures in other tasks.

**Arithmetic.** Features are linear in the table, so with everything in :math:`Z_{2^{64}}` holder s
computes alone

.. math::
    h_s = \sum_c \tilde w_c\, \theta_s[i_c], \qquad
    \theta_s \leftarrow \theta_s - D(v)\, \tilde W^{\top} g_s

and :math:`h_1 + h_2`, :math:`\theta_1 + \theta_2` are what one table would give, exactly:
:math:`\tilde w` are interpolation weights in 12 bits, D a preconditioner in 8, both from public
positions. Only the top 32 bits of :math:`h_s` are sent (dropping low bits of both shares is off by
one unit at most, whatever wraps). The client sends :math:`g - \mathrm{PRG}(k)` to one holder and
the seed k to the other.

**Descent.** Adam is not linear in the gradient, so shares cannot do it. The client divides each
level's gradient by a running root mean square of its own, which stays with it; the holders divide
by
public visit counts:

.. math::
    D = \frac{1}{\sqrt v + 2^{-3}}, \qquad v \leftarrow 0.99\, v + 0.01\, (\tilde W^{\top} 1)^2
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from tasks.split_nerf.grids import Grid, Visits
from tasks.split_nerf.halves import Division, Places
from tasks.split_nerf.scene import Geometry

WEIGHT_BITS = 12
PRECONDITION_BITS = 8
GRADIENT_BITS = 20
TABLE_BITS = WEIGHT_BITS + PRECONDITION_BITS + GRADIENT_BITS
DROPPED = 32  # low bits of a feature's share that are not sent
FEATURE_BITS = TABLE_BITS + WEIGHT_BITS - DROPPED
KEPT = 0.99  # of running means
EASE = 2.0**-3
STEP = 0.01  # unit of the step size
LARGEST = 2.0**21  # of a scaled gradient: what leaves the range would wrap around


def in_ring(values: Tensor, bits: int) -> Tensor:
    """Numbers as elements of Z_2^64 (int64) with so many fractional bits."""
    return torch.round(values.double() * 2.0**bits).long()


def from_ring(values: Tensor, bits: int) -> Tensor:
    """Inverse of :func:`in_ring`, up to rounding."""
    return (values.double() / 2.0**bits).float()


def whole_weights(visits: Visits) -> Visits:
    """Visits with interpolation weights as whole numbers."""
    weights = torch.round(visits.weights * 2.0**WEIGHT_BITS)  # exact: a power of two
    return Visits(visits.rows, weights.long())


def positions(
    division: Division, geometry: Geometry, seed: int, first: int, count: int
) -> list[Places]:
    """Mini-batches of positions as holders see them, weights in whole numbers."""
    found = [division.places(geometry, seed, step) for step in range(first, first + count)]
    return [Places(places.samples, whole_weights(places.visits)) for places in found]


def fingerprint_of(batches: list[Places]) -> bytes:
    """Digest of several mini-batches of positions."""
    return hashlib.sha256(b"".join(digest_of(places.visits) for places in batches)).digest()


def looked_at(division: Division, geometry: Geometry, rays: Tensor) -> list[Places]:
    """Positions of a view as one mini-batch."""
    samples = geometry.march_rays(rays, division.samples)
    return [Places(samples, whole_weights(division.encoder.visit(samples.points)))]


def digest_of(visits: Visits) -> bytes:
    """SHA-256 of a batch's positions as a holder sees them: shares of holders that rounded one
    weight
    differently would not add up, so the client compares."""
    text = hashlib.sha256(visits.rows.contiguous().numpy().data)
    text.update(visits.weights.to(torch.int16).contiguous().numpy().data)
    return text.digest()


class Holder:
    """One holder's share of a table.

    Args:
        grid: whose table.
        share: ``[R, F]`` in the ring: the public start, or zeros.
    """

    def __init__(self, grid: Grid, share: Tensor) -> None:
        self.grid = grid
        self.share = share
        self.visited = torch.zeros(grid.rows, dtype=torch.float64)

    @classmethod
    def first(cls, grid: Grid, start: Tensor) -> Holder:
        """The holder that begins with the public initial table ``[R, F]``."""
        return cls(grid, in_ring(start, TABLE_BITS))

    @classmethod
    def second(cls, grid: Grid) -> Holder:
        """The holder that begins with nothing."""
        return cls(grid, torch.zeros(grid.rows, grid.features, dtype=torch.int64))

    def embed(self, visits: Visits) -> Tensor:
        """This holder's share of features, ``[M, L F]`` int32."""
        return (self.grid.read(self.share, visits) >> DROPPED).to(torch.int32)

    def learn(self, visits: Visits, share: Tensor) -> None:
        """One step with this holder's ``share [M, L F]`` of the scaled gradient."""
        count = self.grid.visited(visits).double() / 2**WEIGHT_BITS
        self.visited = KEPT * self.visited + (1 - KEPT) * count.square()
        divided = in_ring(1 / (self.visited.sqrt() + EASE), PRECONDITION_BITS)
        self.share = self.share - divided[:, None] * self.grid.pull_back(share, visits)

    def tensors(self) -> dict[str, Tensor]:
        return {"share": self.share.clone(), "visited": self.visited.clone()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.share = tensors["share"].clone()
        self.visited = tensors["visited"].clone()


def joined(one: Tensor, other: Tensor) -> Tensor:
    """Features ``[M, L F]`` from both holders' shares (int32)."""
    return from_ring(one + other, FEATURE_BITS)


class Scaler:
    """The client's side of the descent: a private running scale per level.

    Args:
        levels: L.
        rate: step size at the start.
    """

    def __init__(self, levels: int, rate: float) -> None:
        self.squares = torch.zeros(levels, dtype=torch.float64)
        self.rate = rate
        self.steps = 0

    def encode(self, gradient: Tensor, fade: float) -> Tensor:
        """The scaled gradient in the ring, ``[M, L F]`` int64.

        Args:
            gradient: ``[M, L F]``.
            fade: share of the first step size that is left.

        A gradient that is not finite counts as zero.
        """
        if not bool(torch.isfinite(gradient).all()):
            # Total: that something overflowed is not for a holder to see
            gradient = torch.zeros_like(gradient)
        levels = gradient.double().view(len(gradient), len(self.squares), -1)
        self.steps += 1
        self.squares = KEPT * self.squares + (1 - KEPT) * levels.square().mean((0, 2))
        scale = (self.squares / (1 - KEPT**self.steps)).sqrt().clamp(min=1e-30)
        scaled = levels / scale[None, :, None] * (STEP * self.rate * fade)
        return in_ring(scaled.clamp(-LARGEST, LARGEST).reshape(gradient.shape), GRADIENT_BITS)

    def tensors(self) -> dict[str, Tensor]:
        return {"scale.squares": self.squares.clone(), "scale.steps": torch.tensor(self.steps)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.squares = tensors["scale.squares"].clone()
        self.steps = int(tensors["scale.steps"])


def measured_rate(batches: int) -> float:
    """Step size for K mini-batches per exchange, as measured on procedural rooms
    (``docs/split.md``)."""
    return 8.0 if batches == 1 else 4.0
