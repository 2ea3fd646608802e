"""Initial weights of attackers' networks, from a named stream."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def drawn(network: nn.Module, stream: torch.Generator) -> None:
    """Draw a network's weights anew (He's deviation); biases begin at 0, norms as they are."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            deviation = (2 / layer.weight[0].numel()) ** 0.5
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=stream) * deviation)
            if layer.bias is not None:
                layer.bias.zero_()
