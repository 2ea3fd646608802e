"""The task of split radiance fields: which scenes there are, and how well they are rendered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.data.cameras import Views
from tasks.data.layouts import detect, open_layout
from tasks.errors import InputError
from tasks.metrics import psnr, ssim
from tasks.settings import TaskSettings
from tasks.split_nerf.rooms import Texture, around, photographs
from tasks.split_nerf.scene import Geometry, Scene, scene_of
from tasks.types import Task

CACHED = 16  # scenes kept in memory


class SplitNerf(Task):
    """Scenes photographed from known cameras, one per client: procedural rooms, or a folder in the
    ``transforms`` layout."""

    workflow = "exchanges"
    family = "split"

    def __init__(self, settings: TaskSettings) -> None:
        self.data = settings.data
        self.split = settings.split
        self.client_data = lru_cache(CACHED)(self._client_data)  # type: ignore[method-assign]
        self.holders: list[Any] = []
        if self.data.path:
            root = Path(self.data.path).expanduser()
            name = detect(root) if self.data.layout == "auto" else self.data.layout
            self.layout = open_layout(name)
            if self.layout.kind != "views":
                raise InputError(
                    "data.path",
                    self.data.path,
                    f"layout {name} holds {self.layout.kind}, this task fits views",
                    "use folders with a transforms.json",
                )
            self.holders = self.layout.holders(root)
        elif not self.data.size:
            raise InputError("data.size", 0, "rooms have no native size", "set it to 48 or so")

    def check(self, clients: int) -> None:
        """Look at every scene that lies here once."""
        hosts = self.data.hosts(clients)
        if self.data.path and len(hosts) > len(self.holders):
            raise InputError(
                "data.path",
                self.data.path,
                f"{len(self.holders)} scenes are too few for {len(hosts)} clients",
                "lower clients.total, or add scenes",
            )
        for client in hosts:
            self.client_data(client)

    def _client_data(self, client: int) -> Scene:
        held_out = self.split.test_views
        if self.data.path:
            holder = self.holders[self.data.place(client)]
            return scene_of(self.layout.load_views(holder.items[0], self.data.size), held_out)
        views = photographs(
            client, self.texture(client), self.data.size, self.split.train_views, held_out
        )
        one = torch.ones(3)
        return scene_of(views, held_out, (-one, one))

    def texture(self, client: int) -> Texture:
        """Of a procedural room."""
        if self.split.texture == "mixed":
            return "fine" if client % 2 else "plain"
        return self.split.texture

    def tour(self, geometry: Geometry, count: int) -> Tensor:
        """Poses ``[count, 4, 4]`` of a walk through a scene: a swing before a room, else along the
        training cameras."""
        if not self.data.path:
            return around(count)
        chosen = torch.arange(count) * geometry.train // count
        return geometry.poses[chosen]

    def picture(self, data: Any, values: Tensor) -> Tensor | None:
        return values[0] if values.dim() == 4 else values

    def held_out(self) -> Sequence[Views]:
        """Nobody's scenes: a field of one scene says nothing about another."""
        return []


def scores(rendered: Tensor, truth: Tensor) -> dict[str, float | None]:
    """PSNR and SSIM of renderings ``[V, H, W, 3]``, means over views."""
    pairs = list(zip(rendered, truth, strict=True))
    return {
        "psnr": sum(psnr(one, other) for one, other in pairs) / len(pairs),
        "ssim": ssim(rendered, truth),
    }
