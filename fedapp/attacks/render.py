"""Rendering of what a server holds: the model plus an update is a field, so look at it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fedapp.attacks.next_round import Held
from fedapp.attacks.recovery import Recovery


class Render(Recovery):
    """The field a server holds, seen from where the client looked."""

    rungs = ("render",)
    own_view = True

    def fits(self, rung: str, release: str) -> bool:
        return True

    def seen(self, method: str, seed: int, release: str, held: Held) -> Held:
        return held

    def recover(self, rung: str, method: str, seed: int, client: int, update: Tensor) -> Tensor:
        return self._rendered(method, seed, update, self.view.cohort[client])

    def by_chance(
        self, method: str, seed: int, clients: list[int], held: Held, found: list[Tensor]
    ) -> list[tuple[Tensor, Any]]:
        """The same uploads, each seen as a non-member looks."""
        pairs = super().by_chance(method, seed, clients, held, found)
        return [
            (self._rendered(method, seed, held(client), other), other)
            for client, (_, other) in zip(clients, pairs, strict=True)
        ]

    def _rendered(self, method: str, seed: int, update: Tensor, data: Any) -> Tensor:
        field = self.view.received(method, seed).model + update
        return self.view.fields.render(field[None], [data])[0]
