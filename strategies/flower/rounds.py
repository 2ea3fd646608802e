"""Rounds of sums as a Flower ``Strategy``: any rule, any learner, any release.

Flower's own loop collects all replies of a round and has no resume, no early stop and no per-client
failure. This one adds replies as they come, names who is missing and why, and can be entered at any
round. It stays a normal ``Strategy``: ``start`` runs it alone, ``run_round`` lets a ServerApp
interleave several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from strategies.cohort import Assignment
from strategies.federation import Federation, Fold, participants
from strategies.flower.legs import exchange, lifetime
from strategies.flower.records import content_of
from strategies.flower.roster import Node, spread
from strategies.flower.totals import Heard, Sum, together
from strategies.flower.wire import (
    Answer,
    Order,
    from_array,
    pack_broadcast,
    pack_order,
    to_array,
    unpack_answer,
    unpack_sum,
)
from strategies.release import ROUND_METRICS, Charge, Release
from strategies.types import Aggregate, Public
from tasks.errors import EmptySumError, ReplyError, StoppedError

TRAIN = "train"


@dataclass(frozen=True)
class RoundSettings:
    """Participants of a round, patience with them, and what goes into every order.

    Attributes:
        per_round: clients drawn for a round; 0: all.
        min_clients: fewer usable answers stop the run.
        timeout: seconds to wait for the answer to a message.
        in_flight: messages that are out at a time.
        metrics: names of what nodes may report of a client.
        state_dir: where simulated nodes keep what their clients remember.
        inspect: whether the uploads of a round are looked at.
        run: id of the run whose memories are meant.
        pins: JSON, config values the server found out and nodes must agree with.
        config: hash of the configuration that nodes must have, too.
    """

    per_round: int
    min_clients: int
    timeout: float
    in_flight: int
    metrics: frozenset[str] = frozenset()
    state_dir: str = ""
    inspect: Callable[[int], bool] = lambda number: True
    run: str = ""
    pins: str = "{}"
    config: str = ""


@dataclass
class RoundReport:
    """The outcome of a round: who was counted, who failed and why, metrics by client, its cost."""

    round: int
    clients: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    means: dict[str, float] = field(
        default_factory=dict
    )  # of metrics that came inside a private sum
    pictures: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    skipped: str = ""
    groups_skipped: dict[int, str] = field(default_factory=dict)  # of a sum without noise, and why
    remarks: dict[int, str] = field(default_factory=dict)  # nodes, by number, and how
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


class FederatedRounds(Strategy):
    """One method at one seed: its :class:`Federation`, and how a round of it is carried by
    messages.

    ``sample`` names the participants of a round (default: the seeded draw of :func:`participants`)
    and ``expected`` how many there are on average; ``charge`` writes private rounds down before
    they happen.
    """

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
        sample: Callable[[int], list[int]] | None = None,
        expected: float = 0.0,
        charge: Charge | None = None,
    ) -> None:
        self.federation = federation
        self.release = release
        self.nodes = nodes
        self.settings = settings
        self.method = method
        self.seed = seed
        self.session = session
        self.fingerprint = fingerprint
        self.root = root
        self.vector_size = federation.rule.size(federation.model.numel())
        self.sample = sample or self._draw
        self.expected = expected
        self.charge = charge
        self.heard: Heard | None = None
        self._open: tuple[RoundReport, list[tuple[Message, Order]]] | None = None

    def _draw(self, number: int) -> list[int]:
        return participants(self.seed, number, self.federation.population, self.settings.per_round)

    # ------------------------------------------------------------------ one round
    def run_round(self, grid: Grid, number: int, pictures: bool = False) -> RoundReport:
        """Train round ``number`` and move the model; raises :class:`StoppedError` below
        ``min_clients``.

        A private round is charged before its clients are drawn, and stays charged however it ends.
        If the draw itself gives too few (Poisson sampling does, now and then), the round is
        skipped: the model stays.
        """
        started = time.monotonic()
        report = RoundReport(number)
        if self.charge:
            self.charge.reserve(number)
        orders = self._orders(number, pictures, report)
        clients = [client for _, order in orders for client in order.assignment.clients]
        if self.charge:
            self.charge.sampled(clients)
        if self.charge and self._too_small(orders):
            report.skipped = f"{len(clients)} clients were drawn, too few for a round"
            self.charge.aborted(report.skipped)
            self.federation.skip(number)
        else:
            try:
                sums = self._collect(grid, orders, report)
                if report.skipped:
                    self.federation.skip(number)
                else:
                    self._close(sums, report)
            except StoppedError as error:
                if self.charge:
                    self.charge.aborted(str(error))
                raise
            if self.charge and not sums:
                self.charge.aborted(report.skipped)
            elif self.charge:
                self.charge.released(report.clients)
        report.seconds = time.monotonic() - started
        return report

    def _too_small(self, orders: Sequence[tuple[Node, Order]]) -> bool:
        return sum(len(order.assignment.clients) for _, order in orders) < self.settings.min_clients

    def _orders(self, number: int, pictures: bool, report: RoundReport) -> list[tuple[Node, Order]]:
        """The train order of each node."""
        federation = self.federation
        settings = self.settings
        chosen = self.sample(number)
        shares = spread(chosen, self.nodes)
        hosted = {client for _, clients in shares for client in clients}
        report.failures |= {
            client: "no node hosts this client" for client in chosen if client not in hosted
        }
        public = self.release.open(
            max(len(hosted), 1), self.expected or len(hosted), len(shares), len(shares)
        )
        orders = []
        for node, clients in shares:
            versions = tuple(federation.accepted.get(client, 0) for client in clients)
            assignment = Assignment(number, self.seed, tuple(clients), versions, public)
            order = Order(
                self.session,
                self.method,
                assignment,
                settings.inspect(number),
                pictures,
                settings.state_dir,
                settings.run,
                settings.pins,
                settings.config,
            )
            orders.append((node, order))
        return orders

    def _messages(self, orders: Sequence[tuple[Node, Order]], report: RoundReport) -> list[Message]:
        broadcast = pack_broadcast(self.federation.broadcast(report.round))
        messages = []
        settings = self.settings
        ttl = lifetime(settings.timeout, len(orders), settings.in_flight)
        for node, order in orders:
            content = pack_order(order, broadcast, self.fingerprint, self.root)
            if self.charge:
                content["ledger"] = ConfigRecord(self.charge.witness())  # type: ignore[arg-type]
            group = str(report.round)
            messages.append(Message(content, node.node_id, TRAIN, ttl=ttl, group_id=group))
            report.bytes_down += broadcast.count_bytes()
        return messages

    def _collect(
        self, grid: Grid, orders: Sequence[tuple[Node, Order]], report: RoundReport
    ) -> list[Sum]:
        """One leg: train, and add up the answers as they come. Returns the round's sums (one) with
        the numbers they were made with; none if the round is skipped."""
        fold = Fold()
        messages = self._messages(orders, report)
        for slot, reply in exchange(grid, messages, self.settings.timeout, self.settings.in_flight):
            self._take(slot, reply, orders[slot][1], fold, report)
        if fold.total is None:
            return []
        return [Sum(fold.total, orders[0][1].assignment.public if orders else {})]

    def _close(self, sums: Sequence[Sum], report: RoundReport) -> None:
        if len(report.clients) < self.settings.min_clients or not sums:
            raise StoppedError(self._too_few(report))
        report.clients.sort()
        public = sums[0].public
        try:
            parts = [self.release.decode(each.total, each.public) for each in sums]
            aggregate = together(parts)
        except EmptySumError as error:
            report.skipped = str(error)
            self.federation.skip(report.round)
            return
        if self.heard is not None:
            held = [(one.clients, self.release.held(one.total, one.public)) for one in sums]
            self.heard(report.round, self.federation.model, held)
        if self.release.private:
            self._keep_public(aggregate, public, report)
        self.federation.apply(aggregate, report.clients, report.round)

    def _keep_public(self, aggregate: Aggregate, public: Public, report: RoundReport) -> None:
        """Keep what may be logged of a private sum: its norm, the clip it was made with, metrics
        that came inside it."""
        told = (float(aggregate.mean.norm()), float(public.get("clip", 0.0)))
        report.means |= dict(zip(ROUND_METRICS, told, strict=True))
        for name in self.release.metric_ranges:
            report.means[name] = aggregate.scalars[f"metric.{name}"] / aggregate.count

    def _take(
        self, slot: int, reply: Message | None, order: Order, fold: Fold, report: RoundReport
    ) -> None:
        """Add one reply to the sum, or note why it cannot be."""
        try:
            answer = self._read(content_of(reply, self.settings.timeout), order)
        except ReplyError as error:
            report.failures |= dict.fromkeys(order.assignment.clients, str(error))
            fold.put(slot, None)
            return
        result = answer.result
        fold.put(slot, result.payload)
        report.clients.extend(result.clients)
        report.failures |= result.failures
        report.pictures |= result.pictures
        report.fallbacks += result.fallbacks
        report.unseen += result.unseen
        report.bytes_up += answer.bytes_up
        for name, values in result.metrics.items():
            report.metrics.setdefault(name, {}).update(zip(result.clients, values, strict=True))
        silent = set(order.assignment.clients) - set(result.clients) - set(result.failures)
        report.failures |= dict.fromkeys(silent, "the node did not say what became of this client")

    def _read(self, content: RecordDict, order: Order) -> Answer:
        if not self.release.private:
            scalars, metrics = self.federation.rule.scalars, self.settings.metrics
            return unpack_answer(content, order, self.vector_size, scalars, metrics)
        return unpack_sum(content, order, self.release.length)

    def _too_few(self, report: RoundReport) -> str:
        reasons = "\n".join(
            f"  client {client}: {reason}" for client, reason in sorted(report.failures.items())
        )
        return (
            f"round {report.round} of {self.method}: {len(report.clients)} clients answered, "
            f"clients.min is {self.settings.min_clients}\n{reasons}"
        )

    # ------------------------------------------------------------------ Flower's interface
    def start(
        self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, *_: Any, **__: Any
    ) -> Result:
        """Run rounds from the federation's own to ``num_rounds``, as ``Strategy.start`` does.

        ``initial_arrays`` replaces the model if it holds one under ``"model"``.
        """
        self._begin_with(initial_arrays)
        result = Result()
        for number in range(self.federation.round + 1, num_rounds + 1):
            report = self.run_round(grid, number)
            result.train_metrics_clientapp[number] = _means(report)
        result.arrays = self._judged()
        return result

    def _begin_with(self, arrays: ArrayRecord) -> None:
        if "model" in arrays:
            self.federation = replace(self.federation, model=from_array(arrays["model"]).clone())
            self.federation.state = self.federation.rule.init(self.federation.model)

    def _judged(self) -> ArrayRecord:
        """The model to use: not what clients would get next, where a rule tells the two apart."""
        return ArrayRecord({"model": to_array(self.federation.result)})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of a round, for callers who bring their own loop."""
        if self.release.masked or self.charge:
            raise ValueError("a masked or charged round has several legs: use run_round")
        if self.federation.round == 0:
            self._begin_with(arrays)
        report = RoundReport(server_round)
        orders = self._orders(server_round, False, report)
        messages = self._messages(orders, report)
        self._open = (
            report,
            [(message, order) for message, (_, order) in zip(messages, orders, strict=True)],
        )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Close the round that :meth:`configure_train` opened; a node without a reply is a
        failure."""
        if self._open is None or self._open[0].round != server_round:
            raise ValueError(f"round {server_round} was not opened by configure_train")
        (report, orders), self._open = self._open, None
        answers = {
            reply.metadata.reply_to_message_id: reply for reply in replies
        }  # an error may have another sender
        fold = Fold()
        for slot, (message, order) in enumerate(orders):
            self._take(slot, answers.get(message.metadata.message_id), order, fold, report)
        public = orders[0][1].assignment.public
        self._close([Sum(fold.total, public)] if fold.total is not None else [], report)
        return self._judged(), _means(report)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No evaluation leg: clients judge their upload within the train leg, the server the shared
        model."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Nothing to log beyond what each round reports."""


def _means(report: RoundReport) -> MetricRecord:
    means = {
        name: sum(values.values()) / len(values)
        for name, values in report.metrics.items()
        if values
    }
    return MetricRecord(means)  # type: ignore[arg-type]
