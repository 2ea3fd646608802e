r"""Low-rank adapters on the backbone's attention, two of them by name, for many clients in one
pass.

*LoRA: Low-Rank Adaptation of Large Language Models*, E. Hu et al., ICLR 2022,
https://arxiv.org/abs/2106.09685:
:math:`y = W x + \frac{\alpha}{r} B A x`.

*Improving LoRA in Privacy-preserving Federated Learning*, Y. Sun, Z. Li, Y. Li, B. Ding, ICLR 2024,
https://arxiv.org/abs/2403.12313 (FFA-LoRA): all clients keep one common :math:`A_0` and train B, so
that the mean of the products is the product of the mean, :math:`\sum_k w_k B_k A_0 = (\sum_k w_k
B_k) A_0`.

``shared`` is what rounds carry; ``personal`` stays on its device. PEFT puts both into the UNet; the
two small linear maps of each are replaced by :class:`Grouped` ones, whose weights have a client
axis.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from tasks.params import Layout
from tasks.randomness import generator
from tasks.talking_head.backbone import Backbone

SHARED = "shared"
PERSONAL = "personal"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
MODES = ("ffa", "ab", "alternating")


class Grouped(torch.nn.Module):
    """A linear map without bias, one for each client: rows of the input belong to clients in equal
    blocks.

    ``weight`` is ``[C, out, in]`` (or ``[out, in]``, the same for all), set before each pass, not
    trained in place.
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.wear(weight)

    def wear(self, weight: Tensor) -> None:
        """Use ``weight`` from now on (written past ``Module.__setattr__``, which costs more than a
        small product)."""
        self.__dict__["weight"] = weight

    def forward(self, rows: Tensor) -> Tensor:
        """``[N, out]`` of ``rows [N, in]``."""
        weight = self.weight.to(rows.dtype)  # a bf16 denoiser, float32 adapters
        if weight.dim() == 2 or len(weight) == 1:
            return torch.nn.functional.linear(rows, weight if weight.dim() == 2 else weight[0])
        blocks = rows.view(len(weight), -1, rows.shape[1])
        return torch.bmm(blocks, weight.transpose(1, 2)).view(-1, weight.shape[1])

    def add_to(self, total: Tensor, rows: Tensor, scale: float) -> Tensor:
        """``total + scale * self(rows)`` in place of ``total [N, out]``, in one product."""
        weight = self.weight.to(rows.dtype)
        if weight.dim() == 2 or len(weight) == 1:
            return total.addmm_(rows, (weight if weight.dim() == 2 else weight[0]).t(), alpha=scale)
        blocks = rows.view(len(weight), -1, rows.shape[1])
        total.view(len(weight), -1, total.shape[1]).baddbmm_(
            blocks, weight.transpose(1, 2), alpha=scale
        )
        return total


def adapted(layer: Any, inputs: Tensor) -> Tensor:
    r""":math:`W x + \sum_{worn} \frac{\alpha}{r} B A x` of a PEFT layer whose A and B are
    :class:`Grouped`.

    The same as PEFT's own forward, without its copies: each adapter is added by the product that
    makes it.
    """
    rows = inputs.reshape(-1, inputs.shape[-1])
    total = layer.base_layer(rows)
    for name in layer.active_adapters:
        total = layer.lora_B[name].add_to(total, layer.lora_A[name](rows), layer.scaling[name])
    return total.view(*inputs.shape[:-1], -1)


def pieces(layout: Layout, rows: Tensor) -> dict[str, Tensor]:
    """:meth:`Layout.unflatten` by one split, whose gradient is one concatenation instead of a sum
    of full vectors."""
    sizes = [math.prod(shape) for _, shape, _ in layout.entries]
    parts = rows.split(sizes, dim=-1)
    return {
        key: part.view(*rows.shape[:-1], *shape)
        for (key, shape, _), part in zip(layout.entries, parts, strict=True)
    }


