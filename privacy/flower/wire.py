"""Messages of the secure-aggregation legs, and the meaning of every field that leaves a node.

advertise  {count}                       → {prekeys}
share      {terms}                       → {members, boxes}
masked     {order, broadcast, inbox}     → {origin, sum, accused}     (the train leg)
confirm    {session, survivors}          → {signature}
unmask     {session, members, signatures}→ {members, shares}

``OUTGOING`` is the law: a test reads real replies and fails on any field that is not in it; the
budget report lists its ``public`` rows as what is not covered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from privacy.secagg.messages import Prekey, Terms
from strategies.flower.records import FAILURE, record
from tasks.errors import ReplyError

if TYPE_CHECKING:
    from strategies.flower.wire import Order

ADVERTISE = "query.advertise"
SHARE = "query.share"
MASKED = "train.masked"
CONFIRM = "query.confirm"
UNMASK = "query.unmask"
RECORD = "secagg"

# field of a private reply: (what it is, why it may leave). masked: inside the secure sum; charged:
# inside the noised sum; public: from randomness, from the server's own words, or from the node's
# set-up, never from data.
OUTGOING: dict[str, tuple[str, str]] = {
    "sum.vector": (
        "masked or charged",
        "the clipped joint vectors of the node's clients, masked and/or noised",
    ),
    "origin.round": ("public", "the server's own round number"),
    "origin.session": ("public", "the server's own session"),
    "hello.partition": ("public", "which node this is"),
    "hello.partitions": ("public", "how many there are"),
    "hello.hosts": ("public", "which clients the node hosts: membership is not hidden"),
    "secagg.prekeys": ("public", "one-time public keys and signatures"),
    "secagg.members": ("public", "to whom boxes or shares belong"),
    "secagg.boxes": ("public", "shares of random seeds, sealed for other nodes"),
    "secagg.accused": ("public", "whose sealed shares could not be opened"),
    "secagg.signature": ("public", "a signature on the server's own list of survivors"),
    "secagg.shares": ("public", "shares of random seeds; of one kind for each peer"),
    "failure.reason": (
        "public",
        "that the node could not take part: a protocol reason, or the type of the error",
    ),
}


def pack_work(orders: Mapping[int, Order], ledger: Mapping[str, int | str] | None) -> str:
    """The JSON text that binds a sum to its work: every field of every member's order, and the
    entry of the ledger it is charged after."""
    first = next(iter(orders.values()))
    assignments = {str(member): order.assignment for member, order in orders.items()}
    work = {
        "order": first.common,
        "clients": {member: list(given.clients) for member, given in assignments.items()},
        "versions": {member: list(given.versions) for member, given in assignments.items()},
        "ledger": [ledger["ledger"], ledger["seq"], ledger["head"]] if ledger else None,
    }
    return json.dumps(work, sort_keys=True)


def model_digest(broadcast: ArrayRecord, public: str) -> bytes:
    """SHA-256 of everything a client trains from: names, types, shapes, bytes, and the public
    numbers."""
    state = sha256(public.encode())
    for name, array in broadcast.items():
        state.update(f"|{name}|{array.dtype}|{tuple(array.shape)}|{len(array.data)}|".encode())
        state.update(array.data)
    return state.digest()


def pack_terms(terms: Terms) -> ConfigRecord:
    """The terms of a secure sum."""
    return ConfigRecord(
        {
            "epoch": terms.epoch,
            "number": terms.number,
            "threshold": terms.threshold,
            "degree": terms.degree,
            "least": terms.least,
            "length": terms.length,
            "public": terms.public,
            "work": terms.work,
            "model": terms.model,
            "members": list(terms.members),
            "prekeys": [prekey.to_bytes() for prekey in terms.prekeys],
        }
    )


def unpack_terms(said: ConfigRecord) -> Terms:
    """Inverse of :func:`pack_terms`; raises ``ValueError`` if a field or a prekey is malformed."""
    pairs = zip(_integers(said["members"]), _byte_list(said["prekeys"]), strict=True)
    names = ("epoch", "number", "threshold", "degree", "least", "length")
    numbers = {name: _integers([said[name]])[0] for name in names}
    return Terms(
        **numbers,
        prekeys=tuple(Prekey.from_bytes(member, data) for member, data in pairs),
        public=str(said["public"]),
        work=str(said["work"]),
        model=as_bytes(said["model"]),
    )


def pack_table(session: bytes, table: Mapping[int, bytes], values: str) -> ConfigRecord:
    """``{member: bytes}`` as two lists, in order; ``session`` only on the server's side (empty:
    left out)."""
    members = sorted(table)
    content: dict[str, bytes | list[int] | list[bytes]] = {"session": session} if session else {}
    content |= {"members": members, values: [table[member] for member in members]}
    return ConfigRecord(content)  # type: ignore[arg-type]


def unpack_table(said: ConfigRecord, values: str) -> dict[int, bytes]:
    """Inverse of :func:`pack_table`; raises ``ValueError`` for a repeated member or uneven
    lists."""
    members = _integers(said["members"])
    table = dict(zip(members, _byte_list(said[values]), strict=True))
    if len(table) < len(members):
        raise ValueError("a member is named twice")
    return table


def unpack_integers(said: ConfigRecord, name: str) -> list[int]:
    """A list of whole numbers; raises ``ValueError`` if it is anything else."""
    return _integers(said[name])


def unpack_list(said: ConfigRecord, name: str) -> list[bytes]:
    """A list of bytes; raises ``ValueError`` if it is anything else."""
    return _byte_list(said[name])


def read_reply(content: RecordDict) -> ConfigRecord:
    """The record of a leg's reply; raises :class:`ReplyError` with the node's reason if it
    refused."""
    if FAILURE in content:
        raise ReplyError(str(record(content, FAILURE, ConfigRecord)["reason"]))
    try:
        return record(content, RECORD, ConfigRecord)
    except KeyError as error:
        raise ReplyError(f"the reply lacks the record {error}") from None


def as_bytes(value: object) -> bytes:
    """``value`` if it is bytes (``bytes(10**12)`` of a hostile number would be a terabyte of
    zeros)."""
    if not isinstance(value, bytes):
        raise ValueError(f"expected bytes, got {type(value).__name__}")
    return value


def _byte_list(values: object) -> list[bytes]:
    if not isinstance(values, list):
        raise ValueError(f"expected a list of bytes, got {type(values).__name__}")
    return [as_bytes(value) for value in values]


def _integers(values: object) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"expected a list of whole numbers, got {type(values).__name__}")
    return values
