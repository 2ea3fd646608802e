"""The release: how the sum over clients is made. Base with the default of every trait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from strategies.types import Aggregate, Contribution, Payload, Public

ROUND_METRICS = ("update_norm", "clip")  # what is told of every private sum


class Release:
    """Base of all releases.

    Traits:
        private: nothing but the sum leaves a client: no counts, metrics or reasons.
        masked: the sum is made by secure aggregation.
        placement: who adds noise: nobody, the server to the sum, or every node a share.
        multiplier: z, the noise's deviation over the sensitivity; 0 without noise.
        sensitivity: S, the largest norm of what a client adds; infinite where nothing bounds it.
        length: numbers in the vector that leaves a node.
        state: what the release itself adapts from round to round.
        provable: nodes take part only where no clip can act (:mod:`privacy.exact`), in double
            precision.
        metric_ranges: metrics that travel inside the sum, with the range they are bounded to.
    """

    private: ClassVar[bool] = False
    masked: ClassVar[bool] = False
    placement: ClassVar[Literal["none", "central", "distributed"]] = "none"
    multiplier: float = 0.0
    provable: bool = False
    sensitivity: float = math.inf
    length: int
    state: dict[str, float]
    metric_ranges: Mapping[str, tuple[float, float]] = {}

    @property
    def noised(self) -> bool:
        """Whether it is charged to a privacy budget."""
        return self.placement != "none"

    @classmethod
    def exact(cls) -> bool:
        """Whether the server sees sums over nodes exactly, whatever it adds to them afterwards:
        such sums are of fixed groups, every one of them whole."""
        return cls.masked and cls.placement != "distributed"

    @property
    def own_noise(self) -> float:
        """The multiplier of the noise that nodes themselves add; a server's promise counts
        nothing."""
        return self.multiplier if self.placement == "distributed" else 0.0

    def open(self, clients: int, expected: float, nodes: int, least: int) -> Public:
        """On the server, before a round: the numbers everybody will compute with.

        Args:
            clients: how many were drawn.
            expected: how many are drawn on average.
            nodes: how many nodes they are on.
            least: how many nodes must be in the sum.
        """
        return {}

    def objection(self, public: Public, nodes: int, least: int, colluding: int) -> str:
        """Reason for which a node refuses a round's public numbers; empty if it does not.

        Args:
            public: the numbers, as the server gave them.
            nodes: really members of the sum.
            least: that must be in it.
            colluding: that may be hostile.
        """
        return ""

    def encode(self, contribution: Contribution, public: Public) -> Payload:
        """On the node: the sum over some of the node's own clients."""
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def clip_factor(self, contribution: Contribution, public: Public) -> Tensor | None:
        """The share of each client's vector that a clip lets through, ``[C]`` in [0, 1]; ``None``
        if nothing is clipped."""
        return None

    def close(self, payload: Payload | None, public: Public) -> Payload | None:
        """On the node, once: what leaves it (``payload`` is ``None`` if none of its clients took
        part)."""
        return payload

    def held(self, total: Payload, public: Public) -> Tensor:
        """On the server: the sum over clients as it came, before anything is added to it, ``[V]``
        in double precision (for transcripts that attacks are tried on)."""
        raise NotImplementedError(f"{type(self).__name__}.held")

    def decode(self, total: Payload, public: Public) -> Aggregate:
        """On the server: what the rule is given."""
        raise NotImplementedError(f"{type(self).__name__}.decode")


class Charge(Protocol):
    """The ledger's side of a round: written before it happens, and closed however it ended."""

    def reserve(self, round: int) -> None:
        """Before anything is sampled; raises :class:`tasks.errors.StoppedError` if the budget does
        not allow it."""

    def sampled(self, clients: list[int]) -> None:
        """Note who was drawn."""

    def witness(self) -> dict[str, int | str]:
        """Head of the ledger, signed, for nodes to remember."""

    def released(self, clients: list[int]) -> None:
        """Note that the round's sum was used."""

    def aborted(self, reason: str) -> None:
        """Note that it was not; it stays charged."""
