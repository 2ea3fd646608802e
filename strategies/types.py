"""Types that cross the seams of a round. ``C`` clients, ``P`` shared parameters, ``V`` contributed
numbers.

What leaves a node is a sum: a rule says what a client adds to it (:class:`Contribution`) and what
the server does with it (:class:`Aggregate`); a release says how the sum is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from strategies.settings import LearnerSettings
from tasks.randomness import Key
from tasks.types import Derivatives, Episode, Task

State = dict[str, Tensor]  # a rule's server state, each [P]
Memory = Mapping[str, Tensor]  # what clients remember between rounds, each [C, P]
Public = Mapping[
    str, float | int | str
]  # the numbers of a round that everybody knows: clip norm, levels, ...


@dataclass(frozen=True)
class Broadcast:
    """What a client receives: ``model [P]`` and whatever else its rule sends, each ``[P]``."""

    model: Tensor
    extra: Mapping[str, Tensor]
    round: int


@dataclass(frozen=True)
class LocalResult:
    """What local training gives: ``delta [C, P]`` = end - start, after ``steps [C]`` of size
    ``step_size``.

    ``metrics`` may be reported (in the clear under ``plain``, bounded and noised otherwise);
    ``signals`` are for the rule alone and never leave; ``kept`` goes to the client's own memory and
    nowhere else.
    """

    delta: Tensor
    steps: Tensor  # [C], whole numbers
    step_size: float
    examples: Tensor  # [C]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)  # each [C]
    signals: Mapping[str, Tensor] = field(default_factory=dict)  # each [C] in [0, 1]
    kept: Mapping[str, Tensor] = field(default_factory=dict)  # each [C, ...]


class Bounds(NamedTuple):
    """The range within which a private release bounds a scalar beside the vector, known before the
    run.

    ``clip_power``: the range is in units of the clip norm to that power (2 for squared norms of
    updates). ``weighted``: what is summed is weight times value, so that a rule can take the
    weighted mean; ``low`` is then 0.
    """

    low: float
    high: float
    clip_power: int = 0
    weighted: bool = False


class Scalar(NamedTuple):
    """A scalar beside the vector, ``value [C]``."""

    value: Tensor
    bounds: Bounds


@dataclass(frozen=True)
class Contribution:
    """What clients add to the sum: ``vector [C, V]``, ``weight [C]`` and declared scalars.

    ``largest``: what no weight exceeds, where the rule guarantees it; 0: weights are counts of
    examples.
    """

    vector: Tensor
    weight: Tensor
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    largest: float = 0.0


@dataclass(frozen=True)
class Aggregate:
    """What the server gets: ``mean [V]`` = sum w v / sum w, the sums of weight and scalars, and how
    many.

    Under differential privacy ``weight`` and ``count`` are public constants: how many were
    expected.
    """

    mean: Tensor
    weight: float
    scalars: Mapping[str, float]
    count: float


class Step(NamedTuple):
    """A learner's outer step: pseudo-gradient ``[C, P]``, the objective ``[C]`` it descends, other
    metrics."""

    gradient: Tensor
    objective: Tensor
    metrics: Mapping[str, Tensor]


@runtime_checkable
class Learner(Protocol):
    """How data become a local step: a gradient oracle. ``outer_rate`` is its own step size.

    It may be ``silent`` (its metrics must not leave a client), say that it ``clips_itself``, and
    need some ``least_inner_steps``; one that is ``personal`` trains personal parameters too, which
    only some tasks have.
    """

    inner_steps: int
    outer_rate: float

    def step(self, derivatives: Derivatives, params: Tensor, episode: Episode) -> Step:
        """The pseudo-gradient of each client at ``params [C, P]``."""


@runtime_checkable
class WholeFit(Protocol):
    """A learner that trains a cohort by itself instead of giving one gradient after another.

    It may have ``memory(task) -> {name: size}``: what its clients keep between rounds, given back
    to ``fit`` beside the rule's memory and renewed by ``LocalResult.kept``.
    """

    inner_steps: int

    def fit(
        self, task: Task, rule: Rule, received: Broadcast, cohort: Sequence[Any], memory: Memory,
        keys: Sequence[Key], settings: LearnerSettings,
    ) -> LocalResult:  # fmt: skip
        """Train every client of ``cohort``, drawing from the streams ``keys [C]``."""


@runtime_checkable
class Rule(Protocol):
    """How the server moves the model and ties the clients to it: one published algorithm, both
    halves.

    It may have ``scalars: {name: Bounds}``, what it sums beside the vector (each in every
    :class:`Contribution`), ``result(model, state)``, what is judged instead of the last model, and
    ``settled(memory, renewed, kept)``, what clients remember if a release clipped their
    contributions to the share ``kept [C, 1]``.
    """

    memory: tuple[str, ...]

    def size(self, parameters: int) -> int:
        """V, how many numbers a client contributes for a model of P ``parameters``."""

    def init(self, model: Tensor) -> State:
        """Server state before the first round."""

    def broadcast(self, model: Tensor, state: State, round: int) -> Broadcast:
        """What clients receive."""

    def correct(
        self, gradient: Tensor, params: Tensor, received: Broadcast, memory: Memory
    ) -> Tensor:
        """The corrected local step direction ``[C, P]``."""

    def contribute(
        self, result: LocalResult, received: Broadcast, memory: Memory
    ) -> tuple[Contribution, dict[str, Tensor]]:
        """What each client adds to the sum, and what it will remember if the server accepts it."""

    def apply(
        self, model: Tensor, state: State, aggregate: Aggregate, population: int
    ) -> tuple[Tensor, State]:
        """The next model and server state; ``population`` is the number of clients there are."""


@dataclass
class Payload:
    """A (partial) sum of contributions: ``vector [V]`` = sum w v, and the sums that go with it."""

    vector: Tensor
    weight: float
    scalars: dict[str, float]
    count: int

    def add(self, other: Payload) -> None:
        """Add another partial sum in place."""
        self.vector += other.vector
        self.weight += other.weight
        self.count += other.count
        for name, value in other.scalars.items():
            self.scalars[name] = self.scalars.get(name, 0.0) + value


@runtime_checkable
class Release(Protocol):
    """How the sum over clients is made: in the clear, with noise, or masked.

    ``private``: nothing but the sum leaves a client (no counts, metrics, reasons). ``masked``: the
    sum is made by secure aggregation. ``noised``: it is charged to a privacy budget. ``length``:
    numbers in the vector that leaves a node. ``state`` is what the release itself adapts from round
    to round. ``metric_ranges``: metrics that travel inside the sum, with the range they are bounded
    to.
    """

    private: bool
    masked: bool
    noised: bool
    length: int
    state: dict[str, float]
    metric_ranges: Mapping[str, tuple[float, float]]

    def open(self, clients: int, expected: float, nodes: int, least: int) -> Public:
        """On the server, before a round: the numbers everybody will compute with.

        ``clients`` on ``nodes`` were drawn, ``expected`` are on average, ``least`` nodes must be in
        the sum.
        """

    def encode(self, contribution: Contribution, public: Public) -> Payload:
        """On the node: the sum over some of the node's own clients."""

    def close(self, payload: Payload | None, public: Public) -> Payload | None:
        """On the node, once: what leaves it (``payload`` is ``None`` if none of its clients took
        part)."""

    def decode(self, total: Payload, public: Public) -> Aggregate:
        """On the server: what the rule is given."""


class Charge(Protocol):
    """Where a round is written down before it happens, and how it ended."""

    def reserve(self, round: int) -> None:
        """Before anything is sampled; raises :class:`tasks.errors.StoppedError` if the budget does
        not allow it."""

    def sampled(self, clients: list[int]) -> None:
        """Who was drawn."""

    def witness(self) -> dict[str, int | str]:
        """How far the book is, signed, for nodes to remember."""

    def released(self, clients: list[int]) -> None:
        """The round's sum was used."""

    def aborted(self, reason: str) -> None:
        """It was not; it stays charged."""
