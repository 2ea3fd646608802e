"""The ClientApp: a greeting, the legs of rounds of sums, one leg for every other workflow.

Thin, and cheap to import: torch comes with the first leg that trains. A handler never raises into
Flower: what went wrong goes back as one line with the place it happened, which reads the same in
simulation, in process and deployed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedapp.identity import refuse_foreign
from sim import ray_guard
from tasks.errors import InputError, nearest

ray_guard.install()

app = ClientApp()
Handler = Callable[[Message, Context], RecordDict]


def answer(message: Message, context: Context, handler: Handler) -> Message:
    """Reply with what the handler returns, or with the reason it could not."""
    try:
        return Message(handler(message, context), reply_to=message)
    except Exception as error:
        from fedapp.node.device import Device

        reason = Device(context, is_simulation(context)).reason_of(error)
        failure = ConfigRecord({"reason": reason})
        return Message(RecordDict({"failure": failure}), reply_to=message)


OWN = ("data-path", "clients", "roster", "backbone")  # what only a real node has
NODE_KEYS = ("partition-id", "num-partitions", "state-dir", *OWN)


def is_simulation(context: Context) -> bool:
    """Flower's convention: a simulated node is told how many partitions there are. So are nodes of
    its tutorials: one that has anything of its own is real, and sends no picture."""
    own = any(key in context.node_config for key in OWN)
    return "num-partitions" in context.node_config and not own


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which clients this node hosts, provided it runs the server's code."""
    return answer(message, context, _hello)


def _hello(message: Message, context: Context) -> RecordDict:
    greeting = message.content.config_records["hello"]
    refuse_foreign(str(greeting["fingerprint"]), str(greeting["root"]), context.run_config)
    for key in context.node_config:
        if key not in NODE_KEYS:
            # a misspelt data-path would have the node train on the bundled pictures instead
            raise InputError(
                f"node-config {key}",
                context.node_config[key],
                "no such key",
                nearest(key, NODE_KEYS),
            )
    partition = _whole(context, "partition-id", 0)
    partitions = _whole(context, "num-partitions", 1)
    simulated = is_simulation(context)
    hosts = "any" if simulated else str(context.node_config.get("clients", partition))
    if not simulated and not all(part.strip().isdigit() for part in hosts.split(",")):
        raise InputError(
            "node-config clients", hosts, "must be client numbers", "for example clients='0,3'"
        )
    away = context.run_config.get("data.hosted") and "data-path" not in context.node_config
    if away and not simulated:
        raise InputError(
            "node-config data-path",
            "",
            "clients' data lie on their devices",
            "say where: data-path='…'",
        )
    said = ConfigRecord({"partition": partition, "partitions": partitions, "hosts": hosts})
    return RecordDict({"hello": said})


def _whole(context: Context, key: str, default: int) -> int:
    value = str(context.node_config.get(key, default))
    if not value.isdigit():
        raise InputError(
            f"node-config {key}", value, "must be a whole number", f"for example {key}={default}"
        )
    return int(value)


def _refuse_foreign(message: Message, context: Context, name: str) -> None:
    """Raise unless record ``name`` of a message comes from the code this node runs."""
    said = message.content.config_records[name]
    refuse_foreign(str(said["fingerprint"]), str(said["root"]), context.run_config)


# ---------------------------------------------------------------- rounds of sums
TRAINING = ("train", "masked")  # legs whose order names the server's code


def _sums(leg: str, message: Message, context: Context) -> Message:
    def handle(message: Message, context: Context) -> RecordDict:
        if leg in TRAINING:
            _refuse_foreign(message, context, "order")
        from fedapp.node.device import Device
        from fedapp.node.sums import SumsNode

        return SumsNode(Device(context, is_simulation(context))).leg(leg, message.content)

    return answer(message, context, handle)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the clients named in the order and answer with their sum."""
    return _sums("train", message, context)


for _leg, _category in (
    ("advertise", app.query),  # one-time public keys for many rounds
    ("share", app.query),  # accept the terms, hand out sealed shares
    ("masked", app.train),  # train, answer with the masked sum
    ("confirm", app.query),  # sign who is in the sum
    ("unmask", app.query),  # one share of each peer, of the kind the survivors call for
):
    _category(_leg)(partial(_sums, _leg))


# ---------------------------------------------------------------- every other workflow
def _workflow(message: Message, context: Context) -> RecordDict:
    _refuse_foreign(message, context, "leg")
    from fedapp.node.device import Device
    from fedapp.workflows import SUMS, kind_of
    from privacy.secagg.messages import RefusalError

    device = Device(context, is_simulation(context))
    device.obey_policy()
    experiment = device.pieces.experiment  # parsed and checked by this node itself
    kind = kind_of(experiment.workflow_name)
    if kind is SUMS:
        raise RefusalError("rounds of sums have legs of their own")
    half = kind.part("node")(device)
    reply: RecordDict = half.leg(
        str(message.content.config_records["leg"]["name"]), message.content
    )
    return reply


@app.train("leg")
def train_leg(message: Message, context: Context) -> Message:
    """A leg in which a node of a workflow other than sums trains."""
    return answer(message, context, _workflow)


@app.query("leg")
def query_leg(message: Message, context: Context) -> Message:
    """A leg in which it only answers."""
    return answer(message, context, _workflow)
