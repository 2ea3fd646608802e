"""Secrets on a node's disk: each for as long as it is needed and no longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cohort import Cohort

from privacy.joint import CHECK
from privacy.secagg.messages import RefusalError
from privacy.secagg.primitives import SEED_BYTES
from privacy.secagg.server import SecAggServer

Make = Callable[..., Cohort]


def state_of(made: Cohort, member: int = 0) -> dict[str, Any]:
    with made.clients[member].vault.open() as state:
        return state


def test_after_masking_a_node_keeps_its_peers_shares_and_none_of_its_own_secrets(
    cohort: Make,
) -> None:
    """The seeds of its masks would take them off again; the keys of boxes would open them."""
    made = cohort(5)
    terms = made.terms(4)
    server = SecAggServer(terms, made.roster.members)
    for client in made.clients:
        server.shared(client.member, client.share(terms))
    shared = state_of(made)["session"]
    assert shared["stage"] == "shared" and len(shared["opening"]) == 4
    for secret in ("mask", "alone"):
        assert len(bytes.fromhex(shared[secret])) == SEED_BYTES
    assert list(shared["shares"]) == ["0"], "its own share, as a holder like any other"

    server.close_sharing()
    vector = np.zeros(4 + CHECK, np.uint32)
    made.clients[0].mask(terms.session, terms.model, server.inbox(0), vector)
    masked = state_of(made)["session"]
    assert masked["stage"] == "masked"
    assert (masked["opening"], masked["mask"], masked["alone"]) == ({}, "", "")
    assert sorted(masked["shares"]) == ["0", "1", "2", "3", "4"]
    with pytest.raises(RefusalError, match="at the stage 'masked'"):
        made.clients[0].mask(terms.session, terms.model, server.inbox(0), vector)


def test_one_time_keys_are_used_once_and_the_oldest_are_forgotten(cohort: Make) -> None:
    made = cohort(2)
    first, second = made.clients[0].advertise(2)
    assert first.serial != second.serial and first.mask != second.mask
    assert sorted(state_of(made)["prekeys"]) == sorted([str(first.serial), str(second.serial)])
    made.clients[0].advertise(1023)
    stock = state_of(made)["prekeys"]
    assert len(stock) == 1024 and str(first.serial) not in stock and str(second.serial) in stock
    for count in (0, 1025, -1):
        with pytest.raises(RefusalError, match="at most 1024"):
            made.clients[0].advertise(count)


def test_a_restarted_machine_drops_old_keys_once_and_keeps_new_ones(cohort: Make) -> None:
    made = cohort(2)
    made.clients[0].advertise(3)
    made.clients[0].vault._boot = "another boot"
    assert state_of(made)["prekeys"] == {}
    (fresh,) = made.clients[0].advertise(1)
    assert list(state_of(made)["prekeys"]) == [str(fresh.serial)]
    assert fresh.serial > 3, "a serial never comes back"


def test_members_of_an_odd_number_can_have_an_even_number_of_neighbours(cohort: Make) -> None:
    """An edge has two ends: an odd degree among an odd number is impossible, all else is not."""
    made = cohort(8)
    for count, degree, possible in ((7, 4, True), (7, 5, False), (7, 6, True), (8, 5, True)):
        terms = made.terms(4, degree=degree, members=list(range(count)))
        assert (terms.objection() == "") == possible
        if possible:
            ends = [len(near) for near in terms.graph.values()]
            assert ends == [degree] * count
