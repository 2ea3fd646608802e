"""``fedapp bench talking-head``: our adapter steps against a plain diffusers + PEFT training loop
on the same model.

The reference is what one would write first: one client, one LoRA adapter through ``add_adapter``,
``DDPMScheduler``'s ``add_noise`` and ``get_velocity``, ``torch.optim.AdamW``; unless "cached", it
encodes its frames and its sound in every step. Both sides run in this process, interleaved, on one
thread, in CPU seconds; gradients are compared first. The backbone is untrained: its speed does not
depend on what it knows.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sim.bench import Row, limit, row
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

FRAMES, CLIPS, RANK, RATE = 16, 4, 8, 0.02
TOLERANCE = 1e-4
GIB = 2**30
CPU = torch.device("cpu")


def small(codec_people: Tensor) -> Backbone:
    """The embedded default: patch codec, two levels."""
    return fresh(PatchPCA.fit(codec_people, 8, 32), "frame", (32, 64), {})


def narrow_sd(_: Tensor) -> Backbone:
    """Stable Diffusion 1.5's codec and denoiser at an eighth of their width: about the same share
    of work in each.

    One head where the original has eight, so that a head is as wide as there.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, norm_num_groups=8, latent_channels=4,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        in_channels=8, out_channels=4, block_out_channels=(40, 80, 160, 160), cross_attention_dim=96,
        attention_head_dim=1, norm_num_groups=8,
    )  # fmt: skip
    return Backbone(unet, KLCodec(vae), Hearing(96), {"unet": "frame"})


