r"""Scores that need somebody's trained network: computed where the user supplies one, else not
computed.

``talking-head.judges`` names TorchScript files: ``lpips`` (two batches ``[N, 3, H, W]`` in [-1, 1]
to distances ``[N]``), ``features`` (``[N, 3, H, W]`` in [-1, 1] to ``[N, D]``, for the Frechet
distance), ``face`` (the same shapes, an identity embedding) and ``sync`` (``[T, 3, H, W]`` and
log-mel ``[T, TOKENS, BINS]`` to one confidence).

Frechet distance: *GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium*, M. Heusel et al., NeurIPS 2017, https://arxiv.org/abs/1706.08500.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.errors import InputError, nearest
from tasks.metrics import load_network

NAMES = ("lpips", "features", "face", "sync")

log = logging.getLogger("flwr")


def _pixels(video: Tensor) -> Tensor:
    """``[N, H, W, 3] in [0, 1] -> [N, 3, H, W] in [-1, 1]``."""
    return video.movedim(-1, 1) * 2 - 1


@dataclass(frozen=True)
class Judges:
    """The networks that were supplied; ``None`` where there is none."""

    lpips: Any = None
    features: Any = None
    face: Any = None
    sync: Any = None

    @classmethod
    def of(cls, text: str) -> Judges:
        """From the JSON object of the config; raises :class:`InputError` for a name or file that is
        wrong."""
        found = {}
        for name, file in json.loads(text).items():
            if name not in NAMES:
                raise InputError("talking-head.judges", name, "no such judge", nearest(name, NAMES))
            found[name] = load_network("talking-head.judges", str(file))
        return cls(**found)

    def perceptual(self, a: Tensor, b: Tensor) -> Tensor:
        """``[N]`` LPIPS distances of ``[N, H, W, 3]`` pictures; differentiable."""
        return self.lpips.to(a.device)(_pixels(a), _pixels(b)).flatten()

    @torch.no_grad()
    def scores(
        self, found: Tensor, truth: Tensor, mel: Tensor, reference: Tensor
    ) -> dict[str, float | None]:
        """Scores of one generated video; ``None``: not computed.

        Args:
            found: the generated video, ``[T, H, W, 3]`` in [0, 1].
            truth: the true one, of the same shape.
            mel: speech around each frame, ``[T, TOKENS, BINS]``.
            reference: picture of the person, ``[H, W, 3]``.
        """
        row: dict[str, float | None] = dict.fromkeys(
            ("lpips", "face_similarity", "sync_confidence")
        )
        if self.lpips is not None:
            row["lpips"] = float(self.perceptual(found, truth).mean())
        if self.face is not None:
            shown = self.face(_pixels(found))
            wanted = self.face(_pixels(reference[None]))
            likeness = torch.nn.functional.cosine_similarity(shown, wanted)
            row["face_similarity"] = float(likeness.mean())
        if self.sync is not None:
            row["sync_confidence"] = float(self.sync(_pixels(found), mel))
        return row

    @torch.no_grad()
    def frechet(self, found: Tensor, truth: Tensor) -> float | None:
        r""":math:`\lVert\mu_1-\mu_2\rVert^2 +
        \mathrm{tr}(\Sigma_1+\Sigma_2-2(\Sigma_1\Sigma_2)^{1/2})` of features."""
        if self.features is None:
            return None
        rows = [self.features(_pixels(video)).double() for video in (found, truth)]
        frames = min(len(row) for row in rows)
        features = rows[0].shape[1]
        if frames <= features:  # the covariances would be singular and the number meaningless
            log.warning(
                "Fréchet distance not computed: it needs more frames than features (%d, %d)",
                frames,
                features,
            )
            return None
        means = [row.mean(0) for row in rows]
        covariances = [torch.cov(row.T) for row in rows]
        values = torch.linalg.eigvals(covariances[0] @ covariances[1])
        root = values.real.clamp(min=0).sqrt().sum()
        trace = covariances[0].trace() + covariances[1].trace() - 2 * root
        return float((means[0] - means[1]).square().sum() + trace)
