"""Members that break the protocol: the sum is made without their help where it can be, and whoever
did it is named, nobody else."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cohort import Cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.joint import CHECK
from privacy.secagg.messages import AbortedError, RefusalError, Terms
from privacy.secagg.primitives import FIELD, SMALL_ORDER, agree, agreement_key, is_small_order
from privacy.secagg.repair import UnrestorableError, decode, repaired
from privacy.secagg.server import SecAggServer
from privacy.secagg.shamir import SHARE_BYTES, combine, split

Make = Callable[..., Cohort]
Vectors = dict[int, np.ndarray]


def vectors(nodes: int, length: int = 6) -> Vectors:
    draw = np.random.default_rng(nodes)
    return {m: draw.integers(0, 2**32, length, np.uint32) for m in range(nodes)}


def garbage(length: int) -> bytes:
    return secrets.token_bytes(length)


class Round:
    """A secure sum in which single messages are changed on their way to the server."""

    def __init__(self, made: Cohort, terms: Terms, inputs: Vectors, gone: int = -1) -> None:
        self.made, self.terms, self.inputs, self.gone = made, terms, inputs, gone
        self.server = SecAggServer(terms, made.roster.members)
        self.boxes: Callable[[int, dict[int, bytes]], dict[int, bytes]] = lambda m, given: given
        self.shares: Callable[[int, dict[int, bytes]], dict[int, bytes]] = lambda m, given: given

    def run(self) -> np.ndarray:
        server, clients, session = self.server, self.made.clients, self.terms.session
        for member in self.terms.members:
            server.shared(member, self.boxes(member, clients[member].share(self.terms)))
        for member in server.close_sharing():
            if member == self.gone:
                continue
            vector = np.concatenate([self.inputs[member], np.zeros(CHECK, np.uint32)])
            inbox = server.inbox(member)
            server.accuse(member, clients[member].mask(session, self.terms.model, inbox, vector))
            server.upload(member, vector)
        survivors = server.close_uploads()
        for member in survivors:
            server.confirmed(member, clients[member].confirm(session, survivors))
        for member in server.close_confirmation():
            shares = clients[member].unmask(session, server.signatures(member))
            server.reveal(member, self.shares(member, shares))
        return server.finish()

    @property
    def expected(self) -> np.ndarray:
        rows = [self.inputs[m] for m in self.terms.members if m != self.gone]
        return np.sum(rows, axis=0, dtype=np.uint32)


# ---------------------------------------------------------------------- wrong shares
@pytest.mark.parametrize(("nodes", "gone"), [(6, -1), (7, -1), (7, 5), (12, 3)])
def test_wrong_shares_of_one_holder_neither_spoil_the_sum_nor_stay_unnamed(
    cohort: Make, nodes: int, gone: int
) -> None:
    made, inputs = cohort(nodes), vectors(nodes)
    sums = Round(made, made.terms(6), inputs, gone)
    sums.shares = lambda member, given: (
        {owner: garbage(SHARE_BYTES) for owner in given} if member == 2 else given
    )
    assert np.array_equal(sums.run(), sums.expected)
    assert list(sums.server.remarks) == [2]
    assert "it revealed wrong shares" in sums.server.remarks[2]


def test_one_wrong_share_of_one_secret_is_enough_to_be_named(cohort: Make) -> None:
    made, inputs = cohort(9), vectors(9)
    sums = Round(made, made.terms(6), inputs)
    sums.shares = lambda member, given: given | {4: garbage(SHARE_BYTES)} if member == 2 else given
    assert np.array_equal(sums.run(), sums.expected)
    assert set(sums.server.remarks) == {2, 4}
    assert all("is at fault" in text for text in sums.server.remarks.values())


@pytest.mark.parametrize("nodes", [7, 12])
def test_a_dealer_of_wrong_shares_does_not_frame_their_holders(cohort: Make, nodes: int) -> None:
    """Two good boxes with wrong shares inside: it is the dealer that both have in common."""
    made, inputs = cohort(nodes), vectors(nodes)
    sums = Round(made, made.terms(6), inputs)
    honest = made.clients[4]._box

    def wrong(secret: bytes, share: bytes, holder: int, session: bytes) -> bytes:
        return honest(secret, garbage(len(share)) if holder in (0, 1) else share, holder, session)

    made.clients[4]._box = wrong  # type: ignore[method-assign]
    if nodes == 7:  # of seven one wrong share can be corrected, and sets of two left out
        sums.shares = lambda member, given: given
    assert np.array_equal(sums.run(), sums.expected)
    assert list(sums.server.remarks) == [4]


def test_a_liar_whose_upload_is_spoilt_too_frames_nobody(cohort: Make) -> None:
    """Wrong shares of all and a vector of noise: with six nodes nothing can be told, and nothing is
    said."""
    made, inputs = cohort(6), vectors(6)
    sums = Round(made, made.terms(6), inputs)
    upload = sums.server.upload_blocks
    sums.server.upload_blocks = lambda sender, blocks: upload(  # type: ignore[method-assign]
        sender, [block + np.uint32(sender == 2) for block in blocks]
    )
    sums.shares = lambda member, given: (
        {owner: garbage(SHARE_BYTES) for owner in given} if member == 2 else given
    )
    with pytest.raises(AbortedError) as caught:
        sums.run()
    assert caught.value.spoilt and not caught.value.suspects


def test_who_accuses_many_is_named_and_they_are_not(cohort: Make) -> None:
    made, inputs = cohort(7), vectors(7)
    sums = Round(made, made.terms(6), inputs)
    accuse, unmask = sums.server.accuse, made.clients[0].unmask
    sums.server.accuse = lambda receiver, senders: accuse(  # type: ignore[method-assign]
        receiver, [1, 2, 3] if receiver == 0 else senders
    )
    made.clients[0].unmask = lambda *given: {  # type: ignore[method-assign]
        owner: share for owner, share in unmask(*given).items() if owner not in (1, 2, 3)
    }
    assert np.array_equal(sums.run(), sums.expected)
    assert list(sums.server.remarks) == [0]


def test_a_key_that_was_announced_and_not_shared_names_its_owner(cohort: Make) -> None:
    """It shares another secret than that of its mask key, and is gone."""
    made, inputs = cohort(7), vectors(7)
    sums = Round(made, made.terms(6), inputs, gone=3)
    honest = made.clients[3]._split
    made.clients[3]._split = lambda mask, alone, terms: honest(  # type: ignore[method-assign]
        garbage(16), alone, terms
    )
    with pytest.raises(AbortedError, match="not those they announced") as caught:
        sums.run()
    assert list(caught.value.suspects) == [3]


def test_an_upload_that_was_changed_is_nobodys_wrong_share(cohort: Make) -> None:
    """Negative control: all shares fit, the check block does not, and nobody is blamed."""
    made, inputs = cohort(6), vectors(6)
    sums = Round(made, made.terms(6), inputs)
    sums.server.upload_blocks, honest = (
        lambda sender, blocks: honest(sender, [b + np.uint32(sender == 1) for b in blocks]),
        sums.server.upload_blocks,
    )
    with pytest.raises(AbortedError, match="masks did not cancel") as caught:
        sums.run()
    assert caught.value.spoilt and not caught.value.suspects and not sums.server.remarks


@given(
    holders=st.integers(3, 14),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_as_many_wrong_shares_as_a_code_can_correct(holders: int, data: st.DataObject) -> None:
    """m shares of threshold t: up to (m - t) / 2 wrong ones, wherever they are."""
    threshold = data.draw(st.integers(1, holders))
    points = data.draw(st.permutations(range(1, 20)))[:holders]
    most = (holders - threshold) // 2
    bad = set(points[: data.draw(st.integers(0, most))])
    secret = secrets.token_bytes(16)
    shares = dict(zip(points, split(secret, points, threshold), strict=True))
    for place in bad:
        value = int.from_bytes(shares[place], "big") ^ data.draw(st.integers(1, 2**120))
        shares[place] = value.to_bytes(SHARE_BYTES, "big")
    assert decode(shares, threshold) == (secret, bad)


def test_a_code_that_is_broken_beyond_repair_says_so() -> None:
    shares = dict(zip(range(1, 8), split(bytes(16), range(1, 8), 3), strict=True))
    wrong = {place: garbage(16).rjust(SHARE_BYTES, b"\0") for place in (1, 2, 3)}
    with pytest.raises(ValueError, match="more shares are wrong"):
        decode(shares | wrong, 3)
    with pytest.raises(UnrestorableError) as caught:
        repaired({0: shares | wrong}, 3, lambda found: False)
    assert caught.value.owners == [0]
    found, names = repaired({0: shares | wrong}, 3, lambda found: found[0] == bytes(16))
    assert found == {0: bytes(16)} and names == {(0, 1), (0, 2), (0, 3)}
    assert combine(shares, 3) == bytes(16)


# ---------------------------------------------------------------------- bad boxes
@pytest.mark.parametrize("gone", [-1, 3])
def test_one_bad_box_costs_nobody_a_place(cohort: Make, gone: int) -> None:
    """It evicted its receiver, who was then the one listed as failed."""
    made, inputs = cohort(7), vectors(7)
    sums = Round(made, made.terms(6), inputs, gone)
    sums.boxes = lambda member, given: given | {1: garbage(len(given[1]))} if member == 4 else given
    assert np.array_equal(sums.run(), sums.expected)
    assert set(sums.server.remarks) == {1, 4}, "the one who says so, and the one it says it of"


def test_who_sends_nothing_but_bad_boxes_is_the_one_who_is_named(cohort: Make) -> None:
    made, inputs = cohort(7), vectors(7)
    sums = Round(made, made.terms(6), inputs)
    sums.boxes = lambda member, given: (
        {holder: garbage(len(box)) for holder, box in given.items()} if member == 4 else given
    )
    with pytest.raises(AbortedError) as caught:
        sums.run()
    assert caught.value.spoilt and list(caught.value.suspects) == [4]


def test_so_few_good_boxes_that_nothing_could_be_unmasked_end_the_session(cohort: Make) -> None:
    """Boxes of another session do not open: this is what a split view looks like to a member."""
    made, inputs = cohort(7), vectors(7)
    sums = Round(made, made.terms(6), inputs)
    sums.boxes = lambda member, given: (
        given | {0: garbage(len(given[0]))} if member in (2, 3, 4, 5) else given
    )
    with pytest.raises(RefusalError, match="cannot be opened"):
        sums.run()


def test_a_member_cannot_accuse_who_sent_it_nothing(cohort: Make) -> None:
    made = cohort(6)
    terms = made.terms(6)
    server = SecAggServer(terms, made.roster.members)
    for member in range(5):
        server.shared(member, made.clients[member].share(terms))
    server.close_sharing()
    with pytest.raises(ValueError, match="who sent it nothing"):
        server.accuse(0, [5])


# ---------------------------------------------------------------------- keys nobody can agree with
@pytest.mark.parametrize("point", sorted(SMALL_ORDER))
def test_small_orders_are_known_in_every_encoding(point: int) -> None:
    """Held against the library: it is these points, and their other encodings, that it refuses."""
    for value in (point, point + FIELD):
        for high in (0, 2**255):
            if value < 2**255:
                public = (value + high).to_bytes(32, "little")
                assert is_small_order(public)
                with pytest.raises(ValueError):
                    agree(agreement_key(bytes(16), "mask"), public)


def test_an_ordinary_key_has_no_small_order() -> None:
    assert not is_small_order((9).to_bytes(32, "little"))


def test_a_neighbours_key_of_small_order_is_refused_by_name(cohort: Make) -> None:
    made = cohort(6)
    terms = made.terms(6)
    bad = replace(terms.prekeys[3], mask=bytes(32))
    bad = replace(bad, signature=made.clients[3].identity.sign(bad.text))
    keys = (*terms.prekeys[:3], bad, *terms.prekeys[4:])
    with pytest.raises(RefusalError, match="member 3 has small order"):
        made.clients[0].share(replace(terms, prekeys=keys))
