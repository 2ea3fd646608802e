"""Nodes that come and go: a restarted device has its old place again, a stranger has not."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from sim.inprocess import InProcessGrid, server_identity
from strategies.flower.roster import Node, gather, renewed
from tasks.errors import StoppedError

Claims = dict[int, tuple[int, str]]  # what the device behind a place says: partition, clients


class Devices(InProcessGrid):
    """Nodes 1000, 1001, ... that answer a greeting with what they claim; some may be away."""

    def __init__(self, claims: Claims, partitions: int, away: tuple[int, ...] = ()) -> None:
        self.greeted: list[dict[str, Any]] = []
        self.away = away

        def answer(message: Message, context: Context) -> Message:
            self.greeted.append(dict(message.content.config_records["hello"]))
            partition, hosts = claims[context.node_id - 1000]
            hello = {"partition": partition, "partitions": partitions, "hosts": hosts}
            return Message(RecordDict({"hello": ConfigRecord(hello)}), reply_to=message)

        super().__init__(answer, len(claims), {})  # type: ignore[arg-type]

    def get_node_ids(self) -> list[int]:
        return [node for node in self.contexts if node - 1000 not in self.away]


def known(claims: Claims) -> list[Node]:
    """The nodes behind these claims, before anything happened."""
    return [
        Node(1000 + place, partition, frozenset(map(int, hosts.split(","))))
        for place, (partition, hosts) in claims.items()
    ]


def again(grid: Devices, nodes: list[Node]) -> tuple[list[tuple[int, int]], list[str]]:
    """Who has which place now, and what is reported."""
    said: list[str] = []
    with server_identity(grid.run.run_id):
        found = renewed(grid, nodes, 5.0, "print", "/code", said.append)
    return [(node.node_id, node.partition) for node in found], said


BEFORE: Claims = {0: (0, "1,2"), 1: (1, "3"), 2: (2, "4")}


def test_a_device_that_restarted_has_its_old_place_under_its_new_id() -> None:
    """Device 1 is gone; 3 comes with its partition and its clients, and runs the same code."""
    grid = Devices({**BEFORE, 3: (1, "3")}, 3, away=(1,))
    places, said = again(grid, known(BEFORE))
    assert places == [(1000, 0), (1003, 1), (1002, 2)]
    assert said == ["the node of partition 1 is back, as node 1003"]
    assert all(len(str(greeting.pop("challenge"))) == 32 for greeting in grid.greeted)
    assert grid.greeted == [{"fingerprint": "print", "root": "/code"}], "only the new one is asked"


@pytest.mark.parametrize("claim", [(1, "3,9"), (1, "9"), (0, "3"), (7, "3")])
def test_other_clients_or_another_partition_are_not_the_old_device(
    claim: tuple[int, str],
) -> None:
    """Memories and budgets belong to whom a partition's clients were."""
    grid = Devices({**BEFORE, 3: claim}, 3, away=(1,))
    assert again(grid, known(BEFORE)) == ([(1000, 0), (1001, 1), (1002, 2)], [])


def test_of_two_that_claim_one_place_only_one_gets_it() -> None:
    grid = Devices({**BEFORE, 3: (1, "3"), 4: (1, "3")}, 3, away=(1,))
    places, _ = again(grid, known(BEFORE))
    assert places == [(1000, 0), (1003, 1), (1002, 2)]


def test_a_place_that_is_not_free_is_not_given_away() -> None:
    grid = Devices({**BEFORE, 3: (1, "3")}, 3)
    assert again(grid, known(BEFORE))[0] == [(1000, 0), (1001, 1), (1002, 2)]
    assert not grid.greeted, "nobody is missing: nobody is asked"


def test_all_nodes_a_greeting_speaks_of_are_waited_for() -> None:
    """Two are enough to start with, but they say that there are three."""

    class Late(Devices):
        asked = 0

        def get_node_ids(self) -> list[int]:
            self.asked += 1
            return super().get_node_ids()[: 2 if self.asked < 3 else 3]

    grid = Late(BEFORE, 3)
    with server_identity(grid.run.run_id):
        found = gather(grid, 2, 5.0, "print", "/code", print)
    assert [(node.node_id, node.partition) for node in found] == [(1000, 0), (1001, 1), (1002, 2)]
    assert [node.hosts for node in found] == [{1, 2}, {3}, {4}]


def test_too_few_nodes_end_the_wait_with_their_number() -> None:
    with pytest.raises(StoppedError, match="3 of 4 nodes are connected"):
        gather(Devices(BEFORE, 3), 4, 0.05, "print", "/code", print)
