r"""Pictures to latents and back, behind one interface: a closed-form patch codec, or diffusers'
``AutoencoderKL``.

Latents of both come out with about unit scale. The denoiser diffuses not the latent but its
*residual to the reference picture's latent*, divided by :attr:`Codec.residual_scale` (its standard
deviation on the public people).
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Codec(Protocol):
    """``factor`` pixels per side of a latent cell, ``channels`` numbers per cell."""

    factor: int
    channels: int
    residual_scale: float

    def encode(self, pictures: Tensor) -> Tensor:
        """``[N, H, W, 3] in [0, 1] -> [N, channels, H / factor, W / factor]``."""

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse, not clamped; differentiable."""


class PatchPCA(torch.nn.Module):
    r"""Principal components of square patches: :math:`z = V^\top (x - m) / s`, decoded by :math:`x
    = s V z + m`.

    Closed form, fitted in a second on a few thousand patches; s is one common scale, so components
    keep their relative size (whitened ones would make the denoiser spend itself on noise).
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, factor: int, channels: int, residual_scale: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.channels = channels
        self.residual_scale = residual_scale
        size = 3 * factor * factor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.zeros(size, channels))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def fit(cls, pictures: Tensor, factor: int, channels: int) -> PatchPCA:
        """Fit to ``pictures [N, H, W, 3]``; raises ``ValueError`` if there are fewer patches than
        channels."""
        codec = cls(factor, channels)
        cells = codec._patches(pictures).flatten(2).transpose(1, 2)
        patches = cells.reshape(-1, codec.mean.numel()).double()
        if len(patches) < channels:
            raise ValueError(f"{len(patches)} patches cannot give {channels} components")
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        basis = vectors[:, -channels:].flip(1)
        # Eigenvectors have no sign of their own: the largest entry of each is made positive.
        sign = basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
        codec.mean.copy_(mean)
        codec.basis.copy_(basis * sign)
        codec.scale.fill_(float(values[-channels:].mean().sqrt()))
        return codec

    def _patches(self, pictures: Tensor) -> Tensor:
        """``[N, H, W, 3] -> [N, 3 f^2, h, w]``."""
        return torch.nn.functional.pixel_unshuffle(pictures.movedim(-1, 1), self.factor)

    def encode(self, pictures: Tensor) -> Tensor:
        patches = self._patches(pictures) - self.mean[:, None, None]
        return torch.einsum("nphw,pc->nchw", patches, self.basis) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        patches = (
            torch.einsum("nchw,pc->nphw", latents * self.scale, self.basis)
            + self.mean[:, None, None]
        )
        return torch.nn.functional.pixel_shuffle(patches, self.factor).movedim(1, -1)


class KLCodec(torch.nn.Module):
    """An ``AutoencoderKL``: the mean of its posterior, in its own latent scale
    (``scaling_factor``)."""

    def __init__(self, vae: Any, residual_scale: float = 1.0) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = int(vae.config.latent_channels)
        self.residual_scale = residual_scale

    def encode(self, pictures: Tensor) -> Tensor:
        posterior = self.vae.encode(pictures.movedim(-1, 1) * 2 - 1).latent_dist
        return (posterior.mode() - self._shift) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        raw = latents / self.vae.config.scaling_factor + self._shift
        return (self.vae.decode(raw).sample / 2 + 0.5).movedim(1, -1)

    @property
    def _shift(self) -> float:
        return float(self.vae.config.shift_factor or 0.0)
