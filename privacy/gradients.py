"""Defences of split learning: what a client does to its targets and to the gradient that leaves.

None of these noises is accounted: no epsilon is claimed for any. (The head is trained on the very
pixels, so one pixel changes all later gradients; noise per ray cannot be composed as if it did
not.)
Draws come from the node's secret and are a function of run, exchange and step: a replayed order
gives the same bits and averages nothing away. A server that starts another run gets other noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from privacy.node_secret import SecretDraws


class GradientDefence(Protocol):
    """A client's way to protect one mini-batch; ``progress`` in [0, 1] of the training."""

    def targets(self, colours: Tensor, draws: SecretDraws) -> Tensor:
        """The colours ``[B, 3]`` it trains on."""

    def protect(self, gradient: Tensor, progress: float, draws: SecretDraws) -> Tensor:
        """What leaves of the gradient ``[M, W]``, before the wire format."""


def _normal(shape: torch.Size, draws: SecretDraws) -> Tensor:
    return torch.from_numpy(draws.normal(shape.numel())).float().view(shape)


@dataclass(frozen=True)
class Bare:
    """No defence."""

    def targets(self, colours: Tensor, draws: SecretDraws) -> Tensor:
        return colours

    def protect(self, gradient: Tensor, progress: float, draws: SecretDraws) -> Tensor:
        return gradient


@dataclass(frozen=True)
class DecayingNoise(Bare):
    r"""S2NeRF's noise. *S2NeRF: Privacy-preserving Training Framework for NeRF*, B. Chen et al.,
    CCS
    2024, https://arxiv.org/abs/2409.01661 (formula from the released program).

    .. math::
        \tilde G = G + Z, \quad Z_{ij} \sim N(0, \sigma_t^2), \quad
        \sigma_t = c\, \max_i \lVert G_i \rVert_2\, r^{t / T}

    ``scale`` c, ``decay`` r; r = 1 is constant noise.
    """

    scale: float = 1.2
    decay: float = 1e-4

    def protect(self, gradient: Tensor, progress: float, draws: SecretDraws) -> Tensor:
        largest = torch.linalg.vector_norm(gradient.nan_to_num(), dim=1).max()
        deviation = self.scale * largest * self.decay ** min(progress, 1.0)
        return gradient.nan_to_num() + deviation * _normal(gradient.shape, draws)


@dataclass(frozen=True)
class LabelNoise(Bare):
    """Noise on the colours, drawn anew for every mini-batch; ``deviation`` on a range of [0, 1]."""

    deviation: float = 8.0

    def targets(self, colours: Tensor, draws: SecretDraws) -> Tensor:
        return colours + self.deviation * _normal(colours.shape, draws)
