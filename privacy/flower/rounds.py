"""Rounds whose sum is made by secure aggregation: the server's legs.

One advertise leg fills a stock of one-time keys for many rounds, so a round costs four legs: share,
masked (which carries the model and trains), confirm, unmask. Whoever does not answer a leg is out;
the round goes on while enough remain and reveals nothing otherwise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from privacy.flower.wire import (
    ADVERTISE,
    CONFIRM,
    MASKED,
    RECORD,
    SHARE,
    UNMASK,
    as_bytes,
    model_digest,
    pack_table,
    pack_terms,
    pack_work,
    read_reply,
    unpack_integers,
    unpack_list,
    unpack_table,
)
from privacy.secagg.graph import COMPLETE_UP_TO, default_threshold, dropouts, harary
from privacy.secagg.identity import Policy
from privacy.secagg.messages import AbortedError, Prekey, Terms
from privacy.secagg.server import SecAggServer
from privacy.settings import PrivacySettings
from strategies.flower.legs import exchange, lifetime
from strategies.flower.records import content_of
from strategies.flower.roster import Node
from strategies.flower.rounds import FederatedRounds, RoundReport
from strategies.flower.totals import Sum
from strategies.flower.wire import Order, pack_broadcast, pack_order, unpack_sum
from strategies.release import Release
from strategies.types import Payload, Public
from tasks.errors import ReplyError, StoppedError

STOCK = 64  # prekeys asked for at once
MOST_SPOILT = 4  # sums in a row that may be prevented before the run ends


class LeftOut(NamedTuple):
    """A member that seems to have prevented sums: ``times`` of them, and until which sum it is left
    out for it."""

    times: int
    until: int
    reason: str


@dataclass
class Sessions:
    """Shared by the arms of a run: the count of secure sums, which only grows, and the nodes'
    unused keys."""

    # In milliseconds: a restarted server is always later
    epoch: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    number: int = 0
    stock: dict[int, list[Prekey]] = field(default_factory=dict)
    left_out: dict[int, LeftOut] = field(default_factory=dict)
    spoilt: int = 0  # sums in a row that somebody prevented

    def next(self) -> int:
        """The number of a new sum."""
        self.number += 1
        return self.number

    def leave_out(self, member: int, reason: str) -> None:
        """Leave a member out of the next sums: of one, and of twice as many each time again. It may
        be honest and framed, so it always comes back."""
        times = self.left_out[member].times + 1 if member in self.left_out else 1
        self.left_out[member] = LeftOut(times, self.number + 2 ** (times - 1), reason)

    def forgive(self) -> None:
        """Bring everybody back: without those who are left out too few remain."""
        self.left_out = {m: out._replace(until=self.number) for m, out in self.left_out.items()}

    def absent(self, member: int) -> str:
        """The reason to leave a member out of the next sum; empty if there is none."""
        out = self.left_out.get(member)
        return out.reason if out and self.number < out.until else ""


class SecureRounds(FederatedRounds):
    """:class:`FederatedRounds` whose sums are masked.

    ``identities`` are the nodes' public keys by partition, ``sessions`` shared by all arms of a
    run.
    """

    def __init__(
        self,
        *arguments: Any,
        identities: Mapping[int, bytes],
        privacy: PrivacySettings,
        sessions: Sessions,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self.identities = identities
        self.privacy = privacy
        self.sessions = sessions

    def _too_small(self, orders: Sequence[tuple[Node, Order]]) -> bool:
        there = [pair for pair in orders if not self.sessions.absent(pair[0].partition)]
        if super()._too_small(there) or len(there) < Policy().min_nodes:
            # Waiting would help nobody: absence is counted in sums, and there would be none
            self.sessions.forgive()
            there = list(orders)
        return super()._too_small(there) or len(there) < Policy().min_nodes

    def _collect(
        self, grid: Grid, orders: Sequence[tuple[Node, Order]], report: RoundReport
    ) -> list[Sum]:
        nodes = {node.partition: node for node, _ in orders}
        own = {node.partition: order for node, order in orders}
        try:
            total = self._secure_sum(grid, self._without_suspects(nodes, own, report), own, report)
            self.sessions.spoilt = 0
            return [total]
        except AbortedError as error:
            self.sessions.spoilt += 1
            if not error.spoilt or self.sessions.spoilt >= MOST_SPOILT:
                raise self._stopped(error, report) from error
            # No sum was released, so the next round may be tried without those who seem to have
            # prevented it. (Whoever holds this sum all the same, a server that works with members,
            # learns a difference from the next: exact sums do not hide that, noise bounds it.)
            for member, reason in error.suspects.items():
                self.sessions.leave_out(member, reason)
            report.remarks |= error.suspects
            report.skipped = str(error)
            report.clients.clear()
            return []
        except ValueError as error:
            raise self._stopped(error, report) from error

    def _stopped(self, error: Exception, report: RoundReport) -> StoppedError:
        reasons = "\n".join(
            f"  client {client}: {why}" for client, why in sorted(report.failures.items())
        )
        return StoppedError(
            f"round {report.round} of {self.method}: no sum was unmasked: {error}\n{reasons}"
        )

    def _secure_sum(
        self, grid: Grid, nodes: dict[int, Node], orders: dict[int, Order], report: RoundReport
    ) -> Sum:
        self._restock(grid, nodes, orders, report)
        ready = [member for member in sorted(nodes) if self.sessions.stock.get(member)]
        if not ready:
            raise AbortedError("no node has keys to take part with")
        broadcast = pack_broadcast(self.federation.broadcast(report.round))
        # The public numbers depend on who is there, and stand in the orders and in the terms alike
        public = self._public(ready, orders)
        orders = {
            member: replace(order, assignment=replace(order.assignment, public=public))
            for member, order in orders.items()
            if member in ready
        }
        witness = self.charge.witness() if self.charge else None
        terms = self._terms(public, pack_work(orders, witness), broadcast, ready)
        server = SecAggServer(terms, self.identities)
        leg = _Leg(self, grid, nodes, orders, report)

        opening = RecordDict({RECORD: pack_terms(terms)})
        if witness:
            opening["ledger"] = ConfigRecord(witness)  # type: ignore[arg-type]
        leg.ask(
            SHARE,
            dict.fromkeys(ready, opening),
            lambda member, reply: server.shared(member, unpack_table(read_reply(reply), "boxes")),
        )

        # Keys of a node that did not share may be gone with a restart: ask it for new ones
        for member in set(ready) - set(server.sharers):
            self.sessions.stock.pop(member, None)
        content: dict[int, RecordDict] = {}
        for member in server.close_sharing():
            content[member] = pack_order(orders[member], broadcast, self.fingerprint, self.root)
            content[member][RECORD] = pack_table(terms.session, server.inbox(member), "boxes")
            report.bytes_down += broadcast.count_bytes()
        leg.ask(
            MASKED,
            content,
            lambda member, reply: self._upload(server, member, reply, orders[member], report),
        )

        survivors = server.close_uploads()
        said = ConfigRecord({"session": terms.session, "survivors": survivors})
        leg.ask(
            CONFIRM,
            dict.fromkeys(survivors, RecordDict({RECORD: said})),
            lambda member, reply: server.confirmed(member, _signature(reply)),
        )

        content = {}
        for member in server.close_confirmation():
            shown = pack_table(terms.session, server.signatures(member), "signatures")
            content[member] = RecordDict({RECORD: shown})
        leg.ask(
            UNMASK,
            content,
            lambda member, reply: server.reveal(member, unpack_table(read_reply(reply), "shares")),
        )

        total = server.finish()
        counted: list[int] = []
        report.remarks |= server.remarks
        for member in survivors:  # in the sum, whatever became of the node afterwards
            clients = orders[member].assignment.clients
            counted += clients
            report.clients.extend(clients)
            for client in clients:
                report.failures.pop(client, None)
        payload = Payload(torch.from_numpy(total.view("int32")), 0.0, {}, len(counted))
        return Sum(payload, public, tuple(counted))

    def _upload(
        self,
        server: SecAggServer,
        member: int,
        content: RecordDict,
        order: Order,
        report: RoundReport,
    ) -> None:
        answer = unpack_sum(content, order, self.release.length)
        server.accuse(member, unpack_integers(read_reply(content), "accused"))
        assert answer.result.payload is not None, "unpack_sum always gives one"
        server.upload(member, answer.result.payload.vector.numpy().view("uint32"))
        report.bytes_up += answer.bytes_up

    def _without_suspects(
        self, nodes: dict[int, Node], orders: dict[int, Order], report: RoundReport
    ) -> dict[int, Node]:
        """The nodes, less those that are left out of this sum."""
        absent = {member: self.sessions.absent(member) for member in nodes}
        for member, reason in absent.items():
            if reason:
                clients = orders[member].assignment.clients
                report.failures |= dict.fromkeys(clients, f"node {member} is left out: {reason}")
        return {member: node for member, node in nodes.items() if not absent[member]}

    def _restock(
        self, grid: Grid, nodes: dict[int, Node], orders: dict[int, Order], report: RoundReport
    ) -> None:
        empty = [member for member in nodes if not self.sessions.stock.get(member)]
        asked = RecordDict({RECORD: ConfigRecord({"count": STOCK})})
        leg = _Leg(self, grid, nodes, orders, report)
        leg.ask(ADVERTISE, dict.fromkeys(empty, asked), self._stock_up)

    def _stock_up(self, member: int, content: RecordDict) -> None:
        given = unpack_list(read_reply(content), "prekeys")
        keys = [Prekey.from_bytes(member, data) for data in given]
        if member not in self.identities:
            raise ReplyError(f"node {member} is not in the roster")
        if not all(key.is_authentic(self.identities[member]) for key in keys):
            raise ReplyError(f"a prekey of node {member} is not signed by it")
        for key in keys:
            if key.fault:
                raise ReplyError(key.fault)
        self.sessions.stock[member] = keys[::-1]

    def _public(self, ready: list[int], orders: dict[int, Order]) -> Public:
        """The round's public numbers, for the nodes that are really there."""
        clients = sum(len(orders[member].assignment.clients) for member in ready)
        least = graph_of(len(ready), self.privacy, self.release).least
        return self.release.open(max(clients, 1), self.expected or clients, len(ready), least)

    def _terms(
        self, public: Public, work: str, broadcast: ArrayRecord, members: list[int]
    ) -> Terms:
        graph = graph_of(len(members), self.privacy, self.release)
        text = json.dumps(public, sort_keys=True)
        return Terms(
            epoch=self.sessions.epoch,
            number=self.sessions.next(),
            prekeys=tuple(self.sessions.stock[member].pop() for member in members),
            threshold=graph.threshold,
            degree=graph.degree,
            least=graph.least,
            length=self.release.length,
            public=text,
            work=work,
            model=model_digest(broadcast, text),
        )


