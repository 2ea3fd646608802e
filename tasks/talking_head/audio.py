r"""Speech as tokens: log-mel energies in a window around every frame, without torchaudio.

The mel filters are triangles, equally spaced on the mel scale :math:`m(f) = 2595 \log_{10}(1 +
f/700)` (O'Shaughnessy, *Speech Communication*, 1987) between 0 Hz and half the sampling rate, on
the power spectrum of Hann windows of 25 ms every 10 ms. A frame of video gets the 16 mel frames
(160 ms) whose middle is the middle of that video frame.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from tasks.data.recordings.clips import RATE, SAMPLES_PER_FRAME

BINS = 32  # mel filters
HOP = 160  # samples between two windows
WINDOW = 400  # samples per window
FFT = 512
TOKENS = 16  # mel frames per video frame
# Log-mel of a quiet and of a loud voice come to lie within about [-2, 2].
FLOOR = 1e-6
CENTRE = -4.0
SCALE = 4.0


@lru_cache(maxsize=1)
def mel_filters() -> Tensor:
    """``[FFT/2 + 1, BINS]``, each column one triangle of height 1."""

    def to_mel(f: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + f / 700)

    edges = torch.linspace(0, float(to_mel(torch.tensor(RATE / 2))), BINS + 2, dtype=torch.float64)
    corners = 700 * (10 ** (edges / 2595) - 1)
    frequency = torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64)[:, None]
    low = corners[:-2]
    peak = corners[1:-1]
    high = corners[2:]
    rising = (frequency - low) / (peak - low)
    falling = (high - frequency) / (high - peak)
    return torch.minimum(rising, falling).clamp(min=0).float()


def log_mel(audio: Tensor) -> Tensor:
    """``audio [n] -> [1 + n // HOP, BINS]``, frame i centred on sample ``i * HOP``; scaled to about
    [-2, 2]."""
    spectrum = torch.stft(
        audio,
        FFT,
        HOP,
        WINDOW,
        window=torch.hann_window(WINDOW, device=audio.device),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    energy = spectrum.abs().square().T @ mel_filters().to(audio.device)
    return (torch.log(energy + FLOOR) - CENTRE) / SCALE


def tokens(audio: Tensor, frames: int) -> Tensor:
    """``[frames, TOKENS, BINS]``: what was heard around each video frame; beyond the ends there is
    silence."""
    mel = log_mel(audio)
    quiet = (torch.log(torch.tensor(FLOOR)) - CENTRE) / SCALE
    padded = torch.nn.functional.pad(mel, (0, 0, TOKENS, 2 * TOKENS), value=float(quiet))
    middle = (
        torch.arange(frames, device=audio.device) * SAMPLES_PER_FRAME + SAMPLES_PER_FRAME // 2
    ) // HOP
    first = middle - TOKENS // 2 + TOKENS  # the padding shifts everything by TOKENS
    index = (first[:, None] + torch.arange(TOKENS, device=audio.device)).clamp(max=len(padded) - 1)
    return padded[index]