class Problem:
    """People, a backbone, and both ways to train adapters on it; ``frames`` a client and step."""

    def __init__(
        self, make: Callable[[Tensor], Backbone], clients: int, frames: int = FRAMES, size: int = 64,
        device: torch.device = CPU,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        people = [
            person(0, number, "ordinary", CLIPS, 1, 2 * FRAMES, size) for number in range(clients)
        ]
        first = (
            make(torch.cat([who.train[0].frames for who in people]))
            .requires_grad_(False)
            .eval()
            .to(device)
        )
        second = copy.deepcopy(first)
        self.plain, self.frames = PlainLoop(first, frames), frames
        self.ours = HeadModel(second, TalkingHeadSettings(window=1, tdc=0.0, rank=RANK), device)
        self.people: list[Encoded] = [encode(who, second.codec, device) for who in people]
        self.point = self.ours.adapters.start(SHARED).to(device).expand(clients, -1).clone()
        self.plain.take(self.ours)
        keys: list[Key] = [("bench", number) for number in range(clients)]
        self.draws = draw(self.people, keys, 64, 1, frames, 1, self.ours.alphas)
        self.optimiser, self.steps = Adam(RATE), 0

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

        self.backbone, self.unet, self.frames = backbone, backbone.unet, frames
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
        clip = int(torch.randint(len(data.residual), ()))
        pick = torch.randint(len(data.residual[clip]), (self.frames,))
        if cached:
            latents, mel, reference = (
                data.residual[clip][pick],
                data.mel[clip][pick],
                data.reference,
            )
        else:
            raw, codec, device = data.person.train[clip], self.backbone.codec, data.reference.device
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
        inputs, heard = torch.cat([sample, reference], 1), self.backbone.hearing(mel)
        return torch.nn.functional.mse_loss(
            self.unet(inputs, at, encoder_hidden_states=heard).sample, target
        )


def agree(problem: Problem) -> None:
    """The two gradients at one batch; raises if they differ by more than float32 does."""
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


def _interleaved(a: Callable[[], None], b: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Least CPU seconds of a call of each, taken in turn after one call of each that does not
    count."""
    best = [float("inf"), float("inf")]
    for turn in range(repeats + 1):
        for index, function in enumerate((a, b)):
            started = time.process_time()
            function()
            if turn:
                best[index] = min(best[index], time.process_time() - started)
    return best[0], best[1]


def measure(quick: bool) -> Iterator[Row]:
    """Steps, memory, bytes; one thread."""
    threads, repeats = torch.get_num_threads(), 4 if quick else 12
    torch.set_num_threads(1)
    try:
        yield from _steps(repeats)
    finally:
        torch.set_num_threads(threads)
    ours, theirs = (_peak(side) for side in ("ours", "plain"))
    yield row("peak memory of a step, 1 client, 64 frames", "MB", ours, theirs, 1.0)
    yield from _sizes()
    yield _modelled()
    yield from _on_gpu(repeats)


def _steps(repeats: int) -> Iterator[Row]:
    one = Problem(small, 1)
    agree(one)
    mine, theirs = _interleaved(one.step, one.reference, repeats)
    yield row(
        f"step, 1 client, {FRAMES} frames, both cached", "CPU ms", 1e3 * mine, 1e3 * theirs, 1.0
    )
    mine, theirs = _interleaved(one.step, lambda: one.reference(False), repeats)
    yield row(
        "the same, reference encodes frames and sound each step",
        "CPU ms",
        1e3 * mine,
        1e3 * theirs,
        None,
    )
    wide = Problem(narrow_sd, 1, frames=2, size=256)
    mine, theirs = _interleaved(wide.step, lambda: wide.reference(False), max(2, repeats // 2))
    case = "SD-1.5's shape at 1/8 width, 256², 2 frames, reference encodes each step"
    yield row(case, "CPU ms", 1e3 * mine, 1e3 * theirs, 1.6)
    six = Problem(small, 6)
    mine, theirs = _interleaved(six.step, six.reference, max(2, repeats // 3))
    yield row(
        "6 clients' adapters in one grouped step",
        "CPU ms/client",
        1e3 * mine / 6,
        1e3 * theirs / 6,
        1.3,
    )


def _peak(side: str) -> float:
    """MB a step needs at most beyond what is held between steps, in a process that takes steps of
    one side alone.

    That process hands freed blocks back to the system at once (``mallopt(3)``): what a heap keeps
    for later would count as held, and hide most of a peak.
    """
    body = f"from sim.bench.talking_head import print_peak; print_peak({side!r})"
    frugal = os.environ | {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", body], capture_output=True, text=True, check=True, env=frugal
    )
    return float(done.stdout.split()[-1])


def print_peak(side: str) -> None:
    """Linux keeps the high-water mark of resident memory and can be told to forget it (``proc(5)``,
    clear_refs)."""

    def kilobytes(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    torch.set_num_threads(1)
    problem = Problem(small, 1, frames=64)
    step = problem.step if side == "ours" else problem.reference
    step()
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(4):
        step()
    sys.stdout.write(f"{(kilobytes('VmHWM') - before) / 1024}\n")


def _sizes() -> Iterator[Row]:
    """What travels, beside the whole denoiser; 5 % is the limit."""
    backbone = fresh(PatchPCA(8, 32), "frame", (32, 64), {})
    full = sum(parameter.numel() for parameter in backbone.unet.parameters())
    model = HeadModel(backbone, TalkingHeadSettings(rank=RANK), CPU)
    allowed = 0.05 * 4 * full
    case = f"adapter bytes, FFA r{RANK}, against 5 % of the small denoiser's"
    yield limit(case, "bytes", 4 * model.adapters.shared.size, allowed)
    both = TalkingHeadSettings(rank=RANK, lora="ab")
    model = HeadModel(fresh(PatchPCA(8, 32), "frame", (32, 64), {}), both, CPU)
    yield limit(
        f"adapter bytes, A and B r{RANK}, the same",
        "bytes",
        4 * model.adapters.shared.size,
        allowed,
    )


# ---------------------------------------------------------------------- Stable Diffusion's shape, without its weights
def _modelled() -> Row:
    r"""Peak of a low-memory step at 512 x 512 on the SD-1.5 denoiser: counted on the meta device,
    nothing allocated.

    bf16 weights (``talking-head.precision = bfloat16``) + what autograd keeps with checkpointing,
    which is the inputs of checkpointed blocks and all between them + what the largest block keeps
    while it is recomputed + fp32 adapters, their gradient and two moments. Latents are cached, so
    no codec is in memory. The allocator's fragmentation and attention workspaces are not counted.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(
            in_channels=8, out_channels=4, cross_attention_dim=768, attention_head_dim=8
        )
    unet = unet.to(torch.bfloat16).requires_grad_(False)
    weights = 2 * sum(parameter.numel() for parameter in unet.parameters())
    adapters = 4 * 4 * RANK * sum(
        module.in_features + module.out_features
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(tuple(TARGETS))
    )  # fmt: skip
    inputs = torch.empty(1, 8, 64, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    heard = torch.empty(1, 16, 768, dtype=torch.bfloat16, device="meta")
    kept: dict[str, int] = {}
    place = ["between"]

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[place[-1]] = kept.get(place[-1], 0) + tensor.numel() * tensor.element_size()
        return tensor

    blocks = {
        name: module for name, module in unet.named_modules()
        if type(module).__name__ in ("ResnetBlock2D", "BasicTransformerBlock")
    }  # fmt: skip
    entered = [0]

    def enter(name: str, given: tuple[Tensor, ...]) -> None:
        place.append(name)
        entered[0] += given[0].numel() * given[0].element_size()

    for name, module in blocks.items():
        module.register_forward_pre_hook(lambda _, given, name=name: enter(name, given))
        module.register_forward_hook(lambda *_: place.pop() and None)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        steps = torch.zeros(1, device="meta")
        out = unet(inputs, steps, encoder_hidden_states=heard).sample
    assert out.shape == (1, 4, 64, 64), "a denoiser gives back what it was given"
    largest = max(size for name, size in kept.items() if name != "between")
    peak = weights + adapters + kept.get("between", 0) + entered[0] + largest
    return limit(
        "modelled peak, SD-1.5 shape at 512², bf16, checkpointing, batch 1", "GiB", peak / GIB, 6.5
    )


def _on_gpu(repeats: int) -> Iterator[Row]:
    case = "6 clients' adapters in one grouped step, GPU"
    if not torch.cuda.is_available():
        yield {
            "case": case, "unit": "ms/client", "ours": None, "reference": None, "ratio": None, "target": None,
            "note": "not measured: this machine has no GPU (target 3)",
        }  # fmt: skip
        return
    six = Problem(small, 6, device=torch.device("cuda"))

    def timed(function: Callable[[], None]) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    both = [(timed(six.step), timed(six.reference)) for _ in range(repeats + 2)][2:]
    mine, theirs = (min(times) for times in zip(*both, strict=True))
    yield row(case, "ms/client", 1e3 * mine / 6, 1e3 * theirs / 6, 3.0)
