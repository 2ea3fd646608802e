"""Public numbers of a private round that a node accepts from a server, and those it refuses."""

from __future__ import annotations

import pytest

from privacy.flower.rounds import graph_of
from privacy.releases.central import CentralDP
from privacy.releases.distributed import DistributedDP
from privacy.releases.lattice import LatticeRelease
from privacy.releases.plain import Plain
from privacy.releases.secagg import SecAgg
from privacy.secagg.graph import dropouts, harary
from privacy.settings import PrivacySettings
from strategies.release import Release

NODES, LEAST = 9, 7  # members of the round, and how many of them must be in the sum
PRIVATE = [SecAgg, CentralDP, DistributedDP]


def opened(
    kind: type[LatticeRelease], **changes: float
) -> tuple[LatticeRelease, dict[str, object]]:
    """A release, and the numbers an honest server opens a round of ``NODES`` with."""
    release = kind(PrivacySettings(noise_multiplier=1.0, **changes), 50)  # type: ignore[arg-type]
    return release, dict(release.open(NODES, float(NODES), NODES, LEAST))


@pytest.mark.parametrize("kind", PRIVATE)
def test_the_numbers_of_an_honest_server_are_accepted(kind: type[LatticeRelease]) -> None:
    release, public = opened(kind)
    assert release.objection(public, NODES, LEAST, 0) == ""


@pytest.mark.parametrize("colluding", range(9))
def test_a_node_counts_honest_noise_with_its_own_number_of_hostile_nodes(colluding: int) -> None:
    """A server that counts on one hostile node opens with h = 7 - 1 = 6. Whoever fears two counts
    five, and too little noise would be added; server noise does not depend on honest nodes."""
    assert opened(DistributedDP)[1]["honest"] == 6
    release, public = opened(DistributedDP)
    refused = release.objection(public, NODES, LEAST, colluding)
    assert ("noise counted on 6 honest nodes" in refused) == (colluding > 1)
    assert bool(refused) == (colluding > 1)
    for kind in (SecAgg, CentralDP):
        release, public = opened(kind)
        assert release.objection(public, NODES, LEAST, colluding) == ""


@pytest.mark.parametrize("kind", PRIVATE)
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("clip", 0.0, "clip norm"),
        ("clip", 5e-324, "clip norm"),
        ("clip", 2.0, "clip norm"),
        ("clip", -1.0, "clip norm"),
        ("clip", float("inf"), "clip norm"),
        ("clip", float("nan"), "clip norm"),
        ("denominator", float("inf"), "denominator"),
        ("denominator", float("nan"), "denominator"),
        ("clients", 0, "are not those|out of its range"),
        ("levels", 2**20, "are not those"),
        ("nodes", NODES + 1, "are not those"),
        ("honest", 1, "are not those"),
        ("multiplier", 0.5, "are not those"),
        ("placement", "elsewhere", "are not those"),
    ],
)
def test_each_public_number_that_does_not_follow_is_refused(
    kind: type[LatticeRelease], name: str, value: object, words: str
) -> None:
    release, public = opened(kind)
    found = release.objection(public | {name: value}, NODES, LEAST, 0)
    assert any(part in found for part in words.split("|")), found
    missing = {key: number for key, number in public.items() if key != name}
    assert release.objection(missing, NODES, LEAST, 0)


# ---------------------------------------------------------------- who masks with whom
@pytest.mark.parametrize(
    ("nodes", "graph", "kind", "complete"),
    [
        (100, "auto", SecAgg, True),
        (101, "auto", SecAgg, False),
        (150, "auto", CentralDP, False),
        (150, "auto", DistributedDP, True),
        (150, "complete", SecAgg, True),
        (100, "harary", SecAgg, False),
        (150, "auto", None, False),
    ],
)
def test_above_a_hundred_nodes_only_noise_of_the_nodes_needs_everybody(
    nodes: int, graph: str, kind: type[LatticeRelease] | None, complete: bool
) -> None:
    """Shares of distributed noise are counted over one connected sum: the graph is complete, with
    the default threshold floor(2n/3) + 1, and else the k-regular one of (n, 3 hostile)."""
    settings = PrivacySettings(graph=graph, colluding=3)  # type: ignore[arg-type]
    release: Release = Plain() if kind is None else kind(settings, 50)
    majority = 2 * nodes // 3 + 1
    degree, threshold = harary(nodes, 3, dropouts(nodes))
    assert degree < nodes - 1, "else there is nothing to tell apart"
    # an exact sum is of everybody
    least = nodes if kind is SecAgg else majority
    expected = (nodes - 1, majority, least) if complete else (degree, threshold, least)
    assert graph_of(nodes, settings, release) == expected


def test_as_many_vectors_remain_as_nodes_insist_on_and_a_threshold_can_be_given() -> None:
    """Among four the default threshold is 3, but a node with the default policy wants five."""
    settings = PrivacySettings()
    assert graph_of(4, settings, SecAgg(settings, 50)) == (3, 3, 5)
    assert graph_of(4, settings, DistributedDP(settings, 50)) == (3, 3, 5)
    settings = PrivacySettings(threshold=8)
    assert graph_of(9, settings, DistributedDP(settings, 50)) == (8, 8, 8)
    assert graph_of(9, settings, SecAgg(settings, 50)) == (8, 8, 9)
    assert graph_of(1, settings, SecAgg(settings, 50)).degree == 1
