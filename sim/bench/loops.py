"""References of ``fedapp bench fields``: a MAML step of one client after another, written two
ways.

*Lean*: one client's tensors, plain autograd with ``create_graph=True``, batches at hand. *As
published*: the way the released code of FedMeNF (https://arxiv.org/abs/2508.06301) works, in our
own words: a ``torch.nn.Module`` called with replaced parameters, all coordinates or rays of the
client built anew for every batch, a data loader made for every step, transmittance by cumulative
product, losses read back by ``.item()``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tasks.data.cameras import rays
from tasks.fields.radiance import Radiance
from tasks.fields.siren import Siren
from tasks.params import clip
from tasks.randomness import Key
from tasks.render.marching import RAY, all_points
from tasks.settings import DataSettings, FieldSettings, TaskSettings
from tasks.types import Batch, Episode

if TYPE_CHECKING:
    from tasks.image import ImageTask

INNER_STEPS = 8
RATE = 0.01  # of inner steps
CLIP = 5.0  # largest norm of an inner gradient
SIDE = 32  # of pictures

Objective = Callable[[list[Tensor], Batch], Tensor]  # one client's parameters and batch -> its loss


@dataclass(frozen=True)
class Inner:
    """K inner steps: their size and gradient norm limit."""

    rate: float
    clip: float


def siren_loss(field: Siren) -> Objective:
    """The loss of one client's SIREN."""

    def loss(weights: list[Tensor], batch: Batch) -> Tensor:
        activation = batch.inputs
        for index in range(0, len(weights) - 2, 2):
            activation = torch.sin(
                field.omega * torch.addmm(weights[index + 1], activation, weights[index].T)
            )
        output = torch.addmm(weights[-1], activation, weights[-2].T) + 0.5
        return (output - batch.targets).square().mean()

    return loss


def radiance_loss(field: Radiance) -> Objective:
    """The loss of one client's radiance field, transmittance by cumulative sum."""

    def loss(weights: list[Tensor], batch: Batch) -> Tensor:
        marched = field.prepare(Batch(batch.inputs[None], batch.targets[None]))
        activation = marched.points[0]
        for index in range(0, len(weights) - 2, 2):
            activation = torch.relu(torch.addmm(weights[index + 1], activation, weights[index].T))
        raw = torch.addmm(weights[-1], activation, weights[-2].T)
        return field.space.loss(raw[None], marched)[0]

    return loss


def lean(field: Siren | Radiance, inner: Inner, params: Tensor, episode: Episode) -> Tensor:
    """MAML's gradient of each client ``[C, P]``, one after another.

    Args:
        field: what every client fits.
        inner: size and clip of the inner steps.
        params: ``[C, P]``, where each client starts.
        episode: K support batches and the query, each ``[C, B, ...]``.
    """
    loss = siren_loss(field) if isinstance(field, Siren) else radiance_loss(field)
    rows = []
    for client in range(len(params)):
        start = [
            tensor.clone().requires_grad_()
            for tensor in field.layout.unflatten(params[client]).values()
        ]
        point = start
        for batch in episode.support:
            gradients = torch.autograd.grad(
                loss(point, _of(batch, client)), point, create_graph=True
            )
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            factor = inner.rate * inner.clip / norm.clamp(min=inner.clip)
            point = [
                tensor - factor * gradient
                for tensor, gradient in zip(point, gradients, strict=True)
            ]
        gradients = torch.autograd.grad(loss(point, _of(episode.query, client)), start)
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    return torch.stack(rows)


def _of(batch: Batch, client: int) -> Batch:
    return Batch(batch.inputs[client], batch.targets[client])


# ---------------------------------------------------------------------- as published
class SirenModule(nn.Module):
    """SIREN as a plain module."""

    def __init__(self, field: Siren) -> None:
        super().__init__()
        self.omega = field.omega
        pairs = zip(field.widths[:-1], field.widths[1:], strict=True)
        self.layers = nn.ModuleList([nn.Linear(i, o) for i, o in pairs])

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in list(self.layers)[:-1]:
            inputs = torch.sin(self.omega * layer(inputs))
        return self.layers[-1](inputs) + 0.5


class RadianceModule(nn.Module):
    """Radiance field and its rendering, transmittance by cumulative product."""

    def __init__(self, field: Radiance) -> None:
        super().__init__()
        self.field = field
        pairs = zip(field.network.widths[:-1], field.network.widths[1:], strict=True)
        self.layers = nn.ModuleList([nn.Linear(i, o) for i, o in pairs])

    def forward(self, inputs: Tensor) -> Tensor:
        space = self.field.space
        raw = self.field.features(all_points(inputs, space.near, space.far, space.samples))
        for layer in list(self.layers)[:-1]:
            raw = torch.relu(layer(raw))
        raw = self.layers[-1](raw)
        colour = torch.sigmoid(raw[..., :3])
        density = nn.functional.softplus(raw[..., 3])
        alpha = 1 - torch.exp(-density * ((space.far - space.near) / space.samples))
        through = torch.cumprod(
            torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], 1), 1
        )[:, :-1]
        weight = alpha * through
        return (weight[..., None] * colour).sum(1) + (
            1 - weight.sum(1, keepdim=True)
        ) * space.background


