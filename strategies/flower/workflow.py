"""The seam between a run and a way of training: a run drives workflows and knows no model.

Rounds of sums (:mod:`strategies.flower.rounds`) are one workflow; split learning and obscured
upload are others. A :class:`Workflow` is the server half, one method at one seed; a
:class:`NodeHalf` answers its legs on a node. What neither says is the run's affair: order of arms,
events, checkpoints, reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from strategies.flower.roster import Node
from strategies.types import Snapshot
from tasks.types import Evaluation

if TYPE_CHECKING:
    from torch import Tensor

LEG = "leg"  # the ClientApp's one handler for legs of workflows that are not sums, train and query


@dataclass
class TurnReport:
    """The outcome of one turn of a workflow (a round, an exchange with every scene, a stage).

    Attributes:
        number: of the turn, from 1.
        clients: how many contributed.
        failures: why others did not, by client.
        metrics: JSON-ready numbers and tables of numbers by name; they get a namespace of their own
            in the event, the result and the report.
        by_client: metrics of single clients, where they may be told.
        pictures: images ``[H, W, 1 or 3]`` by file name.
        epsilon: spent by the population so far; ``None`` without a privacy budget.
        skipped: why nothing was learned; empty if something was.
        groups_skipped: fixed groups of which no sum was made, and why.
        remarks: what was noticed of single nodes that does not fit the protocol, by node.
        fallbacks: what chunks of clients failed with before they were trained one by one.
        unseen: why uploads could not be looked at.
        bytes_up, bytes_down: of messages.
        seconds: wall time.
    """

    number: int
    clients: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    by_client: dict[str, dict[int, float]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    epsilon: float | None = None
    skipped: str = ""
    groups_skipped: dict[int, str] = field(default_factory=dict)
    remarks: dict[int, str] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


@runtime_checkable
class Judged(Protocol):
    """Something a run evaluates: an arm, or a baseline that is not trained."""

    method: str
    seed: int

    def evaluate(self, grid: Grid, number: int, final: bool) -> Evaluation:
        """Quality after turn ``number``; ``final`` adds what is only worth it at the end. The
        server judges, or asks nodes."""


@runtime_checkable
class Workflow(Judged, Protocol):
    """The server half: one method at one seed."""

    def connect(self, nodes: Sequence[Node], session: str) -> None:
        """Take the nodes there are; called again when one has come back. ``session`` names this
        server process: answers of another are not meant for it."""

    def turn(self, grid: Grid, number: int, show: bool) -> TurnReport:
        """Take turn ``number``; ``show``: pictures are wanted. Raises ``StoppedError`` where the
        run cannot go on."""

    def snapshot(self) -> Snapshot:
        """Everything an arm needs to go on as if it had never stopped. Tensors are copies: they are
        written while the next turn runs."""

    def restore(self, number: int, snapshot: Snapshot) -> None:
        """Go back to the state after turn ``number``."""


class NodeHalf(Protocol):
    """The node half: answers to the workflow's legs."""

    def leg(self, name: str, content: RecordDict) -> RecordDict:
        """Answer one leg. Raises what is wrong; the ClientApp turns it into one line."""


def pack_leg(
    node: Node,
    name: str,
    content: Mapping[str, Any],
    fingerprint: str,
    root: str,
    ttl: float,
    trains: bool = True,
) -> Message:
    """A message for a workflow's leg.

    Args:
        node: to whom.
        name: of the leg, as :meth:`NodeHalf.leg` gets it.
        content: records by name.
        fingerprint: of the server's code; nodes that run other code refuse.
        root: where that code is, for the refusal's text.
        ttl: seconds for which message and reply are good.
        trains: Flower's category, train or query.
    """
    records = RecordDict(dict(content))
    records[LEG] = ConfigRecord({"name": name, "fingerprint": fingerprint, "root": root})
    return Message(records, node.node_id, f"{'train' if trains else 'query'}.{LEG}", ttl=ttl)
