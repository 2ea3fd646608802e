r"""Quality of a generated head: mouth, motion, identity. Videos are ``[T, H, W, 3]`` in [0, 1].

The mouth is judged by its *darkness trace*: minus the mean luminance of the box a mouth lies in
(rows 58-84 %, columns 30-70 %), frame by frame, in the true and in the generated video alike. It
needs no landmarks or network, follows the opening of parametric mouths (correlation above 0.97),
and says little about heads that move out of the box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOUTH = (0.58, 0.84, 0.30, 0.70)  # top, bottom, left, right
LUMINANCE = (0.2126, 0.7152, 0.0722)
STILL = 1e-5  # standard deviation below which a trace is rounding, not motion
GRID = 8  # cells per side of the appearance embedding


def mouth_trace(video: Tensor) -> Tensor:
    """Darkness of the mouth's box by frame, ``[T]``; rises with the opening."""
    height, width = video.shape[1:3]
    top, bottom, left, right = (
        round(part * side) for part, side in zip(MOUTH, (height, height, width, width), strict=True)
    )
    box = video[:, top:bottom, left:right]
    return -(box @ video.new_tensor(LUMINANCE)).mean((1, 2))


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's, ``None`` where one of them does not move (a still picture has no mouth
    correlation)."""
    a, b = (x.double() - x.double().mean() for x in (a, b))
    if min(a.square().mean(), b.square().mean()) < STILL**2:
        return None
    return float((a * b).sum() / (a.norm() * b.norm()))


def mouth_slope(traces: Sequence[Tensor], openings: Sequence[Tensor | None]) -> float | None:
    """Rise of the trace from closed to open, by least squares over one person's true clips.

    ``None`` where the opening is not known; errors are then in units of luminance.
    """
    known = [opening for opening in openings if opening is not None]
    if len(known) < len(traces):
        return None
    trace = torch.cat(list(traces)).double()
    opening = torch.cat(known).double()
    spread = opening - opening.mean()
    return float((spread * trace).sum() / spread.square().sum().clamp(min=1e-9))


def jitter(video: Tensor) -> float:
    """Mean absolute difference of consecutive frames; compare it with the true video's, not with
    0."""
    return float(video.diff(dim=0).abs().mean()) if len(video) > 1 else 0.0


def appearance(video: Tensor) -> Tensor:
    """``[GRID * GRID * 3]``: mean colours of a coarse grid over all frames, less their mean: who it
    looks like.

    No face network: tells parametric people (and clothes, and backdrops) apart, claims nothing
    about real faces.
    """
    return appearance_of_frames(video).mean(0)


def similarity(a: Tensor, b: Tensor) -> float:
    """Cosine of two embeddings."""
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def nearest(embedding: Tensor, gallery: Tensor) -> int:
    """Row of ``gallery [N, D]`` with the largest cosine."""
    return int(torch.nn.functional.cosine_similarity(embedding[None], gallery).argmax())


def appearance_of_frames(pictures: Tensor) -> Tensor:
    """:func:`appearance` of single pictures: ``[N, H, W, 3] -> [N, GRID * GRID * 3]``;
    differentiable."""
    cells = torch.nn.functional.adaptive_avg_pool2d(pictures.movedim(-1, 1), GRID)
    return (cells - cells.mean((2, 3), keepdim=True)).flatten(1)
