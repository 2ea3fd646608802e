"""What a node refuses: each rule of its own with a server that breaks that rule and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohort import Cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.joint import CHECK
from privacy.secagg import messages
from privacy.secagg.client import SecAggClient
from privacy.secagg.graph import default_threshold, dropouts, harary, lowest_threshold
from privacy.secagg.identity import Policy
from privacy.secagg.messages import RefusalError, Terms
from privacy.secagg.primitives import is_signed
from privacy.secagg.server import SecAggServer
from tasks.errors import InputError

Make = Callable[..., Cohort]


# ---------------------------------------------------------------- who may restore what
def test_a_larger_degree_needs_a_larger_threshold() -> None:
    """k = 100 and t = 15 among 102: 50 neighbours shown one list and 50 the other would give away
    both secrets."""
    policy = Policy(min_nodes=2)
    degree, threshold = harary(102, 1, dropouts(102))
    assert (degree, threshold) == (26, 15) and not policy.objection(102, threshold, degree, 10)
    assert "threshold" in policy.objection(102, threshold, 100, 10)
    assert not policy.objection(102, lowest_threshold(102, 100, 1), 100, 10)


@settings(max_examples=200, deadline=None)
@given(
    nodes=st.integers(2, 160),
    degree=st.integers(1, 159),
    threshold=st.integers(1, 160),
    hostile=st.integers(0, 3),
)
def test_no_accepted_terms_let_two_lists_reach_the_threshold(
    nodes: int, degree: int, threshold: int, hostile: int
) -> None:
    """Every holder gives one kind of share, the hostile ones both: t of each kind need 2 t <=
    holders + hostile."""
    degree = min(degree, nodes - 1)
    if not Policy(min_nodes=2, colluding=hostile).objection(nodes, threshold, degree, 10):
        assert 2 * threshold > degree + 1 + hostile and threshold <= degree + 1


@pytest.mark.parametrize(
    ("policy", "nodes", "threshold", "words"),
    [
        (Policy(min_nodes=6), 5, 4, "takes part with 6 or more"),
        (Policy(min_nodes=2), 9, 10, "cannot be met"),
        (Policy(min_nodes=2), 9, 6, "asks for 7"),
        (Policy(min_nodes=2, colluding=5), 9, 7, "both secrets"),
    ],
)
def test_each_limit_of_the_complete_graph(
    policy: Policy, nodes: int, threshold: int, words: str
) -> None:
    assert words in policy.objection(nodes, threshold, nodes - 1, 10)
    assert not Policy(min_nodes=2).objection(nodes, default_threshold(nodes), nodes - 1, 10)


@pytest.mark.parametrize(("nodes", "everybody"), [(100, True), (101, False)])
def test_up_to_its_own_limit_a_node_masks_with_everybody(nodes: int, everybody: bool) -> None:
    """The degree and threshold that a k-regular graph needs are not enough among a hundred."""
    degree, threshold = harary(nodes, 1, dropouts(nodes))
    found = Policy().objection(nodes, threshold, degree, 10)
    assert ("everybody masks with everybody" in found) == everybody == bool(found)
    wider = Policy(complete_up_to=nodes)
    assert "everybody" in wider.objection(nodes, threshold, degree, 10)
    assert not Policy(complete_up_to=nodes - 1).objection(nodes, threshold, degree, 10)


@pytest.mark.parametrize(("length", "refused"), [(0, True), (1, False), (10, False), (11, True)])
def test_a_vector_is_neither_empty_nor_longer_than_a_node_allows(
    length: int, refused: bool
) -> None:
    policy = Policy(max_length=10)
    assert bool(policy.objection(9, default_threshold(9), 8, length)) == refused
    degree, threshold = harary(101, 1, dropouts(101))
    assert bool(policy.objection(101, threshold, degree, length)) == refused


def test_noise_that_only_the_server_promises_does_not_count() -> None:
    policy = Policy(releases=("distributed-dp", "central-dp"), min_noise=1.0)
    assert not policy.forbids("distributed-dp", 1.0, noised=True)
    assert "multiplier 0.9" in policy.forbids("distributed-dp", 0.9, noised=True)
    assert "multiplier nan" in policy.forbids("distributed-dp", float("nan"), noised=True)
    assert "multiplier 0" in policy.forbids("central-dp", 0.0, noised=True)
    assert "not among those" in policy.forbids("plain", 5.0, noised=False)


def test_a_limit_on_epsilon_alone_stops_rounds_without_noise() -> None:
    policy = Policy(epsilon_max=8.0)
    assert not policy.forbids("distributed-dp", 1.0, noised=True)
    for release in ("plain", "secagg"):
        assert "cost infinitely much" in policy.forbids(release, 0.0, noised=False)
        assert not Policy().forbids(release, 0.0, noised=False)


@pytest.mark.parametrize(
    "text",
    [
        '{"releases": "distributed-dp"}',
        '{"epsilon_max": "8"}',
        '{"epsilon_max": NaN}',
        '{"epsilon_max": -1}',
        '{"min_nodes": true}',
        '{"epsilonmax": 8}',
        "[]",
        "",
    ],
)
def test_a_policy_that_says_something_else_than_meant_is_refused(tmp_path: Path, text: str) -> None:
    """One text for a list would be taken letter by letter, and none of its letters is a release."""
    file = tmp_path / "policy.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="not a policy"):
        Policy.read(file)


def test_a_missing_policy_fails_closed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fedapp enrol"):
        Policy.read(tmp_path / "policy.json")
    Policy(releases=("secagg",), epsilon_max=3.0).write(tmp_path / "policy.json")
    assert Policy.read(tmp_path / "policy.json") == Policy(releases=("secagg",), epsilon_max=3.0)
    assert (tmp_path / "policy.json").stat().st_mode & 0o077 == 0


# ---------------------------------------------------------------- keys
def test_nodes_of_two_versions_of_the_protocol_refuse_each_other(
    cohort: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks made in two ways would not cancel: keys are refused before anything is shared."""
    made = cohort(5)
    with monkeypatch.context() as older:
        older.setattr(messages, "PROTOCOL", "fedapp secure sum 1")
        terms = made.terms(4)
        old_session = terms.session
    assert replace(terms).session != old_session
    with pytest.raises(RefusalError, match="not signed by it"):
        made.clients[0].share(replace(terms))


