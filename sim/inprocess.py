"""The real ServerApp and ClientApp over a grid in memory: no Ray, no sockets, seconds to start.

Messages are real Flower messages, one context per node lives as long as the run, a client that
raises gives the same kind of error reply as Flower's simulation. Two private corners of flwr are
touched (``TaskIdentity``, which a ``Message`` reads its sender from, and the id a grid writes into
a message); ``tests/sim/test_flower_contract.py`` says when they move.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from sim.simulated import simulating

CLIENT_APP_RAISED = 2  # flwr's ErrorCode.CLIENT_APP_RAISED_EXCEPTION
SERVER_NODE = 1


class InProcessGrid(Grid):
    """Runs the ClientApp in the caller's thread when its reply is pulled, one message at a time.

    Args:
        client_app: the nodes'.
        nodes: how many.
        run_config: flat config, as Flower would hand it to them.
        node_config: of every node, beside what Flower's simulation tells it.
        simulated: nodes that own nothing may take themselves for simulated ones.
    """

    serial = True

    def __init__(
        self,
        client_app: ClientApp,
        nodes: int,
        run_config: Mapping[str, Any],
        node_config: Mapping[str, Any] | None = None,
        simulated: bool = True,
    ) -> None:
        self.client_app = client_app
        self.simulated = simulated
        self._run = Run.create_empty(random.getrandbits(62))
        self._queue: dict[str, Message] = {}
        self._sent = 0
        self.contexts = {
            1000 + index: Context(
                run_id=self._run.run_id,
                node_id=1000 + index,
                node_config={"partition-id": index, "num-partitions": nodes, **(node_config or {})},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in range(nodes)
        }

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, *_: Any, **__: Any) -> Message:
        """Flower deprecated this; messages are made by their constructor."""
        raise TypeError("use flwr.app.Message(...)")

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def get_nodes(self) -> Iterable[Any]:
        """Node information (public keys, names) exists only where real SuperNodes registered."""
        return []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            self._sent += 1
            identifier = f"message-{self._sent}"
            message.metadata.__dict__["_message_id"] = identifier
            self._queue[identifier] = message
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The reply to the oldest of the messages asked for."""
        for identifier in message_ids:
            message = self._queue.pop(identifier, None)
            if message is not None:
                return self.deliver(message)
        return []

    def deliver(self, message: Message) -> list[Message]:
        """Run the ClientApp on one message; what it raises becomes an error reply."""
        context = self.contexts[message.metadata.dst_node_id]
        try:
            with simulating(self.simulated):
                return [self.client_app(message, context)]
        except Exception:
            return [Message(Error(CLIENT_APP_RAISED, traceback.format_exc()), reply_to=message)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return [
            reply
            for identifier in self.push_messages(messages)
            for reply in self.pull_messages([identifier])
        ]


@contextmanager
def server_identity(run_id: int) -> Iterator[None]:
    """Messages made inside come from the server of run ``run_id``."""
    kept = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, SERVER_NODE
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = kept


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    run_config: Mapping[str, Any],
    nodes: int,
    grid: InProcessGrid | None = None,
) -> None:
    """Run a whole Flower app here and now; what the ServerApp raises is raised to the caller.

    Args:
        server_app, client_app: the app's two halves.
        run_config: flat config, as Flower would hand it to them.
        nodes: how many SuperNodes to pretend.
        grid: what carries messages; a new :class:`InProcessGrid` by default.
    """
    grid = grid or InProcessGrid(client_app, nodes, run_config)
    context = Context(
        run_id=grid.run.run_id,
        node_id=SERVER_NODE,
        node_config={},
        state=RecordDict(),
        run_config=dict(run_config),
    )
    with server_identity(grid.run.run_id):
        server_app(grid, context)
