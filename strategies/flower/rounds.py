"""Rounds of sums as a Flower ``Strategy``: any rule, any learner, any release.

Flower's own loop collects all replies of a round and has no resume, no early stop and no per-client failure. This
one adds replies as they come, names who is missing and why, and can be entered at any round. It stays a normal
``Strategy``: ``start`` runs it alone, ``run_round`` lets a ServerApp interleave several.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from strategies.cohort import Assignment
from strategies.federation import Federation, Fold, participants
from strategies.flower.legs import exchange
from strategies.flower.roster import Node, spread
from strategies.flower.wire import Order, from_array, pack_broadcast, pack_order, unpack_answer
from strategies.types import Release
from tasks.errors import ReplyError, StoppedError

TRAIN = "train"


@dataclass(frozen=True)
class RoundSettings:
    """Who takes part and how long to wait. ``timeout`` in seconds per leg."""

    per_round: int
    min_clients: int
    timeout: float
    in_flight: int
    state_dir: str = ""
    inspect: bool = True


@dataclass
class RoundReport:
    """What happened in a round: who was counted, who failed and why, metrics by client, and its cost."""

    round: int
    clients: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    pictures: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


class FederatedRounds(Strategy):
    """One method at one seed: its :class:`Federation`, and how a round of it is carried by messages."""

    def __init__(
        self,
        federation: Federation,
        release: Release,
        nodes: Sequence[Node],
        settings: RoundSettings,
        *,
        method: str,
        seed: int,
        session: str,
        fingerprint: str,
        root: str,
    ) -> None:
        self.federation, self.release, self.nodes, self.settings = federation, release, nodes, settings
        self.method, self.seed, self.session = method, seed, session
        self.fingerprint, self.root = fingerprint, root
        self.vector_size = federation.rule.size(federation.model.numel())
        self._open: tuple[RoundReport, dict[int, Order]] | None = None

    # ------------------------------------------------------------------ one round
    def run_round(self, grid: Grid, number: int, pictures: bool = False) -> RoundReport:
        """Train round ``number`` and move the model; raises :class:`StoppedError` below ``min_clients``."""
        started = time.monotonic()
        report = RoundReport(number)
        orders, messages = self._orders(number, pictures, report)
        fold = Fold()
        for slot, reply in exchange(grid, messages, self.settings.timeout, self.settings.in_flight):
            self._take(slot, reply, orders[slot], fold, report)
        self._close(fold, report)
        report.seconds = time.monotonic() - started
        return report

    def _close(self, fold: Fold, report: RoundReport) -> None:
        if len(report.clients) < self.settings.min_clients or fold.total is None:
            raise StoppedError(self._too_few(report))
        report.clients.sort()
        self.federation.apply(self.release.decode(fold.total), report.clients, report.round)

    def _orders(self, number: int, pictures: bool, report: RoundReport) -> tuple[list[Order], list[Message]]:
        federation, settings = self.federation, self.settings
        chosen = participants(self.seed, number, federation.population, settings.per_round)
        shares = spread(chosen, self.nodes)
        hosted = {client for _, clients in shares for client in clients}
        report.failures |= {client: "no node hosts this client" for client in chosen if client not in hosted}
        broadcast = pack_broadcast(federation.broadcast(number))
        orders, messages = [], []
        for node, clients in shares:
            versions = tuple(federation.accepted.get(client, 0) for client in clients)
            assignment = Assignment(number, self.seed, tuple(clients), versions)
            order = Order(self.session, self.method, assignment, settings.inspect, pictures, settings.state_dir)
            content = pack_order(order, broadcast, self.fingerprint, self.root)
            orders.append(order)
            messages.append(Message(content, node.node_id, TRAIN, ttl=settings.timeout, group_id=str(number)))
            report.bytes_down += broadcast.count_bytes()
        return orders, messages

    def _take(self, slot: int, reply: Message | None, order: Order, fold: Fold, report: RoundReport) -> None:
        """Add one reply to the sum, or note why it cannot be."""
        try:
            if reply is None:
                raise ReplyError(f"no answer within {self.settings.timeout:g} s")
            if reply.has_error():
                raise ReplyError(_last_line(reply.error.reason) or f"Flower error code {reply.error.code}")
            answer = unpack_answer(reply.content, order, self.vector_size)
        except ReplyError as error:
            report.failures |= dict.fromkeys(order.assignment.clients, str(error))
            fold.put(slot, None)
            return
        result = answer.result
        fold.put(slot, result.payload)
        report.clients.extend(result.clients)
        report.failures |= result.failures
        report.pictures |= result.pictures
        report.bytes_up += answer.bytes_up
        for name, values in result.metrics.items():
            report.metrics.setdefault(name, {}).update(zip(result.clients, values, strict=True))
        silent = set(order.assignment.clients) - set(result.clients) - set(result.failures)
        report.failures |= dict.fromkeys(silent, "the node did not say what became of this client")

    def _too_few(self, report: RoundReport) -> str:
        reasons = "\n".join(f"  client {client}: {reason}" for client, reason in sorted(report.failures.items()))
        return (
            f"round {report.round} of {self.method}: {len(report.clients)} clients answered, "
            f"clients.min is {self.settings.min_clients}\n{reasons}"
        )

    # ------------------------------------------------------------------ Flower's interface
    def start(self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, *_: Any, **__: Any) -> Result:
        """Run rounds from the federation's own to ``num_rounds``, as ``Strategy.start`` does.

        ``initial_arrays`` replaces the model if it holds one under ``"model"``.
        """
        if "model" in initial_arrays:
            self.federation.model = from_array(initial_arrays["model"]).clone()
        result = Result()
        for number in range(self.federation.round + 1, num_rounds + 1):
            report = self.run_round(grid, number)
            result.train_metrics_clientapp[number] = _means(report)
        result.arrays = pack_broadcast(self.federation.broadcast(self.federation.round))
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of a round, for callers who bring their own loop."""
        report = RoundReport(server_round)
        orders, messages = self._orders(server_round, False, report)
        addressees = [message.metadata.dst_node_id for message in messages]
        self._open = (report, dict(zip(addressees, orders, strict=True)))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the round that :meth:`configure_train` opened; a node without a reply is a failure."""
        if self._open is None or self._open[0].round != server_round:
            raise ValueError(f"round {server_round} was not opened by configure_train")
        (report, orders), self._open = self._open, None
        answers = {reply.metadata.src_node_id: reply for reply in replies}
        fold = Fold()
        for slot, (node_id, order) in enumerate(orders.items()):
            self._take(slot, answers.get(node_id), order, fold, report)
        self._close(fold, report)
        return pack_broadcast(self.federation.broadcast(server_round)), _means(report)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No evaluation leg: clients judge their upload within the train leg, the server the shared model."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Nothing to log beyond what each round reports."""


def _means(report: RoundReport) -> MetricRecord:
    means = {name: sum(values.values()) / len(values) for name, values in report.metrics.items() if values}
    return MetricRecord(means)  # type: ignore[arg-type]


def _last_line(reason: str | None) -> str:
    """The line of a remote traceback that names the exception, after the place it happened."""
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    places = [line for line in lines if line.startswith("File ")]
    return f"{lines[-1]} ({places[-1]})" if places and lines else (lines[-1] if lines else "")
