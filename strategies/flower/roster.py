"""Roster of nodes: those there are, whose code they run, and which clients each may train."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from strategies.flower.legs import exchange, lifetime
from strategies.flower.records import FAILURE, error_of, plain, record
from tasks.errors import StoppedError

HELLO = "query.hello"
ANY = "any"
Vouch = Callable[["Node", str, bytes], str]  # node, challenge, signature -> why it is left out
MOST_NODES = 1_000_000  # and clients: more are no numbers of either
WINDOW = 64  # greetings at a time


@dataclass(frozen=True)
class Node:
    """A SuperNode: ``hosts`` is the clients whose data it holds, or ``None`` if it can host any
    (simulation)."""

    node_id: int
    partition: int
    hosts: frozenset[int] | None
    told: str = field(default="", compare=False)  # its clients in its own words, which it signed


def gather(
    grid: Grid,
    expected: int,
    patience: float,
    fingerprint: str,
    root: str,
    report: Callable[[str], None],
    vouch: Vouch | None = None,
) -> list[Node]:
    """Wait for ``expected`` nodes, greet them, and return those that run this very code, by
    partition.

    Flower's own sampling waits for ever; here ``patience`` seconds without enough nodes is an
    error. ``vouch`` believes a node's number and clients by its signature under a roster: without
    one, whoever says first that it has somebody's clients keeps that node out.
    """
    identifiers = _wait(grid, expected, patience)
    nodes: list[Node] = []
    reasons: list[str] = []
    while True:
        nodes, reasons, partitions = _greet(grid, identifiers, patience, fingerprint, root, vouch)
        if partitions <= len(identifiers):
            break
        identifiers = _wait(grid, partitions, patience)
    nodes = without_doubles(sorted(nodes, key=lambda node: (node.partition, node.node_id)), reasons)
    for reason in reasons:
        report(f"a node is left out: {reason}")
    if not nodes:
        raise StoppedError("no node can take part:\n  " + "\n  ".join(reasons))
    return nodes


def renewed(
    grid: Grid,
    nodes: list[Node],
    patience: float,
    fingerprint: str,
    root: str,
    report: Callable[[str], None],
    vouch: Vouch | None = None,
) -> list[Node]:
    """The nodes, where a device that restarted has its old place again: Flower knows it by a new
    id.

    Simulated nodes do not restart, so nothing is asked of them.
    """
    if all(node.hosts is None for node in nodes):
        return nodes
    there = set(grid.get_node_ids())
    gone = {node.partition: node for node in nodes if node.node_id not in there}
    unknown = sorted(there - {node.node_id for node in nodes})
    if not gone or not unknown:
        return nodes
    found, reasons, _ = _greet(grid, unknown, patience, fingerprint, root, vouch)
    for reason in reasons:
        report(f"a node is left out: {reason}")
    back = {
        node.partition: node
        for node in without_doubles(found, [])
        if node.partition in gone and node.hosts == gone[node.partition].hosts
    }
    for node in back.values():
        report(f"the node of partition {node.partition} is back, as node {node.node_id}")
    return [back.get(node.partition, node) if node.partition in gone else node for node in nodes]


def _greet(
    grid: Grid,
    identifiers: list[int],
    patience: float,
    fingerprint: str,
    root: str,
    vouch: Vouch | None,
) -> tuple[list[Node], list[str], int]:
    """(those who run this very code, why others are left out, how many nodes they say there
    are)."""
    challenge = secrets.token_hex(16)
    said = {"fingerprint": fingerprint, "root": root, "challenge": challenge}
    greeting = RecordDict({"hello": ConfigRecord(said)})  # type: ignore[arg-type]
    ttl = lifetime(patience, len(identifiers), WINDOW)
    messages = [Message(greeting, node_id, HELLO, ttl=ttl) for node_id in identifiers]
    nodes: list[Node] = []
    reasons: list[str] = []
    partitions = 0
    for index, reply in exchange(grid, messages, patience, WINDOW):
        try:
            found = _node(identifiers[index], reply, reasons)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            reasons.append(
                f"node {identifiers[index]}: a malformed answer to the greeting "
                f"({type(error).__name__}: {error})"
            )
            continue
        if found is not None:
            node, claimed, signature = found
            if vouch is not None and (objection := vouch(node, challenge, signature)):
                reasons.append(f"node {node.node_id}: {objection}")
                continue
            nodes.append(node)
            partitions = max(partitions, claimed)
    return nodes, reasons, partitions


def without_doubles(nodes: list[Node], reasons: list[str]) -> list[Node]:
    """The nodes, but for those whose partition or clients an earlier one has: answers would replace
    each other."""
    kept: list[Node] = []
    for node in nodes:
        same = [other for other in kept if other.partition == node.partition]
        taken = frozenset[int]().union(*(other.hosts or () for other in kept))
        shared = sorted(taken & (node.hosts or frozenset()))
        if same or shared:
            what = f"clients {shared[:5]}" if shared else f"partition {node.partition}"
            reasons.append(f"node {node.node_id} says it has {what}, which another node has")
        else:
            kept.append(node)
    return kept


def _wait(grid: Grid, expected: int, patience: float) -> list[int]:
    deadline = time.monotonic() + patience
    while True:
        identifiers = sorted(grid.get_node_ids())
        if len(identifiers) >= expected:
            return identifiers
        if time.monotonic() > deadline:
            raise StoppedError(
                f"{len(identifiers)} of {expected} nodes are connected after {patience:.0f} s "
                "(runtime.nodes says how many to wait for)"
            )
        time.sleep(0.02)


def _node(
    node_id: int, reply: Message | None, reasons: list[str]
) -> tuple[Node, int, bytes] | None:
    if reply is None:
        reasons.append(f"node {node_id}: no answer to the greeting")
    elif reply.has_error():
        reasons.append(f"node {node_id}: {error_of(reply)}")
    elif FAILURE in reply.content:
        reasons.append(
            f"node {node_id}: {plain(str(record(reply.content, FAILURE, ConfigRecord)['reason']))}"
        )
    else:
        answer = record(reply.content, "hello", ConfigRecord)
        hosts = str(answer["hosts"])
        clients = (
            None
            if hosts == ANY
            else frozenset(int(part) for part in hosts.split(",") if part.strip())
        )
        numbers = [answer["partition"], answer["partitions"], *(clients or ())]
        if not all(type(number) is int and 0 <= number <= MOST_NODES for number in numbers):
            raise ValueError(f"numbers from 0 to {MOST_NODES} were expected, not {numbers[:5]}")
        partition, partitions = (int(number) for number in numbers[:2])
        signature = answer.get("signature", b"")
        if type(signature) is not bytes:
            raise TypeError("a signature that is none")
        return Node(node_id, partition, clients, hosts), partitions, signature
    return None


def spread(clients: Sequence[int], nodes: Sequence[Node]) -> list[tuple[Node, list[int]]]:
    """Give each client to a node: its own host if it has one, else contiguous shares of equal size.

    Depends only on the clients and on the order of the nodes, so a resumed run spreads them the
    same way.
    """
    shares: dict[int, list[int]] = {node.node_id: [] for node in nodes}
    home = {client: node.node_id for node in reversed(nodes) for client in node.hosts or ()}
    for client in clients:
        if client in home:
            shares[home[client]].append(client)
    free = [client for client in clients if client not in home]
    general = [node for node in nodes if node.hosts is None]
    for position, node in enumerate(general):
        low = position * len(free) // len(general)
        high = (position + 1) * len(free) // len(general)
        shares[node.node_id].extend(free[low:high])
    return [(node, shares[node.node_id]) for node in nodes if shares[node.node_id]]
