"""One denoiser with its adapters: the loss of many clients in one pass, its derivatives, and
generation."""

from __future__ import annotations

import shutil
import tempfile
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tasks.atomic import as_umask_says
from tasks.caches import cache, ready
from tasks.derivatives import Autograd
from tasks.errors import InputError
from tasks.randomness import generator, seed_of
from tasks.settings import TalkingHeadSettings, TaskSettings
from tasks.talking_head.adapters import Adapters
from tasks.talking_head.backbone import UNTRAINED, Backbone, fresh
from tasks.talking_head.codec import PatchPCA
from tasks.talking_head.diffusion import (
    Losses,
    clean,
    denoising,
    sample,
    schedule,
    start_noise,
    temporal_consistency,
)
from tasks.talking_head.judges import Judges
from tasks.talking_head.metrics import appearance_of_frames
from tasks.talking_head.pretrain import Progress, Recipe, pretrain
from tasks.types import Linearised

FRAMES_AT_ONCE = 512  # generation is cut into blocks of this many frames, so memory stays bounded
LOW_NOISE = 0.5  # identity and perceptual terms look at frames whose signal share is above this


class Noised(NamedTuple):
    """Samples of one step, ``B`` frames per client: clips of ``window`` consecutive frames share a
    step of the schedule."""

    sample: Tensor  # [C, B, c, h, w]
    target: Tensor  # [C, B, c, h, w], the velocity
    residual: Tensor  # [C, B, c, h, w]
    reference: Tensor  # [C, B, c, h, w]
    mel: Tensor  # [C, B, TOKENS, BINS]
    steps: Tensor  # [C, B]


# ---------------------------------------------------------------------- folders of backbones
def recipe_of(settings: TaskSettings) -> Recipe:
    """The small backbone a config asks for when it names none."""
    head = settings.talking_head
    return Recipe(
        size=settings.data.size,
        factor=head.patch,
        channels=head.channels,
        unet=head.unet,
        people=head.pretrain_people,
        steps=head.pretrain_steps,
    )


def backbone_folder(settings: TaskSettings) -> Path:
    """The configured folder, or this machine's place for the small backbone of this recipe."""
    if settings.talking_head.backbone:
        return Path(settings.talking_head.backbone).expanduser()
    return cache("backbones") / f"{seed_of('backbone', *vars(recipe_of(settings)).values()):016x}"


def make_backbone(settings: TaskSettings, progress: Progress | None = None) -> None:
    """Train the small backbone unless it is there already, or another one is named."""
    folder = backbone_folder(settings)
    if not settings.talking_head.backbone and not (folder / "unet").is_dir():
        ready(folder.parent)  # before the training, not after it
        save_whole(pretrain(recipe_of(settings), progress), folder)