def test_a_neighbours_prekey_must_be_signed_by_it(cohort: Make) -> None:
    made = cohort(5)
    terms = made.terms(4)
    forged = [
        replace(terms.prekeys[1], mask=terms.prekeys[2].mask),
        *(terms.prekeys[i] for i in (0, 2, 3, 4)),
    ]
    tampered = replace(terms, prekeys=tuple(sorted(forged, key=lambda prekey: prekey.member)))
    with pytest.raises(RefusalError, match="prekey of member 1 is not signed"):
        made.clients[0].share(tampered)
    made.clients[0].share(terms)


def test_a_node_recognises_its_own_keys(cohort: Make) -> None:
    """Its own prekey it does not verify by a signature: a server may put its own mask key under
    this node's name."""
    made = cohort(5)
    terms = made.terms(4)
    for swapped in ("mask", "transport"):
        own = replace(terms.prekey(0), **{swapped: getattr(terms.prekey(1), swapped)})
        with pytest.raises(RefusalError, match="under this node's name are not its own"):
            made.clients[0].share(replace(terms, prekeys=(own, *terms.prekeys[1:])))
    made.clients[0].share(terms)


def test_a_sum_is_taken_part_in_once(cohort: Make) -> None:
    """The same number of the same epoch again, with fresh keys: refused; the next number is not."""
    made = cohort(5)
    first = made.terms(4)
    made.clients[0].share(first)
    again = made.terms(4)
    with pytest.raises(RefusalError, match="is not newer"):
        made.clients[0].share(replace(again, number=first.number))
    with pytest.raises(
        RefusalError, match="is not newer"
    ):  # an earlier epoch, however high the number
        made.clients[0].share(replace(again, epoch=first.epoch - 1, number=99))
    made.clients[0].share(again)


def test_a_clock_far_ahead_cannot_lock_a_node_out(cohort: Make) -> None:
    """An epoch is a server's start in milliseconds; a node would refuse all earlier ones for
    ever."""
    made = cohort(5)
    with pytest.raises(RefusalError, match="ahead of this node's clock"):
        made.clients[0].share(replace(made.terms(4), epoch=2**62))
    made.clients[0].share(made.terms(4))


@pytest.mark.parametrize("boxes", range(5))
def test_a_vector_is_masked_only_with_a_threshold_of_shares(cohort: Make, boxes: int) -> None:
    """t = 4 of 5: its own share and three boxes. With fewer, nobody could take the masks off again,
    and the vector would hide among fewer nodes than this one agreed to."""
    made = cohort(5)
    terms = made.terms(4)
    assert terms.threshold == 4
    sent = {client.member: client.share(terms) for client in made.clients}
    inbox = {sender: sent[sender][0] for sender in range(1, boxes + 1)}
    vector = np.zeros(4 + CHECK, np.uint32)
    if boxes < 3:
        with pytest.raises(RefusalError, match=f"{boxes + 1} neighbours shared, 4 are needed"):
            made.clients[0].mask(terms.session, terms.model, inbox, vector)
        assert not vector.any(), "refused and left as it was"
    else:
        made.clients[0].mask(terms.session, terms.model, inbox, vector)
        assert vector.any()


