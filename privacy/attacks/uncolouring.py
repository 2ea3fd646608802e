"""Making pictures again from what an operator left of them: by a network trained on other people,
and by descent on the picture itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from privacy.attacks.networks import drawn
from tasks.modulus import gradient_modulus
from tasks.randomness import generator

WIDTH = 20
BATCH = 24
RATE = 2e-3
DESCENT = 300  # steps of Adam on a picture
LUMA = (0.299, 0.587, 0.114)


class Block(nn.Module):
    """Two convolutions."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, 1, 1), nn.GroupNorm(4, after), nn.GELU(),
            nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(4, after), nn.GELU(),
        )  # fmt: skip

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.body(values)
        return found


class Inverter(nn.Module):
    """A U-Net from what leaves ``[N, C, S, S]`` to colours ``[N, 3, S, S]``; S a multiple of 8.
    Four pixels of a square are the channels of one at the finest level: as sharp, and a sixth of
    the work."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            Block(before, after)
            for before, after in (
                (4 * channels, WIDTH), (WIDTH, 2 * WIDTH), (2 * WIDTH, 2 * WIDTH),
            )
        )  # fmt: skip
        self.up = nn.ModuleList(
            Block(before, after)
            for before, after in (
                (4 * WIDTH, WIDTH), (2 * WIDTH, WIDTH),
            )
        )  # fmt: skip
        self.last = nn.Conv2d(WIDTH, 4 * 3, 1)
        drawn(self, generator("inverter", seed))
        self.stream = generator("inverter draws", seed)

    def forward(self, values: Tensor) -> Tensor:
        kept = []
        values = nn.functional.pixel_unshuffle(values, 2)
        for level, block in enumerate(self.down):
            values = block(values if level == 0 else nn.functional.max_pool2d(values, 2))
            kept.append(values)
        for level, block in enumerate(self.up):
            larger = nn.functional.interpolate(values, scale_factor=2.0)
            values = block(torch.cat([larger, kept[-2 - level]], 1))
        return torch.sigmoid(nn.functional.pixel_shuffle(self.last(values), 2))

    def fit(
        self,
        inputs: Tensor,
        wanted: Tensor,
        steps: int,
        tell: Callable[[int], None] | None = None,
    ) -> None:
        """Learn from ``inputs [N, C, S, S]`` and ``wanted [N, 3, S, S]`` of other people."""
        optimiser = torch.optim.AdamW(self.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, max(steps, 2))
        for step in range(steps):
            chosen = torch.randint(len(inputs), (BATCH,), generator=self.stream)
            loss = (self(inputs[chosen]) - wanted[chosen]).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if tell:
                tell(step + 1)

    @torch.no_grad()
    def invert(self, inputs: Tensor) -> Tensor:
        """Colours ``[N, 3, S, S]``."""
        return torch.cat([self(part) for part in inputs.split(64)])


def descended(start: Tensor, values: Tensor, valid: Tensor, kernel: str, factor: int = 1) -> Tensor:
    """Pictures whose gradient magnitudes are the given ones, by Adam from ``start``.

    Args:
        start: ``[N, 3, S, S]`` in [0, 1].
        values, valid: what left, ``[N, H - 2, W - 2]``.
        kernel: of the magnitudes.
        factor: by which pictures were made smaller first.
    """
    own = start.clamp(0.02, 0.98).logit().requires_grad_()
    optimiser = torch.optim.Adam([own], 0.05)
    for _ in range(DESCENT):
        shown = torch.sigmoid(own)
        small = nn.functional.avg_pool2d(shown, factor) if factor > 1 else shown
        found = gradient_modulus(small.permute(0, 2, 3, 1), kernel)
        loss = ((found - values).square() * valid).sum() / valid.sum().clamp(min=1)
        smooth = (shown[..., 1:] - shown[..., :-1]).abs().mean()
        smooth = smooth + (shown[..., 1:, :] - shown[..., :-1, :]).abs().mean()
        optimiser.zero_grad()
        (loss + 1e-4 * smooth).backward()
        optimiser.step()
    return torch.sigmoid(own.detach())


class Likeness(NamedTuple):
    """Likeness to the true pictures, on the person: ``psnr`` in dB of colours, and the
    correlation of ``luminance`` (its brightness and contrast do not matter)."""

    psnr: float
    luminance: float


def likeness(found: Tensor, true: Tensor, cover: Tensor) -> Likeness:
    """Means over pictures ``[N, 3, S, S]``, where ``cover [N, S, S]`` is above one half."""
    weights = found.new_tensor(LUMA)[None, :, None, None]
    psnrs, alike = [], []
    for one, other, mask in zip(found, true, cover > 0.5, strict=True):
        error = float((one - other)[:, mask].square().mean())
        psnrs.append(-10 * torch.log10(torch.tensor(max(error, 1e-10))).item())
        grey, own = (((part[None] * weights).sum(1)[0])[mask] for part in (one, other))
        alike.append(float(torch.corrcoef(torch.stack([grey, own]))[0, 1].nan_to_num(0)))
    return Likeness(sum(psnrs) / len(psnrs), sum(alike) / len(alike))
