"""The aggregation rule: how clients and server move the shared model. One published algorithm, both
halves.

Shapes: ``C`` clients, ``P`` shared parameters, ``V`` contributed numbers. A rule derives from
:class:`Rule`, states its traits as class attributes and says what clients add
(:meth:`Rule.contribute`) and what the server does with the mean (:meth:`Rule.apply`). Every trait
and every other method has a default here, so that a misspelt one is a type error and not a silent
no.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from strategies.types import Bounds, Broadcast, Contribution

if TYPE_CHECKING:
    from torch import Tensor

    from strategies.types import Aggregate, LocalResult, Memory, State


class RunFacts(NamedTuple):
    """Numbers of the whole run that a rule or learner may take a default from.

    ``outer_steps`` and ``outer_rate`` are the configured local loop's; ``equal_steps`` says that
    all clients take as many; ``client_steps`` is the expected number of outer steps of one client
    in the whole run; ``most_examples`` is what no client holds more of (0: unknown).
    """

    outer_steps: int
    outer_rate: float
    equal_steps: bool
    client_steps: float
    most_examples: int


class Rule:
    """Base of all aggregation rules, with the default of every trait.

    Traits:
        memory: vectors like the model that each client remembers between rounds.
        memory_sizes: further memories, ``{name: how many numbers}``.
        scalars: what is summed beside the vector, with the range a private release bounds it to.
        signals: reliability signals it weighs clients by; only some learners measure them.
        counts_steps: travels numbers of steps, which noise would drown where they differ.
        averages_gradients: takes client updates for sums of plain gradient steps.
        attends: clients may stay away by a score they remember (:meth:`attendance`).
        bounded_step: ``rules.server-clip`` bounds the norm of each move of the model.
    """

    memory: ClassVar[tuple[str, ...]] = ()
    memory_sizes: Mapping[str, int] = {}
    scalars: Mapping[str, Bounds] = {}
    signals: ClassVar[tuple[str, ...]] = ()
    counts_steps: ClassVar[bool] = False
    averages_gradients: ClassVar[bool] = False
    attends: bool = False
    bounded_step: ClassVar[bool] = True

    @classmethod
    def configured(cls, settings: Any, facts: RunFacts) -> Rule:
        """The rule of a run: ``settings`` (:class:`strategies.settings.RuleSettings`), where a 0
        may stand for what follows from ``facts``."""
        return cls(settings)  # type: ignore[call-arg]

    def size(self, parameters: int) -> int:
        """V, how many numbers a client contributes for a model of P ``parameters``."""
        return parameters

    def init(self, model: Tensor) -> State:
        """Server state before the first round."""
        return {}

    def broadcast(self, model: Tensor, state: State, round: int) -> Broadcast:
        """Broadcast to the clients of ``round``."""
        return Broadcast(model, {}, round)

    def correct(
        self, gradient: Tensor, params: Tensor, received: Broadcast, memory: Memory
    ) -> Tensor:
        """The corrected local step direction.

        Args:
            gradient: the client's own, already clipped, ``[C, P]``.
            params: where it was taken, ``[C, P]``.
            received: the broadcast the clients started from.
            memory: what they remember, each ``[C, ...]``.
        """
        return gradient

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        """Summand of each client, and what it will remember if the server accepts it.

        Client c's row may depend on row c of ``result`` and ``memory`` alone: how clients are
        packed into chunks and nodes must not matter (a contract clause).
        """
        raise NotImplementedError(f"{type(self).__name__}.contribute")

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        """The next model and server state.

        Args:
            model: the current one, ``[P]``.
            state: the rule's own, each ``[P]``.
            aggregate: the mean of what clients contributed, and the sums beside it.
            population: how many clients there are, taking part or not.
        """
        raise NotImplementedError(f"{type(self).__name__}.apply")

    def result(self, model: Tensor, state: State) -> Tensor:
        """The model ``[P]`` that is judged and used."""
        return model

    def after_clip(self, memory: Memory, renewed: Memory, clip_factor: Tensor) -> Memory:
        """Memories of clients when a release let through the share ``clip_factor [C, 1]`` of what
        they contributed."""
        return renewed

    def attendance(self, memory: Memory) -> Tensor:
        """p ``[C]``: the chance with which each drawn client trains (rules that
        :attr:`attends`)."""
        raise NotImplementedError(f"{type(self).__name__} says it attends and has no attendance")
