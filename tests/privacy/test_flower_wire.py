"""Messages of the secure legs: what goes in comes out, and what is malformed is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from privacy.flower.wire import (
    RECORD,
    model_digest,
    pack_table,
    pack_terms,
    pack_work,
    read_reply,
    unpack_integers,
    unpack_list,
    unpack_table,
    unpack_terms,
)
from privacy.secagg.messages import PREKEY_BYTES, Prekey, Terms
from strategies.cohort import Assignment
from strategies.flower.records import FAILURE
from strategies.flower.wire import Order, pack_order, to_array
from tasks.errors import ReplyError


def through_flower(record: ConfigRecord) -> ConfigRecord:
    """Deflate to bytes and inflate again, as on the way to another process."""
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

    whole = recorddict_from_proto(recorddict_to_proto(RecordDict({RECORD: record})))
    found = whole[RECORD]
    assert isinstance(found, ConfigRecord)
    return found


def terms() -> Terms:
    """Ten fields, no two alike."""
    key = Ed25519PrivateKey.generate()
    prekeys = tuple(
        Prekey(member, 50 + member, bytes([member]) * 32, bytes([9 + member]) * 32, key.sign(b""))
        for member in (2, 5, 8)
    )
    return Terms(11, 12, prekeys, 13, 14, 15, 16, '{"a": 1}', '{"b": 2}', b"m" * 32)


def test_terms_come_back_as_they_were_and_so_does_their_session() -> None:
    sent = terms()
    found = unpack_terms(through_flower(pack_terms(sent)))
    assert found == sent and found.session == sent.session


@pytest.mark.parametrize(
    "wrong",
    [
        {"prekeys": [bytes(PREKEY_BYTES)]},
        {"prekeys": [bytes(PREKEY_BYTES - 1)] * 3},
        {"members": ["2", "5", "8"]},
        {"members": 2},
        {"threshold": 1.5},
        {"least": True},
        {"model": "m" * 32},
    ],
)
def test_malformed_terms_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        unpack_terms(ConfigRecord({**pack_terms(terms()), **wrong}))


def test_tables_come_back_and_are_sorted() -> None:
    table = {7: b"seven", 2: b"two", 40: b""}
    for session in (b"", b"s" * 32):
        said = through_flower(pack_table(session, table, "shares"))
        assert unpack_table(said, "shares") == table
        assert said["members"] == [2, 7, 40] and said["shares"] == [b"two", b"seven", b""]
        assert said.get("session", b"") == session and ("session" in said) == bool(session)


@pytest.mark.parametrize(
    "wrong",
    [
        {"members": [2, 2], "shares": [b"a", b"b"]},
        {"members": [2], "shares": [b"a", b"b"]},
        {"members": [2, 3], "shares": [b"a"]},
        {"members": [2, 3], "shares": ["a", "b"]},
        {"members": [2.0, 3.0], "shares": [b"a", b"b"]},
        {"members": [True, False], "shares": [b"a", b"b"]},
        {"members": 2, "shares": [b"a"]},
        {"members": [2], "shares": b"a"},
    ],
)
def test_a_table_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    """A member named twice would let one share stand for two."""
    with pytest.raises(ValueError):
        unpack_table(ConfigRecord(wrong), "shares")


def test_lists_are_of_one_kind() -> None:
    said = ConfigRecord({"numbers": [3, 1, 2], "data": [b"x", b"y"], "words": ["x"], "one": 4})
    assert unpack_integers(said, "numbers") == [3, 1, 2]
    assert unpack_list(said, "data") == [b"x", b"y"]
    for name in ("data", "words", "one"):
        with pytest.raises(ValueError, match="whole numbers"):
            unpack_integers(said, name)
    for name in ("numbers", "words", "one"):
        with pytest.raises(ValueError, match="bytes"):
            unpack_list(said, name)


def test_a_refusal_is_passed_on_in_the_nodes_own_words() -> None:
    with pytest.raises(ReplyError, match=r"^no such session is open here$"):
        read_reply(RecordDict({FAILURE: ConfigRecord({"reason": "no such session is open here"})}))
    with pytest.raises(ReplyError, match="lacks the record"):
        read_reply(RecordDict({}))
    said = ConfigRecord({"signature": b"s"})
    assert read_reply(RecordDict({RECORD: said})) == said


# ---------------------------------------------------------------- what binds a sum to its work
def broadcast(**arrays: np.ndarray) -> ArrayRecord:
    return ArrayRecord({name: to_array(torch.from_numpy(value)) for name, value in arrays.items()})


def test_the_digest_depends_on_all_a_client_trains_from() -> None:
    """Name, type, shape, every number, their order, other arrays and the public numbers."""
    model = np.arange(6, dtype=np.float32)
    other = model.copy()
    other[5] += 1
    digests = [
        model_digest(broadcast(model=model), "{}"),
        model_digest(broadcast(model=model), "{} "),
        model_digest(broadcast(model=other), "{}"),
        model_digest(broadcast(other=model), "{}"),
        model_digest(broadcast(model=model.view(np.int32)), "{}"),
        model_digest(broadcast(model=model.reshape(2, 3)), "{}"),
        model_digest(broadcast(model=model.reshape(3, 2)), "{}"),
        model_digest(broadcast(model=model, extra=model), "{}"),
        model_digest(broadcast(extra=model, model=model), "{}"),
    ]
    assert len(set(digests)) == len(digests) and {len(digest) for digest in digests} == {32}
    assert digests[0] == model_digest(broadcast(model=model.copy()), "{}")


def test_the_work_names_everybodys_clients_and_versions() -> None:
    whole = Assignment(3, 17, (4, 7), (0, 2))
    first = Order("s", "maml", whole, False, False, "/state", "r", "{}", "c")
    second = replace(first, assignment=Assignment(3, 17, (9,), (1,)))
    ledger = {"ledger": "book", "seq": 5, "head": "h", "signature": "not part of it"}
    expected = {
        "order": {
            "session": "s", "method": "maml", "seed": 17, "round": 3, "inspect": False,
            "pictures": False, "state-dir": "/state", "run": "r", "pins": "{}", "config": "c",
        },
        "ledger": ["book", 5, "h"],
        "clients": {"0": [4, 7], "10": [9]}, "versions": {"0": [0, 2], "10": [1]},
    }  # fmt: skip
    assert json.loads(pack_work({0: first, 10: second}, ledger)) == expected
    assert json.loads(pack_work({0: first, 10: second}, None)) == {**expected, "ledger": None}
    named = {*expected["order"], "clients", "versions", "public"}
    sent = pack_order(first, ArrayRecord(), "", "")["order"]
    assert set(sent) - {"fingerprint", "root"} == named, "a field of an order that nothing binds"
