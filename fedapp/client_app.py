"""The ClientApp: a greeting, the legs of rounds of sums, one leg for every other workflow.

Thin, and cheap to import: torch comes with the first leg that trains. A handler never raises into
Flower: what went wrong goes back as one line with the place it happened, which reads the same in
simulation, in process and deployed. Every handler compares the server's code with its own before it
imports or follows anything that a message or a configuration names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedapp.identity import refuse_foreign
from sim import ray_guard

if TYPE_CHECKING:
    from fedapp.node.device import Device

ray_guard.install()

app = ClientApp()
Handler = Callable[[Message, Context], RecordDict]


def answer(message: Message, context: Context, handler: Handler) -> Message:
    """Reply with what the handler returns, or with the reason it could not."""
    try:
        return Message(handler(message, context), reply_to=message)
    except Exception as error:
        from fedapp.node.device import Device

        failure = ConfigRecord({"reason": Device(context).reason_of(error)})
        return Message(RecordDict({"failure": failure}), reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which clients this node hosts, provided it runs the server's code."""
    return answer(message, context, _hello)


def _hello(message: Message, context: Context) -> RecordDict:
    from fedapp.node.device import Device

    device = Device(context)
    _refuse_foreign(message, device, "hello")
    hello: dict[str, int | str | bytes] = {
        "partition": device.partition,
        "partitions": device.whole("num-partitions", 1),
        "hosts": "any" if device.simulated else device.hosted,
    }
    challenge = str(message.content.config_records["hello"]["challenge"])
    if signature := device.greeting(challenge, str(hello["hosts"])):
        hello["signature"] = signature
    return RecordDict({"hello": ConfigRecord(hello)})  # type: ignore[arg-type]


def _refuse_foreign(message: Message, device: Device, name: str) -> None:
    """Raise unless record ``name`` of a message comes from the code this node runs, plug-ins that
    it may import included."""
    said = message.content.config_records[name]
    refuse_foreign(str(said["fingerprint"]), str(said["root"]), device.config)


# ---------------------------------------------------------------- rounds of sums
CODE = {"train": "order", "masked": "order"}  # the record that names the server's code; else: "at"


def _sums(leg: str, message: Message, context: Context) -> Message:
    def handle(message: Message, context: Context) -> RecordDict:
        from fedapp.node.device import Device
        from fedapp.node.sums import SumsNode

        device = Device(context)
        _refuse_foreign(message, device, CODE.get(leg, "at"))
        return SumsNode(device).leg(leg, message.content)

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
    from fedapp.node.device import Device
    from fedapp.workflows import SUMS, kind_of
    from privacy.secagg.messages import RefusalError

    device = Device(context)
    _refuse_foreign(message, device, "leg")
    experiment = device.pieces.experiment  # parsed and checked by this node itself
    kind = kind_of(experiment.workflow_name)
    if not kind.own_limits:
        device.obey_policy()
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