def save_whole(backbone: Backbone, folder: Path) -> None:
    """Save to ``folder`` at once or not at all; what another process has put there meanwhile
    stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        backbone.save(part)
        as_umask_says(part)
        part.rename(folder)
    except OSError:
        if not (folder / "unet").is_dir():
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


class HeadModel:
    """Denoiser, adapters, losses. Vectors are ``[C, P]`` (shared adapter) or ``[C, P + Q]``
    (shared, then personal)."""

    def __init__(
        self, backbone: Backbone, settings: TalkingHeadSettings, device: torch.device
    ) -> None:
        self.settings = settings
        self.device = device
        self.digest = backbone.digest
        if settings.precision == "bfloat16":
            # the frozen weights; adapters and their optimiser stay in float32
            backbone.unet.to(torch.bfloat16)
        self.backbone = backbone if device.type == "cpu" else backbone.to(device)
        if device.type == "cpu":
            self.backbone.unet.to(memory_format=torch.channels_last)  # quicker convolutions
        if settings.checkpointing:
            backbone.unet.enable_gradient_checkpointing()
            # diffusers checkpoints only in training mode; there is no dropout to switch on
            backbone.unet.train()
        self.adapters = Adapters(
            backbone, settings.rank, settings.alpha, settings.lora, settings.adapter_seed
        )
        self.alphas = schedule().to(device)
        self.losses = Losses(settings.tdc, settings.identity, settings.perceptual, settings.min_snr)
        if self.losses.perceptual and self.judges.lpips is None:
            raise InputError(
                "talking-head.perceptual",
                self.losses.perceptual,
                "needs a perceptual distance, and none is given",
                'set talking-head.judges to {"lpips": "FILE"} (TorchScript), or the weight to 0',
            )
        self._graph = Autograd(self.loss)

    @cached_property
    def judges(self) -> Judges:
        """Read when something is judged: a node that only trains without them need not have the
        files."""
        return Judges.of(self.settings.judges)

    # ------------------------------------------------------------------ passes
    def _split(self, params: Tensor) -> tuple[Tensor, Tensor | None]:
        shared = self.adapters.shared.size
        return params[:, :shared], params[:, shared:] if params.shape[1] > shared else None

    def loss(self, params: Tensor, batch: Noised) -> Tensor:
        r"""``[C]``: :math:`L_v + \lambda_{tdc} L_{TDC} + [\bar\alpha_t > 1/2](\lambda_{id} L_{id} +
        \lambda_p L_p)`."""
        with self.adapters.worn(*self._split(params)):
            return self._objective(batch)

    def _objective(self, batch: Noised) -> Tensor:
        """The loss with the adapters that are worn."""
        clients, frames = batch.steps.shape
        flat = Noised(*(tensor.flatten(0, 1) for tensor in batch))
        alpha = self.alphas[flat.steps]
        velocity = self.backbone(
            flat.sample, flat.reference, flat.mel, flat.steps, self.settings.window
        )
        error = denoising(velocity, flat.target, alpha, self.losses.min_snr)
        total = error.view(clients, frames).mean(1)
        if not (self.losses.tdc or self.losses.identity or self.losses.perceptual):
            return total
        found = clean(flat.sample, velocity, alpha)
        if self.losses.tdc:
            window = (-1, self.settings.window)
            consistency = temporal_consistency(
                found.unflatten(0, window),
                flat.residual.unflatten(0, window),
                alpha[:: self.settings.window],
            )
            total = total + self.losses.tdc * consistency.view(clients, -1).mean(1)
        if self.losses.identity or self.losses.perceptual:
            total = total + self._looks(found, flat, alpha).view(clients, frames).mean(1)
        return total

    def _looks(self, found: Tensor, batch: Noised, alpha: Tensor) -> Tensor:
        """``[N]``: identity and perceptual terms of decoded frames; a guess from much noise would
        mean nothing."""
        codec = self.backbone.codec
        scale = codec.residual_scale
        shown = codec.decode(found * scale + batch.reference)
        term = torch.zeros_like(alpha)
        if self.losses.identity:
            wanted = appearance_of_frames(codec.decode(batch.reference))
            likeness = torch.nn.functional.cosine_similarity(appearance_of_frames(shown), wanted)
            term = term + self.losses.identity * (1 - likeness)
        if self.losses.perceptual:
            truth = codec.decode(batch.residual * scale + batch.reference)
            term = term + self.losses.perceptual * self.judges.perceptual(shown, truth)
        return term * (alpha > LOW_NOISE)

    # ------------------------------------------------------------------ derivatives
    def gradient(self, params: Tensor, batch: Noised) -> tuple[Tensor, Tensor]:
        """``(loss [C], gradient [C, P or P + Q])``; recomputation (checkpointing) happens with the
        adapters on."""
        with torch.enable_grad():
            point = params.detach().requires_grad_()
            # Not Autograd's gradient: checkpointing runs the forward pass again during the backward
            # one, when the adapters of this cohort must still be worn.
            with self.adapters.worn(*self._split(point)):
                loss = self._objective(batch)
                (gradient,) = torch.autograd.grad(loss.sum(), point)
        return loss.detach(), gradient

    def linearise(self, params: Tensor, batch: Noised) -> Linearised:
        """With Hessian-vector products: fused attention has no second derivative, so the plain
        kernel is used."""
        if self.settings.checkpointing:
            raise InputError(
                "talking-head.checkpointing",
                True,
                "second derivatives need the whole graph",
                "set it to false",
            )
        with sdpa_kernel(SDPBackend.MATH):
            return self._graph.linearise(params, batch)

    # ------------------------------------------------------------------ generation
    @torch.no_grad()
    def generate(self, params: Tensor, reference: Tensor, mel: Tensor) -> Tensor:
        """Videos ``[C, T, H, W, 3]`` of ``reference [C, c, h, w]`` saying ``mel [C, T, TOKENS,
        BINS]``; not clamped.

        All clients start from the same fixed noise, so that scores differ by clients alone.
        """
        head = self.settings
        clients, frames = mel.shape[:2]
        draw = generator("sampling", head.adapter_seed)
        shape = tuple(reference.shape[1:])
        start = start_noise(frames, shape, head.shared_noise, head.noise, draw).to(reference)
        width = max(1, FRAMES_AT_ONCE // frames)
        parts = []
        for first in range(0, clients, width):
            block = slice(first, first + width)
            many = len(mel[block])
            beside = reference[block].repeat_interleave(frames, 0)
            heard = mel[block].flatten(0, 1)
            with self.adapters.worn(*self._split(params[block])):
                predict = partial(self._guided, reference=beside, mel=heard, frames=frames)
                noise = start.repeat(many, 1, 1, 1)
                residual = sample(predict, noise, self.alphas, head.sampling_steps)
            video = self.backbone.codec.decode(
                residual * self.backbone.codec.residual_scale + beside
            )
            parts.append(video.unflatten(0, (many, frames)))
        return torch.cat(parts)

    def _guided(
        self, noisy: Tensor, steps: Tensor, reference: Tensor, mel: Tensor, frames: int
    ) -> Tensor:
        r"""Classifier-free guidance: :math:`v = v_\emptyset + g (v_{mel} - v_\emptyset)`; one pass
        at g = 1."""
        heard = self.backbone(noisy, reference, mel, steps, frames)
        guidance = self.settings.guidance
        if guidance == 1.0:
            return heard
        unheard = self.backbone(noisy, reference, torch.zeros_like(mel), steps, frames)
        return unheard + guidance * (heard - unheard)


@lru_cache(maxsize=2)
def load_model(folder: Path, settings: TalkingHeadSettings, device: torch.device) -> HeadModel:
    """The model of a process: one, whatever the number of clients, methods and seeds that use
    it."""
    if not (folder / "unet").is_dir():
        raise InputError(
            "talking-head.backbone",
            str(folder),
            "there is no backbone on this machine yet",
            "run `fedapp pretrain talking-head --recipe RUN/config.json` (or the recipe's name), "
            "or name a folder that holds one",
        )
    backbone = Backbone.load(folder)
    if backbone.about.get("trained") == UNTRAINED:
        raise InputError(
            "talking-head.backbone",
            str(folder),
            "these weights have never heard speech or seen a reference",
            f"run `fedapp pretrain talking-head --from {folder} --out FOLDER` first",
        )
    if settings.digest and settings.digest != backbone.digest:
        raise InputError(
            "talking-head.digest",
            settings.digest[:12],
            f"the backbone in {folder} is another one ({backbone.digest[:12]})",
            "copy the folder: training it anew on another machine gives other weights",
        )
    return HeadModel(backbone, settings, device)


def shape_only(settings: TaskSettings) -> Adapters:
    """Adapters of an untrained backbone: their layouts are those of the trained one."""
    recipe = recipe_of(settings)
    head = settings.talking_head
    with torch.random.fork_rng(devices=[]):
        backbone = fresh(PatchPCA(recipe.factor, recipe.channels), recipe.unet, recipe.widths, {})
    return Adapters(backbone, head.rank, head.alpha, head.lora, head.adapter_seed)
