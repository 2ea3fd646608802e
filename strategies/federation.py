"""The server half of a round, without any transport: who takes part, what they get, what their sum
does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from strategies.rule import Rule
from strategies.types import Aggregate, Broadcast, Payload, Snapshot, State
from tasks.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model"  # names of a federation's tensors in a snapshot
STATE = "state/"


def participants(seed: int, round: int, population: int, per_round: int) -> list[int]:
    """The clients of a round, in increasing order: ``per_round`` drawn without replacement (0:
    all).

    Depends on (seed, round) alone, so every method of a comparison trains the same clients.
    """
    import torch

    if per_round in (0, population):
        return list(range(population))
    order = torch.randperm(population, generator=generator("participants", seed, round))
    return sorted(order[:per_round].tolist())


def in_turns(seed: int, round: int, population: int, per_round: int) -> list[int]:
    """The clients whose turn ``round`` (from 1) is: ceil(N/m) groups in a seeded order, as equal as
    can be."""
    import torch

    order = torch.randperm(population, generator=generator("turns", seed)).tolist()
    groups = -(-population // per_round)
    turn = (round - 1) % groups
    return sorted(order[turn * population // groups : (turn + 1) * population // groups])


@dataclass
class Federation:
    """One method's shared model and everything that moves it: ``model [P]``, the rule's state, who
    was accepted.

    ``accepted[client]`` is the last round whose contribution of that client entered the model; a
    rule's client continues from the memory of exactly that round, so a lost reply or a resumed run
    cannot fork it. ``frozen(round)`` says which numbers of the model stay as they are in a round,
    whatever noise or momentum would do.
    """

    rule: Rule
    population: int
    model: Tensor
    state: State = field(default_factory=dict)
    accepted: dict[int, int] = field(default_factory=dict)
    round: int = 0
    frozen: Callable[[int], Tensor | None] | None = None

    @classmethod
    def start(cls, rule: Rule, population: int, model: Tensor) -> Federation:
        """Before the first round."""
        return cls(rule, population, model, rule.init(model))

    def broadcast(self, round: int) -> Broadcast:
        """Broadcast to the participants of ``round``."""
        return self.rule.broadcast(self.model, self.state, round)

    @property
    def result(self) -> Tensor:
        """The model that is judged and used: the last one, unless the rule says otherwise."""
        return self.rule.result(self.model, self.state)

    def apply(self, aggregate: Aggregate, clients: list[int], round: int) -> None:
        """Move the model by a round's aggregate; ``clients`` are those in the sum."""
        import torch

        self._follow(round)
        model, state = self.rule.apply(self.model, self.state, aggregate, self.population)
        still = self.frozen(round) if self.frozen else None
        if still is not None:
            model = torch.where(still.to(model.device), self.model, model)
        self.model = model
        self.state = state
        self.round = round
        self.accepted |= dict.fromkeys(clients, round)

    def skip(self, round: int) -> None:
        """A round in which nothing was learned: the model stays."""
        self._follow(round)
        self.round = round

    def snapshot(self) -> Snapshot:
        """Model, rule's state and accepted rounds, copied (a rule may keep one tensor under two
        names)."""
        state = {f"{STATE}{name}": value.clone() for name, value in self.state.items()}
        tensors = {MODEL: self.model.clone(), **state}
        return Snapshot(tensors, {"accepted": dict(self.accepted)})

    def restore(self, round: int, snapshot: Snapshot) -> None:
        """Go back to the state after ``round``."""
        self.model = snapshot.tensors[MODEL]
        self.state = {
            name.removeprefix(STATE): tensor
            for name, tensor in snapshot.tensors.items()
            if name.startswith(STATE)
        }
        accepted = snapshot.facts["accepted"]  # JSON has no whole numbers as keys
        self.accepted = {int(client): version for client, version in accepted.items()}
        self.round = round

    def _follow(self, round: int) -> None:
        if round != self.round + 1:
            raise ValueError(
                f"round {round} cannot follow round {self.round}: rounds only move forward by one"
            )


class Fold:
    """Adds partial sums in the order of their slots, whatever order they arrive in.

    Float addition is not associative; a fixed order makes the same layout give the same bits. Early
    replies wait: how many is bounded by how far messages run ahead of the oldest one that is out
    (:mod:`strategies.flower.legs`).
    """

    def __init__(self) -> None:
        self.total: Payload | None = None
        self._next = 0
        self._waiting: dict[int, Payload | None] = {}

    def put(self, slot: int, payload: Payload | None) -> None:
        """The answer of one slot; ``None`` if there is none to add."""
        self._waiting[slot] = payload
        while self._next in self._waiting:
            ready = self._waiting.pop(self._next)
            self._next += 1
            if ready is None:
                continue
            if self.total is None:
                # what arrives is only lent
                self.total = replace(ready, vector=ready.vector.clone())
            else:
                self.total.add(ready)