class Adapters:
    """The adapters of one backbone. ``shared`` and ``personal`` are the layouts of their vectors
    ``[P]`` and ``[Q]``.

    Args:
        backbone: gets both adapters put in.
        rank: r of both.
        alpha: their scale is ``alpha / rank``.
        mode: ``ffa`` shares B over a common A; ``ab`` shares both (their averages are not the
            average product); ``alternating`` shares both, of which B moves in odd rounds and A in
            even ones.
        seed: of the common A, which all nodes must have alike.
    """

    def __init__(self, backbone: Backbone, rank: int, alpha: int, mode: str, seed: int) -> None:
        from peft import LoraConfig

        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, not {mode!r}")
        self.backbone = backbone
        self.mode = mode
        self.rank = rank
        self.alpha = alpha
        spatial = r".*motion_modules.*" if backbone.motion else None
        # a note about nothing, each time
        logging.getLogger("diffusers.models.modeling_utils").setLevel(logging.ERROR)
        with warnings.catch_warnings():  # PEFT wonders whether a second adapter is meant
            warnings.simplefilter("ignore", UserWarning)
            for name in (SHARED, PERSONAL):
                config = LoraConfig(
                    r=rank, lora_alpha=alpha, target_modules=TARGETS, exclude_modules=spatial
                )
                backbone.unet.add_adapter(config, name)
        backbone.unet.set_adapters([SHARED, PERSONAL])
        backbone.requires_grad_(False)
        self._layers: list[Any] = []
        self._active = [SHARED, PERSONAL]
        self._places: dict[str, list[tuple[str, Grouped]]] = {SHARED: [], PERSONAL: []}
        self._start: dict[str, dict[str, Tensor]] = {SHARED: {}, PERSONAL: {}}
        for path, layer in backbone.unet.named_modules():
            if hasattr(layer, "lora_A") and SHARED in layer.lora_A:
                self._layers.append(layer)
                layer.forward = MethodType(adapted, layer)
                for name in (SHARED, PERSONAL):
                    self._take_over(layer, path, name, seed)
        trained = ("lora_B",) if mode == "ffa" else ("lora_A", "lora_B")
        self.shared = Layout.of(
            {key: tuple(t.shape) for key, t in self._start[SHARED].items() if key.endswith(trained)}
        )
        self.personal = Layout.of({key: tuple(t.shape) for key, t in self._start[PERSONAL].items()})

    def _take_over(self, layer: Any, path: str, name: str, seed: int) -> None:
        """Our adapters in place of PEFT's, in single precision whatever the frozen weights have:
        small steps are added to them, and they travel."""
        for part in ("lora_A", "lora_B"):
            old = getattr(layer, part)[name].weight
            key = f"{path}.{part}"
            if part == "lora_A":
                # Kaiming-uniform with a = sqrt 5, as PEFT does, but from a named stream
                bound = 1 / math.sqrt(old.shape[1])
                draw = torch.rand(old.shape, generator=generator("lora", seed, name, path))
                start = ((2 * draw - 1) * bound).to(old.device)
            else:
                start = torch.zeros_like(old, dtype=torch.float32)
            module = Grouped(start.detach())
            getattr(layer, part)[name] = module
            self._start[name][key] = start.detach()
            self._places[name].append((key, module))

    # ------------------------------------------------------------------ vectors
    def start(self, name: str) -> Tensor:
        """The vector an adapter starts from: it changes nothing, since B is 0."""
        layout = self.shared if name == SHARED else self.personal
        return layout.flatten({key: self._start[name][key] for key, _, _ in layout.entries})

    def frozen(self, round: int) -> Tensor | None:
        """``[P]`` bool: which shared numbers do not move in ``round``; ``None`` if all do."""
        if self.mode != "alternating":
            return None
        moving = "lora_B" if round % 2 else "lora_A"
        return torch.cat(
            [
                torch.full((math.prod(shape),), not key.endswith(moving))
                for key, shape, _ in self.shared.entries
            ]
        )

    @contextmanager
    def worn(self, shared: Tensor, personal: Tensor | None = None) -> Iterator[None]:
        """Give the backbone the adapters ``shared [C, P]`` and ``personal [C, Q]`` (``None``: none)
        of C clients."""
        values = {SHARED: pieces(self.shared, shared)}
        if personal is not None:
            values[PERSONAL] = pieces(self.personal, personal)
        if list(values) != self._active:
            self._active = list(values)
            for layer in self._layers:
                layer.set_adapter(self._active)  # an adapter that is not worn costs nothing
        try:
            for name, given in values.items():
                for key, module in self._places[name]:
                    module.wear(given.get(key, self._start[name][key]))
            yield
        finally:
            for name in values:
                for key, module in self._places[name]:
                    module.wear(self._start[name][key])

    def tensors(self, name: str, vector: Tensor) -> dict[str, Tensor]:
        """Both factors of every layer by their PEFT names, for ``vector [P]`` or ``[Q]``."""
        layout = self.shared if name == SHARED else self.personal
        return {**self._start[name], **layout.unflatten(vector)}

    def matched(self) -> list[str]:
        """Paths of the layers that are adapted."""
        return sorted({key.rsplit(".", 1)[0] for key in self._start[SHARED]})

    # ------------------------------------------------------------------ cost of averaging factors
    def products(self, shared: Tensor) -> dict[str, Tensor]:
        """``{layer: [C, out, in]}``: the weight changes (alpha / r) B A of each client."""
        given = self.shared.unflatten(shared)
        found = {}
        for key, b in given.items():
            if key.endswith("lora_B"):
                a_key = key.removesuffix("lora_B") + "lora_A"
                a = given.get(a_key, self._start[SHARED][a_key].expand(len(b), -1, -1))
                found[key.removesuffix(".lora_B")] = (self.alpha / self.rank) * torch.bmm(b, a)
        return found

    def aggregation_error(self, base: Tensor, updates: Tensor, weights: Tensor) -> float:
        r"""Distance of the product of the averages from the average of the products, relative to a
        round's change; 0 for ``ffa``.

        .. math::
            \frac{\lVert \bar B \bar A - \sum_k w_k B_k A_k \rVert}
                {\lVert \sum_k w_k B_k A_k - B_0 A_0\rVert}

        Args:
            base: :math:`B_0, A_0` as a vector ``[P]``.
            updates: ``[C, P]``, which lead from there to the clients' :math:`B_k, A_k`.
            weights: of the clients, ``[C]``; their sum does not matter.
        """
        weights = weights / weights.sum()
        shared = base + updates
        mean = self.products((weights[:, None] * shared).sum(0, keepdim=True))
        before = self.products(base[None])
        error = total = 0.0
        for layer, product in self.products(shared).items():
            true = torch.einsum("c,coi->oi", weights, product)
            error += float((mean[layer][0] - true).square().sum())
            total += float((true - before[layer][0]).square().sum())
        return math.sqrt(error / total) if total else 0.0
