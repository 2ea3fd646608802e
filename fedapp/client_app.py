"""The ClientApp: one greeting and one train leg. Thin, and cheap to import: torch comes with the
first round.

A handler never raises into Flower: what went wrong goes back as one line with the place it
happened, which reads the same in simulation, in process and deployed.
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
        from fedapp.client_round import reason_of

        failure = ConfigRecord({"reason": reason_of(error, context, is_simulation(context))})
        return Message(RecordDict({"failure": failure}), reply_to=message)


OWN = ("data-path", "clients", "roster", "backbone")  # what only a real node has
NODE_KEYS = ("partition-id", "num-partitions", "state-dir", *OWN)


def is_simulation(context: Context) -> bool:
    """Flower's convention: a simulated node is told how many partitions there are. So are nodes of
    its tutorials: one that has anything of its own is real, and sends no picture."""
    return "num-partitions" in context.node_config and not any(
        key in context.node_config for key in OWN
    )


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which clients this node hosts, provided it runs the server's code."""
    return answer(message, context, _hello)


def _hello(message: Message, context: Context) -> RecordDict:
    greeting = message.content.config_records["hello"]
    refuse_foreign(str(greeting["fingerprint"]), str(greeting["root"]), context.run_config)
    for key in context.node_config:
        if (
            key not in NODE_KEYS
        ):  # a misspelt data-path would have the node train on the bundled pictures instead
            raise InputError(
                f"node-config {key}",
                context.node_config[key],
                "no such key",
                nearest(key, NODE_KEYS),
            )
    partition, partitions = _whole(context, "partition-id", 0), _whole(context, "num-partitions", 1)
    hosts = "any" if is_simulation(context) else str(context.node_config.get("clients", partition))
    if hosts != "any" and not all(part.strip().isdigit() for part in hosts.split(",")):
        raise InputError(
            "node-config clients", hosts, "must be client numbers", "for example clients='0,3'"
        )
    if (
        context.run_config.get("data.hosted")
        and hosts != "any"
        and "data-path" not in context.node_config
    ):
        raise InputError(
            "node-config data-path",
            "",
            "clients' data lie on their devices",
            "say where: data-path='…'",
        )
    return RecordDict(
        {"hello": ConfigRecord({"partition": partition, "partitions": partitions, "hosts": hosts})}
    )


def _whole(context: Context, key: str, default: int) -> int:
    value = str(context.node_config.get(key, default))
    if not value.isdigit():
        raise InputError(
            f"node-config {key}", value, "must be a whole number", f"for example {key}={default}"
        )
    return int(value)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the clients named in the order and answer with their sum."""
    return answer(message, context, _train)


def _train(message: Message, context: Context) -> RecordDict:
    order = message.content.config_records["order"]
    refuse_foreign(str(order["fingerprint"]), str(order["root"]), context.run_config)
    from fedapp.client_round import train_round

    return train_round(message.content, context, is_simulation(context))


# ---------------------------------------------------------------- legs of a secure sum (privacy/flower)
def _secure(leg: str, message: Message, context: Context) -> Message:
    def handle(message: Message, context: Context) -> RecordDict:
        if leg == "masked":
            order = message.content.config_records["order"]
            refuse_foreign(str(order["fingerprint"]), str(order["root"]), context.run_config)
        from fedapp.client_round import secure_leg

        return secure_leg(leg, message.content, context, is_simulation(context))

    return answer(message, context, handle)


for _leg, _category in (
    ("advertise", app.query),  # one-time public keys for many rounds
    ("share", app.query),  # accept the terms, hand out sealed shares
    ("masked", app.train),  # train, answer with the masked sum
    ("confirm", app.query),  # sign who is in the sum
    ("unmask", app.query),  # one share of each peer, of the kind the survivors call for
):
    _category(_leg)(partial(_secure, _leg))