# ---------------------------------------------------------------- survivors
def until_masked(
    made: Cohort, silent: int | None = None
) -> tuple[Terms, SecAggServer, dict[int, SecAggClient]]:
    """A sum in which every node but ``silent`` has shared and masked."""
    terms = made.terms(4)
    server = SecAggServer(terms, made.roster.members)
    clients = {client.member: client for client in made.clients if client.member != silent}
    for member, client in clients.items():
        server.shared(member, client.share(terms))
    for member in server.close_sharing():
        clients[member].mask(
            terms.session, terms.model, server.inbox(member), np.zeros(4 + CHECK, np.uint32)
        )
    return terms, server, clients


def test_a_survivor_must_have_shared_its_secrets(cohort: Make) -> None:
    terms, _, clients = until_masked(cohort(5), silent=4)
    with pytest.raises(RefusalError, match="never shared"):
        clients[0].confirm(terms.session, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("left", [5, 6])
def test_a_node_counts_the_survivors_against_its_own_limit(cohort: Make, left: int) -> None:
    """Seven take part and 5 are enough for the threshold, and 2 for the terms; this node asks for
    6."""
    made = cohort(7, Policy(min_nodes=6))
    terms, _, clients = until_masked(made)
    assert terms.threshold == 5 and terms.least == 2
    survivors = list(range(left))
    if left == 5:
        with pytest.raises(RefusalError, match="only 5 vectors in the sum"):
            clients[0].confirm(terms.session, survivors)
    else:
        assert clients[0].confirm(terms.session, survivors)


def test_shares_are_given_only_for_a_list_that_the_threshold_signed(cohort: Make) -> None:
    """t = 4 of 5: three signatures, or a fourth on another list, or one of somebody else, are not
    enough."""
    made = cohort(5)
    terms, _, clients = until_masked(made)
    everyone = [0, 1, 2, 3, 4]
    signatures = {member: clients[member].confirm(terms.session, everyone) for member in (0, 1, 2)}
    signatures[3] = clients[3].confirm(terms.session, [0, 1, 2, 3])
    with pytest.raises(RefusalError, match="3 valid signatures on the survivors, 4 are needed"):
        clients[0].unmask(terms.session, signatures)
    with pytest.raises(RefusalError, match="3 valid"):
        clients[1].unmask(terms.session, {**signatures, 3: signatures[2]})
    signatures[4] = clients[4].confirm(terms.session, everyone)
    assert is_signed(made.roster.members[4], signatures[4], b"") is False
    assert set(clients[2].unmask(terms.session, {m: signatures[m] for m in (0, 1, 2, 4)})) == set(
        everyone
    )


@settings(max_examples=12, deadline=None)
@given(
    first=st.sets(st.integers(0, 6), min_size=5),
    second=st.sets(st.integers(0, 6), min_size=5),
    seed=st.integers(0, 99),
)
def test_a_server_that_shows_two_lists_never_gets_both_secrets(
    tmp_path_factory: pytest.TempPathFactory, first: set[int], second: set[int], seed: int
) -> None:
    """Each node is shown one of two lists; whatever it then reveals, no peer's two secrets are both
    restorable."""
    made = Cohort(tmp_path_factory.mktemp("split"), 7)
    terms, _, clients = until_masked(made)
    lists = {member: sorted(first if (seed >> member) % 2 else second) for member in clients}
    signed: dict[int, bytes] = {}
    for member, client in clients.items():
        try:
            signed[member] = client.confirm(terms.session, lists[member])
        except RefusalError:
            continue
    kinds: dict[tuple[int, str], set[int]] = {}
    for member in signed:
        same = {
            other: signed[other]
            for other in signed
            if lists[other] == lists[member] and other in lists[member]
        }
        try:
            shares = clients[member].unmask(terms.session, same)
        except RefusalError:
            continue
        for peer in shares:
            kinds.setdefault((peer, "self" if peer in lists[member] else "pair"), set()).add(member)
    for peer in clients:
        both = [len(kinds.get((peer, kind), ())) >= terms.threshold for kind in ("self", "pair")]
        assert not all(both), f"both secrets of {peer}"
