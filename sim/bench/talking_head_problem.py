"""Adapters to train for ``fedapp bench talking-head``: ours grouped, and a plain diffusers + PEFT
loop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tasks.errors import FedappError
from tasks.optimise import Adam
from tasks.randomness import Key
from tasks.settings import TalkingHeadSettings
from tasks.talking_head.adapters import SHARED, TARGETS
from tasks.talking_head.audio import tokens
from tasks.talking_head.backbone import Backbone, Hearing, fresh
from tasks.talking_head.codec import KLCodec, PatchPCA
from tasks.talking_head.diffusion import STEPS
from tasks.talking_head.encoding import Encoded, draw, encode
from tasks.talking_head.model import HeadModel
from tasks.talking_head.people import person

FRAMES = 16
CLIPS = 4
RANK = 8
RATE = 0.02
TOLERANCE = 1e-4  # largest relative difference of the two gradients in float32
CPU = torch.device("cpu")


def small(codec_people: Tensor) -> Backbone:
    """Embedded default: patch codec, two levels."""
    return fresh(PatchPCA.fit(codec_people, 8, 32), "frame", (32, 64), {})


def narrow_sd(_: Tensor) -> Backbone:
    """Codec and denoiser of Stable Diffusion 1.5 at an eighth of their width: about the same share
    of work in each.

    One head where the original has eight, so that a head is as wide as there.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=8,
        latent_channels=4,
    )
    unet = UNet2DConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=(40, 80, 160, 160),
        cross_attention_dim=96,
        attention_head_dim=1,
        norm_num_groups=8,
    )
    return Backbone(unet, KLCodec(vae), Hearing(96), {"unet": "frame"})


class Problem:
    """People, a backbone, and both ways to train adapters on it.

    Args:
        make: a backbone from frames ``[N, 3, size, size]`` to fit its codec to.
        clients: how many people.
        frames: per client and step.
        size: pixels a side.
        device: of everything.
    """

    def __init__(
        self,
        make: Callable[[Tensor], Backbone],
        clients: int,
        frames: int = FRAMES,
        size: int = 64,
        device: torch.device = CPU,
    ) -> None:
        torch.manual_seed(0)
        people = [
            person(0, number, "ordinary", CLIPS, 1, 2 * FRAMES, size) for number in range(clients)
        ]
        first = make(torch.cat([who.train[0].frames for who in people]))
        first = first.requires_grad_(False).eval().to(device)
        second = copy.deepcopy(first)
        self.plain = PlainLoop(first, frames)
        self.frames = frames
        self.ours = HeadModel(second, TalkingHeadSettings(window=1, tdc=0.0, rank=RANK), device)
        self.people: list[Encoded] = [encode(who, second.codec, device) for who in people]
        self.point = self.ours.adapters.start(SHARED).to(device).expand(clients, -1).clone()
        self.plain.take(self.ours)
        keys: list[Key] = [("bench", number) for number in range(clients)]
        self.draws = draw(self.people, keys, 64, 1, frames, 1, self.ours.alphas)
        self.optimiser = Adam(RATE)
        self.steps = 0

    def step(self) -> None:
        """One grouped step of all clients, from drawing the batch to the new adapters."""
        batch = self.draws.batch(self.steps % 64, 0)
        self.steps += 1
        _, gradient = self.ours.gradient(self.point, batch)
        self.point = self.point - self.optimiser.direction(gradient)

    def reference(self, cached: bool = True) -> None:
        """The same for each client in turn, by the plain loop."""
        for data in self.people:
            self.plain.step(data, cached)


class PlainLoop:
    """One LoRA adapter through diffusers and PEFT, B trained over a fixed A, AdamW on the adapter's
    parameters."""

    def __init__(self, backbone: Backbone, frames: int) -> None:
        from diffusers import DDPMScheduler
        from peft import LoraConfig

        self.backbone = backbone
        self.unet = backbone.unet
        self.frames = frames
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.unet.add_adapter(
                LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS), "default"
            )
        self.trained = []
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_("lora_B" in name)
            if "lora_B" in name:
                self.trained.append(parameter)
        self.optimiser = torch.optim.AdamW(self.trained, lr=RATE, weight_decay=0.0)
        self.scheduler: Any = DDPMScheduler(
            STEPS,
            beta_schedule="squaredcos_cap_v2",
            rescale_betas_zero_snr=True,
            prediction_type="v_prediction",
        )

    def take(self, model: HeadModel) -> None:
        """The same A as ours, B = 0."""
        ours = model.adapters.tensors(SHARED, model.adapters.start(SHARED))
        with torch.no_grad():
            for name, parameter in self.unet.named_parameters():
                if "lora_" in name:
                    parameter.copy_(ours[name.replace(".default.weight", "")])

    def step(self, data: Encoded, cached: bool) -> None:
        """One step of one client: draw, noise, predict, differentiate, move."""
        clip = int(torch.randint(len(data.residual), ()))
        pick = torch.randint(len(data.residual[clip]), (self.frames,))
        if cached:
            latents = data.residual[clip][pick]
            mel = data.mel[clip][pick]
            reference = data.reference
        else:
            raw = data.person.train[clip]
            codec = self.backbone.codec
            device = data.reference.device
            with torch.no_grad():
                reference = codec.encode(data.person.reference[None].to(device))[0]
                latents = (
                    codec.encode(raw.frames[pick].to(device)) - reference
                ) / codec.residual_scale
            mel = tokens(raw.audio.to(device), len(raw.frames))[pick]
        noise = torch.randn_like(latents)
        at = torch.randint(STEPS, (self.frames,), device=latents.device)
        sample = self.scheduler.add_noise(latents, noise, at)
        target = self.scheduler.get_velocity(latents, noise, at)
        self.loss(sample, target, reference.expand(self.frames, -1, -1, -1), mel, at).backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def loss(
        self, sample: Tensor, target: Tensor, reference: Tensor, mel: Tensor, at: Tensor
    ) -> Tensor:
        """Mean squared error of the predicted velocity.

        Args:
            sample, target, reference: noised latents, their velocity, and the clean reference,
                each ``[F, 4, h, w]``.
            mel: sound of each frame.
            at: diffusion steps ``[F]``.
        """
        inputs = torch.cat([sample, reference], 1)
        heard = self.backbone.hearing(mel)
        shown = self.unet(inputs, at, encoder_hidden_states=heard).sample
        return torch.nn.functional.mse_loss(shown, target)


def agree(problem: Problem) -> None:
    """Raise if the two gradients at one batch differ by more than float32 does."""
    batch = problem.draws.batch(0, 0)
    _, ours = problem.ours.gradient(problem.point, batch)
    named = {
        name: parameter
        for name, parameter in problem.plain.unet.named_parameters()
        if "lora_B" in name
    }
    loss = problem.plain.loss(
        batch.sample[0], batch.target[0], batch.reference[0], batch.mel[0], batch.steps[0]
    )
    theirs = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    flat = problem.ours.adapters.shared.flatten(
        {key: theirs[f"{key}.default.weight"] for key, _, _ in problem.ours.adapters.shared.entries}
    )
    difference = float((ours[0] - flat).abs().max() / flat.abs().max())
    if not difference <= TOLERANCE:
        raise FedappError(
            f"our gradient and PEFT's differ by {difference:.2e} (tolerance {TOLERANCE}): no ratio"
        )
