"""Ten thousand malformed, replayed, reordered and contradicting messages: S5 of the protocol's
promises.

The invariants hold over every trace: no client ever gives both kinds of share of one peer, signs
two survivor lists, masks two vectors in one session, or raises anything but a refusal; the server
never gives a sum below the threshold.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cohort import Cohort
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.joint import CHECK
from privacy.secagg.messages import AbortedError, Prekey, RefusalError, Terms, survivors_text
from privacy.secagg.server import SecAggServer
from privacy.secagg.shamir import SHARE_BYTES

N, LENGTH, MESSAGES, SESSION = 5, 6, 10_000, 80
DICE = random.Random()
Counts = Counter[str]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test throws its own dice: which tests ran before must not matter."""
    DICE.seed(11)


class Hostile:
    """A server that holds a real cohort's messages and says anything to its nodes."""

    def __init__(self, made: Cohort) -> None:
        self.made, self.counts = made, Counter[str]()
        self.kinds: dict[tuple[bytes, int, int], set[str]] = {}
        self.signed: dict[tuple[bytes, int], set[tuple[int, ...]]] = {}
        self.masked: Counter[tuple[bytes, int]] = Counter()
        self.fresh()

    def fresh(self) -> None:
        """A new honest session as material; everything said in it can be repeated later."""
        self.terms = self.made.terms(LENGTH)
        self.honest = SecAggServer(self.terms, self.made.roster.members)
        self.boxes: dict[int, dict[int, bytes]] = {}
        self.signatures: dict[int, bytes] = {}
        self.old = getattr(self, "terms_seen", [])[-3:]
        self.terms_seen = [*self.old, self.terms]

    # ---- one message to one client
    def say(self, number: int) -> None:
        """Mostly the leg whose turn it is (so that sessions get far), otherwise any."""
        client = DICE.choice(self.made.clients)
        legs: list[Callable[[Any], None]] = [self.share, self.mask, self.confirm, self.unmask]
        leg = legs[number * 4 // SESSION] if DICE.random() < 0.8 else DICE.choice(legs)
        try:
            leg(client)
            self.counts["answered"] += 1
        except RefusalError as refusal:
            self.counts["aborted" if refusal.ends else "ignored"] += 1

    def share(self, client: Any) -> None:
        terms = DICE.choice([self.terms] * 6 + [*self.old, self.broken_terms()])
        boxes = client.share(terms)
        if terms is self.terms:
            self.boxes[client.member] = boxes

    def broken_terms(self) -> Terms:
        terms, keys = self.terms, list(self.terms.prekeys)
        forged = Prekey(
            keys[0].member, keys[0].serial, keys[0].transport, bytes(32), keys[0].signature
        )
        return DICE.choice(
            [
                replace(terms, threshold=1),
                replace(terms, threshold=N + 3),
                replace(terms, least=0, epoch=-1),
                replace(terms, prekeys=tuple(keys[:1])),
                replace(terms, prekeys=(*keys[1:], keys[0])),
                replace(terms, prekeys=(*keys, keys[-1])),
                replace(terms, prekeys=(forged, *keys[1:])),
                replace(terms, prekeys=(*keys[:-1], replace(keys[-1], member=99))),
                replace(terms, length=0),
                replace(terms, degree=1),
                replace(terms, number=0),
                replace(terms, degree=10**6),
            ]
        )

    def mask(self, client: Any) -> None:
        inbox = {
            sender: box[client.member]
            for sender, box in self.boxes.items()
            if sender != client.member
        }
        trick = DICE.randrange(40)
        if trick == 0 and inbox:
            inbox[DICE.choice(list(inbox))] = DICE.randbytes(DICE.choice([0, 5, 62]))
        elif trick == 1 and len(inbox) > 1:
            first, second = DICE.sample(list(inbox), 2)
            inbox[first], inbox[second] = inbox[second], inbox[first]
        elif trick == 2:
            inbox[99] = bytes(62)
        elif trick == 3:
            inbox = {}
        session = DICE.choice(
            [self.terms.session] * 20 + [terms.session for terms in self.old] + [bytes(32)]
        )
        model = bytes(32) if DICE.random() < 0.97 else b"another".ljust(32)
        length = LENGTH + CHECK + (DICE.random() < 0.02)
        client.mask(session, model, inbox, np.zeros(length, np.uint32))
        self.masked[session, client.member] += 1

    def confirm(self, client: Any) -> None:
        everyone = list(range(N))
        lists = [everyone] * 60 + [
            everyone[1:],
            everyone[:-1],
            [0],
            [],
            everyone[::-1],
            [0, 0, 1, 2],
            [*everyone, 77],
        ]
        survivors = DICE.choice(lists)
        session = DICE.choice([self.terms.session] * 20 + [terms.session for terms in self.old])
        signature = client.confirm(session, survivors)
        self.signed.setdefault((session, client.member), set()).add(tuple(survivors))
        if session == self.terms.session and survivors == everyone:
            self.signatures[client.member] = signature

    def unmask(self, client: Any) -> None:
        given = dict(self.signatures)
        trick = DICE.randrange(8)
        if trick == 0:
            given = {}
        elif trick == 1:  # signed, but by nobody in the roster
            stranger = Ed25519PrivateKey.generate()
            text = survivors_text(self.terms.session, list(range(N)))
            given = dict.fromkeys(range(N), stranger.sign(text))
        elif trick == 2 and given:
            given = dict.fromkeys(
                range(N), next(iter(given.values()))
            )  # one signature shown as everybody's
        elif trick == 3:
            given[55] = bytes(64)
        elif trick == 4:
            given = {member: DICE.randbytes(64) for member in range(N)}
        session = DICE.choice([self.terms.session] * 20 + [terms.session for terms in self.old])
        survivors = self._list_of(client)
        for peer, share in client.unmask(session, given).items():
            assert len(share) == SHARE_BYTES
            kind = "self" if survivors is not None and peer in survivors else "pair"
            self.kinds.setdefault((session, client.member, peer), set()).add(kind)
        self.counts["unmasked"] += 1

    def _list_of(self, client: Any) -> list[int] | None:
        with client.vault.open() as state:
            return state["session"]["survivors"] if state["session"] else None


@pytest.mark.timeout(600)
def test_ten_thousand_hostile_messages(
    cohort: Callable[..., Cohort], capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = Hostile(cohort(N))
    for number in range(MESSAGES):
        if number % SESSION == 0:
            hostile.fresh()
        hostile.say(number % SESSION)
    counts = hostile.counts
    assert all(len(kinds) == 1 for kinds in hostile.kinds.values())
    assert all(len(lists) == 1 for lists in hostile.signed.values())
    assert all(times == 1 for times in hostile.masked.values())
    assert counts["answered"] + counts["aborted"] + counts["ignored"] == MESSAGES
    assert (
        min(counts["answered"], counts["aborted"], counts["ignored"]) > 100
        and counts["unmasked"] > 0
    )
    with capsys.disabled():
        print(f"\n{MESSAGES} hostile messages to clients: {dict(counts)}")  # noqa: T201


def test_a_thousand_malformed_answers_to_the_server(cohort: Callable[..., Cohort]) -> None:
    """Whatever clients send, the server raises one of two errors, and gives a sum only if enough
    really took part."""
    made, sums = cohort(N), 0
    inputs = {member: np.full(LENGTH, member + 1, np.uint32) for member in range(N)}
    for _ in range(60):
        terms = made.terms(LENGTH)
        server, honest = SecAggServer(terms, made.roster.members), set()
        try:
            for client in made.clients:
                boxes = client.share(terms)
                _try(
                    server.shared,
                    client.member,
                    DICE.choice([boxes] * 6 + [{}, {0: b""}, {**boxes, 9: bytes(62)}]),
                )
            for member in server.close_sharing():
                vector = np.concatenate([inputs[member], np.zeros(CHECK, np.uint32)])
                made.clients[member].mask(terms.session, terms.model, server.inbox(member), vector)
                if DICE.random() < 0.9:
                    server.upload(member, vector)
                    honest.add(member)
                for wrong in (
                    vector[:-1],
                    vector.astype(np.int64),
                    *([vector] if member in honest else []),
                ):
                    _try(server.upload, member, wrong)  # too short, of another type, again
            survivors = server.close_uploads()
            for member in survivors:
                signature = made.clients[member].confirm(terms.session, survivors)
                _try(server.confirmed, member, DICE.choice([signature] * 8 + [bytes(64)]))
            for member in server.close_confirmation():
                shares = made.clients[member].unmask(terms.session, server.signatures(member))
                _try(
                    server.reveal,
                    member,
                    DICE.choice([shares] * 8 + [{}, dict.fromkeys(shares, b"")]),
                )
            total = server.finish()
        except (AbortedError, RefusalError):
            continue
        sums += 1
        assert len(honest) >= terms.threshold
        assert (total == np.sum([inputs[m] for m in survivors], axis=0, dtype=np.uint32)).all()
    assert 5 < sums < 60


def _try(step: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(ValueError):
        step(*arguments)
