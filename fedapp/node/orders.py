"""A node's own look at a train order: every field of it is the node's configuration's, or refused.

What a secure sum agrees on is bound in the sum's terms as well (:mod:`privacy.flower.node`). What
neither fixes is the server's choice in a release that promises nothing about it:
``choices`` of :data:`fedapp.workflows.SUMS` lists those fields, and a test finds no other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from privacy.secagg.messages import RefusalError

if TYPE_CHECKING:
    from fedapp.node.device import Device
    from strategies.flower.wire import Order


def refuse_order(device: Device, order: Order) -> None:
    """Raise :class:`RefusalError` for an order that is not one of this node's configuration."""
    experiment = device.experiment
    given = order.assignment
    numbers = [given.round, given.seed, *given.clients, *given.versions]
    if not all(type(number) is int for number in numbers):
        raise RefusalError("an order with numbers that are no whole numbers")
    if order.config != experiment.digest:
        raise RefusalError("the server's configuration is not this node's")
    if order.method not in experiment.trained_methods or given.seed not in experiment.seed_list:
        raise RefusalError(f"{order.method!r} at seed {given.seed} is not among what is trained")
    if not 1 <= given.round <= experiment.rounds:
        raise RefusalError(f"round {given.round} of {experiment.rounds}")
    clients = set(given.clients)
    hosts = range(experiment.clients.total) if device.hosts is None else device.hosts
    if not clients or len(clients) < len(given.clients) or not clients <= set(hosts):
        raise RefusalError("the order names clients twice, or some that are not here, or none")
    if max(clients) >= experiment.clients.total:
        raise RefusalError(f"client {max(clients)} of {experiment.clients.total}")
    if len(given.versions) != len(given.clients) or not all(
        0 <= version < given.round for version in given.versions
    ):
        raise RefusalError("the order names memories that cannot be")
    if order.inspect != experiment.looks_at(given.round):
        raise RefusalError("whether uploads are looked at is not the server's to say")
    if order.pictures and not (device.simulated and experiment.report.pictures):
        raise RefusalError("this node shows no pictures")
    if order.state_dir and not device.simulated:
        raise RefusalError("a folder on this node is not the server's to say")
    _refuse_public(device, order)


def _refuse_public(device: Device, order: Order) -> None:
    """The public numbers of a sum that no terms bind (under terms they are looked at before)."""
    public: dict[str, Any] = dict(order.assignment.public)
    release = device.release_type
    if release.masked:
        return
    if not release.private:
        if public:
            raise RefusalError("public numbers that this release does not have")
        return
    nodes = public.get("nodes")
    if type(nodes) is not int or nodes < 1:
        raise RefusalError("a sum of no nodes")
    own = device.pieces.release
    if objection := own.objection(public, nodes, nodes, device.policy.colluding):
        raise RefusalError(objection)


def pinned(device: Device, order: Order) -> dict[str, Any]:
    """This node's configuration with what the server found out about things that all must have
    alike.

    A pin confirms: only keys that the task names can be pinned, and where this node has a value of
    its own it must be the same one.
    """
    config = device.config
    pins = json.loads(order.pins)
    if not isinstance(pins, dict):
        raise RefusalError("pins are a table")
    for key, value in pins.items():
        if key not in device.task_type.pins or not isinstance(value, str):
            raise RefusalError(f"{key!r} is not for a server to set")
        if config.get(key) not in ("", None, value):
            raise RefusalError(f"{key} is {config[key]!r} here, the server has {value!r}")
    return config | pins
