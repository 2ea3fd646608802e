"""Statistics of a secure sum's messages: tests a curious server would run on its transcript.

If masks are uniform, an upload is uniform bytes, uncorrelated with the input it hides and with any
other upload. Each statistic is a standard normal (or a p-value) under that hypothesis, whatever the
inputs are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LARGEST_Z = 5.0  # two-sided 6e-7
SMALLEST_P = 1e-6


class TranscriptScore(NamedTuple):
    """``bytes_p``: chi-square p-value of the upload's bytes; ``input_z``: largest sqrt(d)
    |corr(upload, input)|; ``pair_z``: the same between uploads."""

    bytes_p: float
    input_z: float
    pair_z: float

    @property
    def leaks(self) -> bool:
        """Whether any statistic is beyond what uniform uploads show once in a million."""
        return self.bytes_p < SMALLEST_P or self.input_z > LARGEST_Z or self.pair_z > LARGEST_Z


def score_transcript(uploads: NDArray[np.uint32], inputs: NDArray[np.float64]) -> TranscriptScore:
    """Score the uploads ``[n, d]`` of one sum against the inputs ``[n, d]`` they hide.

    Inputs that do not vary have no correlation and are left out of it.
    """
    from scipy.stats import chi2

    counts = np.bincount(uploads.view(np.uint8).ravel(), minlength=256)
    expected = counts.sum() / 256
    p = float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 255))
    seen = _standardise(uploads.view(np.int32).astype(np.float64))
    hidden = _standardise(inputs)
    root = np.sqrt(uploads.shape[1])
    own = np.abs((seen * hidden).mean(axis=1)) * root
    pairs = np.abs(seen @ seen.T / uploads.shape[1])[np.triu_indices(len(uploads), 1)] * root
    return TranscriptScore(p, float(own.max(initial=0.0)), float(pairs.max(initial=0.0)))


def _standardise(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = rows - rows.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
