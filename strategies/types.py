"""Values that cross the seams of a round. ``C`` clients, ``P`` shared parameters, ``V`` contributed
numbers.

What leaves a node is a sum: a rule says what a client adds to it (:class:`Contribution`) and what
the server does with it (:class:`Aggregate`); a release says how the sum is made. The seams
themselves are :mod:`strategies.rule`, :mod:`strategies.learner` and :mod:`strategies.release`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]  # a rule's server state, each [P]
Memory = Mapping[str, "Tensor"]  # what clients remember between rounds, each [C, P]
Public = Mapping[str, "float | int | str"]  # a round's numbers that everybody knows: clip norm, ...


@dataclass(frozen=True)
class Broadcast:
    """A round's model ``[P]`` for the clients and whatever else its rule sends, each ``[P]``."""

    model: Tensor
    extra: Mapping[str, Tensor]
    round: int


@dataclass(frozen=True)
class LocalResult:
    """The outcome of local training: ``delta [C, P]`` = end - start, after ``steps [C]`` of size
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
    """Summands of clients: ``vector [C, V]``, ``weight [C]`` and declared scalars.

    ``largest``: upper bound of every weight, if the rule guarantees one; 0: weights are counts of
    examples. Vector and weight have one dtype: a weighted sum of mixed ones would either fail or
    depend on how clients are packed. Raises :class:`TypeError` otherwise.
    """

    vector: Tensor
    weight: Tensor
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    largest: float = 0.0

    def __post_init__(self) -> None:
        if self.weight.dtype != self.vector.dtype:
            raise TypeError(
                f"a contribution of {self.vector.dtype} weighed by {self.weight.dtype}: "
                "a rule gives both in the model's dtype"
            )


@dataclass(frozen=True)
class Aggregate:
    """The server's side of a round: ``mean [V]`` = sum w v / sum w, the sums of weight and scalars,
    and how many.

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


class Snapshot(NamedTuple):
    """State of an arm between two turns: ``tensors`` by name, and ``facts`` that JSON can hold."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


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