@dataclass(frozen=True)
class Holding:
    """One client's data and the samples each batch takes: ``index [K + 1, B]`` into all of them,
    ``offset`` alike."""

    picture: Tensor  # [H, W, 3], or [V, H, W, 3] with poses
    index: Tensor
    poses: Tensor | None = None
    focal: float = 1.0
    offset: Tensor | None = None

    def samples(self) -> tuple[Tensor, Tensor]:
        """All inputs and values, built anew."""
        if self.poses is None:
            rows, columns = (torch.linspace(-1, 1, n) for n in self.picture.shape[:2])
            grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
            return grid, self.picture.reshape(-1, 3)
        origins, directions = rays(
            self.poses, self.focal, self.picture.shape[1], self.picture.shape[2]
        )
        return torch.cat([origins, directions], -1).reshape(-1, RAY), self.picture.reshape(-1, 3)

    def batch(self, k: int) -> Batch:
        """Batch k, from samples built for it alone, through a data loader made for it alone."""
        inputs, values = self.samples()
        (picked,) = next(iter(DataLoader(TensorDataset(self.index[k : k + 1]), batch_size=1)))
        inputs = inputs[picked[0]]
        values = values[picked[0]]
        if self.offset is not None:
            inputs = torch.cat([inputs, self.offset[k][:, None]], -1)
        return Batch(inputs, values)


def as_published(
    field: Siren | Radiance, inner: Inner, params: Tensor, cohort: list[Holding]
) -> Tensor:
    """MAML's gradient of each client ``[C, P]``, the way the release works; every loss is read
    back.

    Args:
        field: what every client fits.
        inner: size and clip of the inner steps.
        params: ``[C, P]``, where each client starts.
        cohort: C clients, each with K + 1 batches, the query's last.
    """
    module = SirenModule(field) if isinstance(field, Siren) else RadianceModule(field)
    names = list(dict(module.named_parameters()))
    read = []

    def loss(weights: tuple[Tensor, ...], batch: Batch) -> Tensor:
        named = dict(zip(names, (weight[0] for weight in weights), strict=True))
        output = torch.func.functional_call(module, named, (batch.inputs,))
        return nn.functional.mse_loss(output, batch.targets)

    rows = []
    for client, holding in enumerate(cohort):
        start = tuple(
            t[None].clone().requires_grad_()
            for t in field.layout.unflatten(params[client]).values()
        )
        point = start
        for k in range(len(holding.index) - 1):
            found = loss(point, holding.batch(k))
            gradients = torch.autograd.grad(found, point, create_graph=True)
            norm = torch.norm(torch.stack([torch.norm(gradient) for gradient in gradients]))
            factor = inner.rate * torch.clamp(inner.clip / (norm + 1e-6), max=1.0)
            point = tuple(
                tensor - factor * gradient
                for tensor, gradient in zip(point, gradients, strict=True)
            )
            read.append(found.item())
        found = loss(point, holding.batch(len(holding.index) - 1))
        read.append(found.item())
        rows.append(
            torch.cat([gradient.reshape(-1) for gradient in torch.autograd.grad(found, start)])
        )
    return torch.stack(rows)


# ---------------------------------------------------------------------- a whole client of Flower
STOCK_RATE = 0.001  # outer steps


def task_of(config: dict[str, Any]) -> ImageTask:
    """The image task both sides of an end-to-end row fit."""
    from tasks.image import ImageTask

    field = FieldSettings(width=config["width"], depth=config["depth"])
    return ImageTask(TaskSettings(data=DataSettings(size=SIDE), field=field))


def train_alone(config: dict[str, Any], model: np.ndarray, number: int, client: int) -> np.ndarray:
    """MAML steps of one client, lean, on the same batches as our trainer draws.

    Args:
        config: ``width``, ``depth``, ``samples`` per batch, ``outer`` steps.
        model: ``[P]``, where it starts.
        number: the round, from 1.
        client: its index, from 0.
    """
    torch.set_num_threads(1)
    task = task_of(config)
    assert isinstance(task.field, Siren), "image tasks fit SIRENs"
    keys: list[Key] = [("batches", 0, number, client)]
    steps = config["outer"]
    samples = config["samples"]
    episode = task.episodes(
        [task.client_data(client)], keys, steps, INNER_STEPS, samples, torch.device("cpu")
    )
    params = torch.from_numpy(np.array(model))[None]
    for step in range(steps):
        params = params - STOCK_RATE * clip(
            lean(task.field, Inner(RATE, CLIP), params, episode(step)), CLIP
        )
    return params[0].numpy()
