"""Messages of the secure-aggregation legs, and what every field that leaves a node is.

advertise  {count}                       → {prekeys}
share      {terms}                       → {members, boxes}
masked     {order, broadcast, inbox}     → {origin, sum}     (the train leg)
confirm    {session, survivors}          → {signature}
unmask     {session, members, signatures}→ {members, shares}

``OUTGOING`` is the law: a test reads real replies and fails on any field that is not in it; the budget report lists
its ``public`` rows as what is not covered.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from privacy.secagg.messages import Prekey, Terms
from strategies.flower.wire import FAILURE
from tasks.errors import ReplyError

ADVERTISE, SHARE, MASKED = "query.advertise", "query.share", "train.masked"
CONFIRM, UNMASK = "query.confirm", "query.unmask"
RECORD = "secagg"

# field of a private reply: (what it is, why it may leave). masked: inside the secure sum; charged: inside the noised
# sum; public: derived from randomness, from the server's own words, or from the node's set-up, never from data.
OUTGOING: dict[str, tuple[str, str]] = {
    "sum.vector": ("masked or charged", "the clipped joint vectors of the node's clients, masked and/or noised"),
    "origin.round": ("public", "the server's own round number"),
    "origin.session": ("public", "the server's own session"),
    "hello.partition": ("public", "which node this is"),
    "hello.partitions": ("public", "how many there are"),
    "hello.hosts": ("public", "which clients the node hosts: membership is not hidden"),
    "secagg.prekeys": ("public", "one-time public keys and signatures"),
    "secagg.members": ("public", "to whom boxes or shares belong"),
    "secagg.boxes": ("public", "shares of random seeds, sealed for other nodes"),
    "secagg.signature": ("public", "a signature on the server's own list of survivors"),
    "secagg.shares": ("public", "shares of random seeds; of one kind for each peer"),
    "failure.reason": ("public", "that the node could not take part: protocol reason or type and place of the error"),
}


def model_digest(broadcast: ArrayRecord, public: str) -> bytes:
    """SHA-256 of everything a client trains from: names, types, shapes, bytes, and the public numbers."""
    state = sha256(public.encode())
    for name, array in broadcast.items():
        state.update(f"|{name}|{array.dtype}|{tuple(array.shape)}|{len(array.data)}|".encode())
        state.update(array.data)
    return state.digest()


def pack_terms(terms: Terms) -> ConfigRecord:
    """The terms of a secure sum."""
    return ConfigRecord(
        {
            "epoch": terms.epoch, "round": terms.round, "threshold": terms.threshold, "degree": terms.degree,
            "least": terms.least, "length": terms.length, "public": terms.public, "model": terms.model, "members": list(terms.members),
            "prekeys": [prekey.to_bytes() for prekey in terms.prekeys],
        }
    )  # fmt: skip


def unpack_terms(record: ConfigRecord) -> Terms:
    """What :func:`pack_terms` packed; raises ``ValueError`` if a prekey is malformed."""
    pairs = zip(_integers(record["members"]), record["prekeys"], strict=True)  # type: ignore[arg-type]
    prekeys = tuple(Prekey.from_bytes(member, bytes(data)) for member, data in pairs)  # type: ignore[arg-type]
    epoch, round, threshold = int(record["epoch"]), int(record["round"]), int(record["threshold"])  # type: ignore[arg-type]
    degree, least, length = int(record["degree"]), int(record["least"]), int(record["length"])  # type: ignore[arg-type]
    public, model = str(record["public"]), bytes(record["model"])  # type: ignore[arg-type]
    return Terms(epoch, round, prekeys, threshold, degree, least, length, public, model)


def pack_table(table: Mapping[int, bytes], values: str) -> dict[str, list[int] | list[bytes]]:
    """``{member: bytes}`` as two lists, in order."""
    members = sorted(table)
    return {"members": members, values: [table[member] for member in members]}


def unpack_table(record: ConfigRecord, values: str) -> dict[int, bytes]:
    """What :func:`pack_table` packed; raises ``ValueError`` for a repeated member or uneven lists."""
    members, data = _integers(record["members"]), record[values]
    table = {member: bytes(item) for member, item in zip(members, data, strict=True)}  # type: ignore[arg-type]
    if len(table) < len(members):
        raise ValueError("a member is named twice")
    return table


def read_reply(content: RecordDict) -> ConfigRecord:
    """The record of a leg's reply; raises :class:`ReplyError` with the node's reason if it refused."""
    if FAILURE in content.config_records:
        raise ReplyError(str(content.config_records[FAILURE]["reason"]))
    try:
        return content.config_records[RECORD]
    except KeyError as error:
        raise ReplyError(f"the reply lacks the record {error}") from None


def _integers(values: object) -> list[int]:
    if not isinstance(values, list):
        raise ValueError(f"expected a list of numbers, got {type(values).__name__}")
    return [int(value) for value in values]