class _Leg:
    """Exchange of one kind of message with many nodes: takes their answers in, and names the
    clients of those who do not answer or answer wrongly."""

    def __init__(
        self,
        rounds: SecureRounds,
        grid: Grid,
        nodes: dict[int, Node],
        orders: dict[int, Order],
        report: RoundReport,
    ) -> None:
        self.rounds = rounds
        self.grid = grid
        self.nodes = nodes
        self.orders = orders
        self.report = report

    def ask(
        self, kind: str, content: Mapping[int, RecordDict], take: Callable[[int, RecordDict], None]
    ) -> None:
        """Send each member its content; ``take(member, reply)`` as replies come. An error concerns
        its node only."""
        settings = self.rounds.settings
        members = list(content)
        at = ConfigRecord(
            {
                "state-dir": settings.state_dir,
                "fingerprint": self.rounds.fingerprint,
                "root": self.rounds.root,
            }
        )
        group = str(self.report.round)
        ttl = lifetime(settings.timeout, len(members), settings.in_flight)
        messages = []
        for member in members:
            whole = RecordDict({**content[member], "at": at})
            node = self.nodes[member].node_id
            messages.append(Message(whole, node, kind, ttl=ttl, group_id=group))
        for slot, reply in exchange(self.grid, messages, settings.timeout, settings.in_flight):
            member = members[slot]
            try:
                take(member, content_of(reply, settings.timeout))
            except (ReplyError, ValueError, KeyError, TypeError, ArithmeticError) as error:
                expected = isinstance(error, ReplyError)
                reason = str(error) if expected else f"{type(error).__name__}: {error}"
                clients = self.orders[member].assignment.clients
                self.report.failures |= dict.fromkeys(clients, reason)


def _signature(content: RecordDict) -> bytes:
    return as_bytes(read_reply(content)["signature"])


class Graph(NamedTuple):
    """``degree`` neighbours each, ``threshold`` share holders and ``least`` vectors that must
    remain."""

    degree: int
    threshold: int
    least: int


def graph_of(nodes: int, privacy: PrivacySettings, release: Release) -> Graph:
    """The graph for so many nodes, as configured. Distributed noise is counted over one connected
    sum: complete.

    At least as many vectors remain as nodes insist on, whatever the threshold: they would refuse to
    unmask fewer.
    """
    threshold = privacy.threshold or default_threshold(nodes)
    # an exact sum is of the whole group
    least = max(nodes if release.exact() else threshold, Policy().min_nodes)
    everybody = (
        privacy.graph == "complete" or nodes <= COMPLETE_UP_TO or release.placement == "distributed"
    )
    if privacy.graph != "harary" and everybody:
        return Graph(max(nodes - 1, 1), threshold, least)
    degree, threshold = harary(nodes, max(privacy.colluding, 1), dropouts(nodes))
    return Graph(degree, threshold, least)
