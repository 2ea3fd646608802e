"""The frozen denoiser: a diffusers UNet that hears and knows the reference, its codec, and their
files.

Each frame is denoised with the reference latent beside it on the channel axis and its own window of
speech as cross-attention tokens. ``unet = "frame"`` is ``UNet2DConditionModel`` on single frames;
``"motion"`` is ``UNetMotionModel``, which also attends along time (about twice the cost; for GPUs).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.errors import InputError
from tasks.randomness import seed_of
from tasks.talking_head.audio import BINS, TOKENS
from tasks.talking_head.codec import KLCodec, PatchPCA

ABOUT = "talking_head.json"
UNTRAINED = "no: adopted weights that have never heard speech"
LONGEST = 64  # frames a motion denoiser can attend over


class Hearing(torch.nn.Module):
    """Log-mel frames ``[N, TOKENS, BINS]`` to cross-attention tokens ``[N, TOKENS, width]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = torch.nn.Linear(BINS, width)
        self.place = torch.nn.Parameter(torch.randn(TOKENS, width) * 0.2)

    def forward(self, mel: Tensor) -> Tensor:
        return self.project(mel) + self.place


class Backbone(torch.nn.Module):
    """``unet`` predicts v of the residual latent; ``about`` says where its weights come from."""

    def __init__(
        self, unet: Any, codec: PatchPCA | KLCodec, hearing: Hearing, about: dict[str, Any]
    ) -> None:
        super().__init__()
        self.unet = unet
        self.codec = codec
        self.hearing = hearing
        self.about = about
        self.motion = hasattr(unet, "motion_modules") or "Motion" in type(unet).__name__

    def forward(
        self, noisy: Tensor, reference: Tensor, mel: Tensor, steps: Tensor, frames: int = 1
    ) -> Tensor:
        """The predicted velocity v ``[N, c, h, w]``.

        Args:
            noisy: residual latents with noise, ``[N, c, h, w]``.
            reference: latents of the reference pictures, of the same shape.
            mel: speech around each frame, ``[N, TOKENS, BINS]``.
            steps: of the schedule, ``[N]``.
            frames: number of consecutive rows that are one clip and share a step; only the motion
                UNet needs to know.
        """
        # diffusers' own property of that name walks through all parameters
        kind = next(self.unet.parameters()).dtype
        heard = self.hearing(mel).to(kind)
        inputs = torch.cat([noisy, reference], 1).to(kind)
        if not self.motion:
            out = self.unet(inputs, steps, encoder_hidden_states=heard, return_dict=False)[0]
            return out.to(noisy.dtype)
        clips = inputs.unflatten(0, (-1, frames)).transpose(1, 2)
        out = self.unet(clips, steps[::frames], encoder_hidden_states=heard, return_dict=False)[0]
        return out.transpose(1, 2).flatten(0, 1).to(noisy.dtype)

    @property
    def digest(self) -> str:
        """SHA-256 of all weights and of the codec's units: nodes must have the same before they add
        up adapters."""
        codec: Any = self.codec
        units = [codec.factor, codec.channels, codec.residual_scale]
        if isinstance(codec, KLCodec):
            units += [codec.vae.config.scaling_factor, codec.vae.config.shift_factor]
        found = hashlib.sha256(json.dumps(units).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if "lora_" not in name:
                found.update(name.replace(".base_layer", "").encode())
                found.update(
                    tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                )
        return found.hexdigest()

    # ------------------------------------------------------------------ on disk
    def save(self, folder: Path) -> None:
        """``unet/`` and ``vae/`` as diffusers writes them, or ``codec.safetensors``;
        ``hearing.safetensors``; ABOUT."""
        if any("base_layer" in name for name, _ in self.unet.named_parameters()):
            raise ValueError(
                "adapters are in this denoiser: save it before, or copy the folder it came from"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.unet.save_pretrained(folder / "unet")
        if isinstance(self.codec, KLCodec):
            self.codec.vae.save_pretrained(folder / "vae")
        else:
            save_file(dict(self.codec.state_dict()), folder / "codec.safetensors")
        save_file(dict(self.hearing.state_dict()), folder / "hearing.safetensors")
        shape = {
            "factor": self.codec.factor,
            "channels": self.codec.channels,
            "residual_scale": self.codec.residual_scale,
        }
        (folder / ABOUT).write_text(
            json.dumps({**self.about, "codec": shape}, indent=2) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path) -> Backbone:
        """Inverse of :meth:`save`, or a folder of the Stable Diffusion family (see
        :meth:`adopt`)."""
        if not (folder / "unet").is_dir():
            raise InputError(
                "talking-head.backbone",
                str(folder),
                "holds no unet/ folder",
                "give a folder that `fedapp pretrain talking-head` or diffusers' save_pretrained "
                "wrote",
            )
        if not (folder / ABOUT).is_file():
            return cls.adopt(folder)
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            unet = _read_unet(folder, about["unet"])
            shape = about.pop("codec")
            codec: PatchPCA | KLCodec
            if (folder / "vae").is_dir():
                codec = KLCodec(_read_vae(folder), shape["residual_scale"])
            else:
                codec = PatchPCA(**shape)
                codec.load_state_dict(load_file(folder / "codec.safetensors"))
            hearing = Hearing(_token_width(unet))
            hearing.load_state_dict(load_file(folder / "hearing.safetensors"))
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                "talking-head.backbone", str(folder), f"unreadable ({error})", "write it anew"
            ) from error
        return cls(unet, codec, hearing, about).requires_grad_(False).eval()

    @classmethod
    def adopt(cls, folder: Path) -> Backbone:
        """Stable-Diffusion weights (``unet/``, ``vae/``) made ready to listen.

        The first convolution gets input channels for the reference, with weights 0, and hearing
        starts at random: the result draws as before and must be trained (`fedapp pretrain
        talking-head --from FOLDER`) before it talks.
        """
        try:
            unet = _read_unet(folder, "frame")
            vae = _read_vae(folder)
        except (OSError, ValueError) as error:
            raise InputError(
                "talking-head.backbone", str(folder), f"unreadable ({error})", "check the files"
            ) from error
        channels = int(vae.config.latent_channels)
        if unet.config.in_channels == channels:
            first = unet.conv_in
            wide = torch.nn.Conv2d(
                2 * channels, first.out_channels, first.kernel_size, first.stride, first.padding
            )
            with torch.no_grad():
                wide.weight.zero_()
                wide.weight[:, :channels] = first.weight
                wide.bias.copy_(first.bias)  # type: ignore[union-attr]
            unet.conv_in = wide
            unet.register_to_config(in_channels=2 * channels)
        elif unet.config.in_channels != 2 * channels:
            raise InputError(
                "talking-head.backbone",
                str(folder),
                f"its UNet takes {unet.config.in_channels} channels where {channels} or "
                f"{2 * channels} are needed",
                "use a text-to-image UNet (4 channels) or one with a reference beside (8)",
            )
        about = {"unet": "frame", "trained": UNTRAINED, "from": folder.name}
        with torch.random.fork_rng(devices=[]):  # the same at each load
            torch.manual_seed(seed_of("hearing"))
            hearing = Hearing(_token_width(unet))
        return cls(unet, KLCodec(vae), hearing, about).requires_grad_(False).eval()


def _token_width(unet: Any) -> int:
    width = unet.config.cross_attention_dim
    return int(width if isinstance(width, int) else width[0])


def _read_unet(folder: Path, kind: str) -> Any:
    from diffusers import UNet2DConditionModel, UNetMotionModel

    model = UNetMotionModel if kind == "motion" else UNet2DConditionModel
    return model.from_pretrained(
        folder, subfolder="unet", use_safetensors=True, local_files_only=True
    )


def _read_vae(folder: Path) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(
        folder, subfolder="vae", use_safetensors=True, local_files_only=True
    )


def fresh(
    codec: PatchPCA | KLCodec, unet: str, widths: tuple[int, ...], about: dict[str, Any]
) -> Backbone:
    """An untrained backbone.

    Args:
        codec: of the latents it denoises.
        unet: ``frame`` or ``motion``.
        widths: channels of each resolution, the finest first; attention is at each.
        about: origin of the weights, saved with them.
    """
    from diffusers import UNet2DConditionModel, UNetMotionModel

    # 16 numbers per head: narrower ones cost more than they give
    heads = tuple(max(1, width // 16) for width in widths)
    common: dict[str, Any] = {
        "in_channels": 2 * codec.channels,
        "out_channels": codec.channels,
        "block_out_channels": widths,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 64,
    }
    if unet == "motion":
        down = ("CrossAttnDownBlockMotion",) * len(widths)
        up = ("CrossAttnUpBlockMotion",) * len(widths)
        model: Any = UNetMotionModel(
            **common,
            down_block_types=down,
            up_block_types=up,
            num_attention_heads=heads,
            motion_num_attention_heads=heads,
            motion_max_seq_length=LONGEST,
        )
    else:
        down = ("CrossAttnDownBlock2D",) * len(widths)
        up = ("CrossAttnUpBlock2D",) * len(widths)
        # diffusers reads attention_head_dim as the number of heads here
        model = UNet2DConditionModel(
            **common, down_block_types=down, up_block_types=up, attention_head_dim=heads
        )
    return Backbone(model, codec, Hearing(64), {"unet": unet, **about})
