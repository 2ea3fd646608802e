"""Least cost of an adapter step on this machine: the frozen denoiser's own layers.

Adapters change neither the convolutions nor the linear layers of the denoiser, and a derivative has
to pass back through all of them that lie behind the first adapter. Those products are what no
program can do without; attention, norms, activations, the adapters themselves and the optimiser are
left out, so the limit is a lower bound.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sim.bench.limits import Work
from sim.bench.talking_head_problem import Problem

Frozen = nn.Conv2d | nn.Linear


class Pass(NamedTuple):
    """One call of a frozen layer: its input, as it came, and a derivative of its output if one
    passes back."""

    layer: Frozen
    inputs: Tensor
    delta: Tensor | None


def frozen_layers(problem: Problem) -> Work:
    """Convolutions and linear layers of one grouped step, forward and back to their inputs."""
    passes: list[Pass] = []
    flops = 0.0

    def note(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops
        assert isinstance(layer, Frozen)
        inputs = given[0]
        delta = torch.ones_like(output) if inputs.requires_grad else None
        passes.append(Pass(layer, inputs.detach().clone(), delta))
        forward = 2.0 * output.numel() * layer.weight[0].numel()
        flops += forward if delta is None else 2 * forward

    layers = [layer for layer in problem.ours.backbone.unet.modules() if isinstance(layer, Frozen)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        problem.ours.gradient(problem.point, problem.draws.batch(0, 0))
    finally:
        for hook in hooks:
            hook.remove()

    @torch.no_grad()
    def run() -> None:
        for layer, inputs, delta in passes:
            layer(inputs)
            if delta is not None:
                _back(layer, inputs, delta)

    return Work(run, flops, "FLOP of convolutions and linear layers")


def _back(layer: Frozen, inputs: Tensor, delta: Tensor) -> Tensor:
    """Derivative with respect to the input alone: the weights are frozen."""
    if isinstance(layer, nn.Linear):
        return delta @ layer.weight
    wanted = [True, False, False]  # of input, weight, bias
    assert not isinstance(layer.padding, str), "diffusers pads by numbers"
    return torch.ops.aten.convolution_backward(
        delta,
        inputs,
        layer.weight,
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        [0, 0],
        layer.groups,
        wanted,
    )[0]
