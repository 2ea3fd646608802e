"""Memories of clients between rounds: the rule's vectors and the learner's own, kept on the node.

The server names the round whose memory a client continues from, the last one it accepted, so that a
lost reply or a resumed run cannot fork a client's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from strategies.learner import LearnerTraits
from strategies.rule import Rule
from tasks.errors import FedappError, InputError
from tasks.types import Trainable

Job = tuple[int, int]  # a client, and the round whose memory it continues from (0: none)


class MemoryStore(Protocol):
    """Storage of what clients remember, on the node that hosts them."""

    def load(self, client: int, version: int) -> Mapping[str, Tensor]:
        """The memory a client left in round ``version``; raises if this node does not have it."""

    def save(self, client: int, version: int, memory: Mapping[str, Tensor]) -> None:
        """Keep it until the server has accepted a later one."""


def remembered(task: Trainable, learner: LearnerTraits, rule: Rule) -> dict[str, int]:
    """Names of what clients keep between rounds, and how many numbers each is."""
    own = learner.memory(task)
    rules = {**dict.fromkeys(rule.memory, task.layout.size), **rule.memory_sizes}
    if both := sorted(set(own) & set(rules)):
        raise InputError(
            "methods",
            type(learner).__name__,
            f"its memory {both} has the name of one the rule keeps",
            "rename the learner's",
        )
    return {**rules, **own}


class ClientMemory:
    """The memories of a node's clients as rows of a cohort.

    Raises :class:`ValueError` if clients remember something and there is no ``store`` for it.
    """

    def __init__(self, sizes: Mapping[str, int], store: MemoryStore | None) -> None:
        if sizes and store is None:
            raise ValueError(f"clients remember {', '.join(sizes)}: they need a memory store")
        self.sizes = sizes
        self.store = store

    def recall(self, chunk: list[Job], model: Tensor) -> dict[str, Tensor]:
        """The clients' memories as ``{name: [C, size]}``; zeros for those who never took part."""
        if not self.sizes or self.store is None:
            return {}
        blank = {name: model.new_zeros(size) for name, size in self.sizes.items()}
        rows = [self.store.load(client, version) if version else blank for client, version in chunk]
        return {name: torch.stack([row[name].to(model) for row in rows]) for name in self.sizes}

    def recall_or_blank(self, job: Job, model: Tensor) -> dict[str, Tensor]:
        """A client's memory, or zeros if this node no longer has it: it starts anew, and nobody
        else suffers."""
        try:
            return self.recall([job], model)
        except FedappError:
            return self.recall([(job[0], 0)], model)

    def keep(self, client: int, round: int, rows: Mapping[str, Tensor], row: int = 0) -> None:
        """Save row ``row`` of ``rows``, each ``[C, size]``, as what a client remembers of a
        round."""
        if rows and self.store is not None:
            self.store.save(client, round, {name: values[row] for name, values in rows.items()})
