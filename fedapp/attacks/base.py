"""Base classes of attacks: what the registry of :mod:`fedapp.attacks` holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fedapp.attacks.next_round import Held, NextRound, Row


class Attack:
    """One way to use what a server holds; ``view`` is what it holds, ``tell`` shows progress."""

    def __init__(self, view: Any, tell: Callable[[str], None] = lambda _: None) -> None:
        self.view = view
        self.tell = tell

    @classmethod
    def applies(cls, view: NextRound) -> bool:
        """Whether it can be tried on what the server holds of this run."""
        raise NotImplementedError

    def run(self, method: str, seed: int) -> Iterator[Row]:
        """Rows of the table for one trained method."""
        raise NotImplementedError


class ReleaseAttack(Attack):
    """An attack on updates, tried on what the server would hold of them under each release."""

    def run_on(self, method: str, seed: int, release: str, held: Held) -> Iterator[Row]:
        """Rows of the table for one trained method under one release.

        Args:
            method: that trained the updates.
            seed: of its arm.
            release: the label of the row.
            held: client -> the update ``[P]`` that the server holds of it.
        """
        raise NotImplementedError
