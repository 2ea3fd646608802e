"""Memory and bytes of adapter training: measured peaks, what travels, SD-1.5 counted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sim.bench.rows import Row, at_most, row
from sim.bench.talking_head_problem import CPU, RANK, Problem, small
from tasks.settings import TalkingHeadSettings
from tasks.talking_head.adapters import TARGETS
from tasks.talking_head.backbone import fresh
from tasks.talking_head.codec import PatchPCA
from tasks.talking_head.model import HeadModel

GIB = 2**30


def measure() -> Iterator[Row]:
    """Rows about memory and bytes; peaks in processes of their own."""
    ours, theirs = (_peak(side) for side in ("ours", "plain"))
    yield row("peak memory of a step, 1 client, 64 frames", "MB", ours, theirs, 1.0)
    yield from _sizes()
    yield _modelled()


def _peak(side: str) -> float:
    """MB a step needs at most beyond what is held between steps, in a process that takes steps of
    one side alone.

    That process hands freed blocks back to the system at once (``mallopt(3)``): what a heap keeps
    for later would count as held, and hide most of a peak.
    """
    body = f"from sim.bench.talking_head_memory import print_peak; print_peak({side!r})"
    frugal = os.environ | {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", body], capture_output=True, text=True, check=True, env=frugal
    )
    return float(done.stdout.split()[-1])


def print_peak(side: str) -> None:
    """Linux keeps the high-water mark of resident memory and can be told to forget it (``proc(5)``,
    clear_refs)."""

    def kilobytes(name: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    torch.set_num_threads(1)
    problem = Problem(small, 1, frames=64)
    step = problem.step if side == "ours" else problem.reference
    step()
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    for _ in range(4):
        step()
    sys.stdout.write(f"{(kilobytes('VmHWM') - before) / 1024}\n")


def _sizes() -> Iterator[Row]:
    """Bytes that travel, beside the whole denoiser; 5 % is the bound."""
    backbone = fresh(PatchPCA(8, 32), "frame", (32, 64), {})
    full = sum(parameter.numel() for parameter in backbone.unet.parameters())
    model = HeadModel(backbone, TalkingHeadSettings(rank=RANK), CPU)
    allowed = 0.05 * 4 * full
    case = f"adapter bytes, FFA r{RANK}, against 5 % of the small denoiser's"
    yield at_most(case, "bytes", 4 * model.adapters.shared.size, allowed)
    both = TalkingHeadSettings(rank=RANK, lora="ab")
    model = HeadModel(fresh(PatchPCA(8, 32), "frame", (32, 64), {}), both, CPU)
    yield at_most(
        f"adapter bytes, A and B r{RANK}, the same",
        "bytes",
        4 * model.adapters.shared.size,
        allowed,
    )


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
    sides = sum(
        module.in_features + module.out_features
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(tuple(TARGETS))
    )
    adapters = 4 * 4 * RANK * sides
    inputs = torch.empty(1, 8, 64, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    heard = torch.empty(1, 16, 768, dtype=torch.bfloat16, device="meta")
    kept: dict[str, int] = {}
    place = ["between"]

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[place[-1]] = kept.get(place[-1], 0) + tensor.numel() * tensor.element_size()
        return tensor

    blocks = {
        name: module
        for name, module in unet.named_modules()
        if type(module).__name__ in ("ResnetBlock2D", "BasicTransformerBlock")
    }
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
    return at_most(
        "modelled peak, SD-1.5 shape at 512², bf16, checkpointing, batch 1", "GiB", peak / GIB, 6.5
    )
