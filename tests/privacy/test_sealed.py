"""The Guarantee of sealed tables: shares reconstruct, what a holder gets is uniform, boxes hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from privacy.gradients import Bare, DecayingNoise, LabelNoise
from privacy.node_secret import Advert, Channel, NodeSecret, Peer, expand, holder_of
from privacy.sealed import (
    EASE,
    FEATURE_BITS,
    GRADIENT_BITS,
    KEPT,
    TABLE_BITS,
    Holder,
    Scaler,
    from_ring,
    in_ring,
    joined,
    measured_rate,
    whole_weights,
)
from privacy.secagg.identity import Roster
from privacy.secagg.messages import RefusalError
from privacy.secagg.primitives import SMALL_ORDER, public_bytes
from tasks.split_nerf.grids import Grid

GRID = Grid((3, 6), 4)
UNIT = 2.0**-FEATURE_BITS
SUSPICIOUS = 1e-4  # p-values below this do not come from uniform numbers


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(whole: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = expand(seed.to_bytes(16, "big"), whole.numel()).view(whole.shape)
    return whole - mask, mask


# ---------------------------------------------------------------------- correctness
@given(seed=st.integers(0, 999), steps=st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_shares_reconstruct_what_one_table_computes(seed: int, steps: int) -> None:
    """Table and features after some steps, against the same descent in floats."""
    stream = drawn(seed)
    start = torch.randn(GRID.rows, 4, generator=stream) * 0.1
    holders = Holder.first(GRID, start), Holder.second(GRID)
    table = start.double()
    visited = torch.zeros(GRID.rows, dtype=torch.float64)
    for step in range(steps):
        points = torch.rand(40, 3, generator=stream)
        visits = whole_weights(GRID.visit(points))
        gradient = torch.randn(40, 8, generator=stream) * 0.05
        for holder, share in zip(
            holders, shares(in_ring(gradient, GRADIENT_BITS), step + 1), strict=True
        ):
            holder.learn(visits, share)
        exact = GRID.visit(points)._replace(weights=visits.weights.double() / 2**12)
        visited = KEPT * visited + (1 - KEPT) * GRID.visited(exact).square()
        onto = GRID.pull_back(gradient.double(), exact)
        table = table - onto / (visited.sqrt() + EASE)[:, None]
    whole = from_ring(holders[0].share + holders[1].share, TABLE_BITS).double()
    # 8 bits of the preconditioner, of numbers up to 8, on steps of a few tenths
    assert torch.allclose(whole, table, atol=2.0**-8)
    visits = whole_weights(GRID.visit(torch.rand(30, 3, generator=stream)))
    features = joined(*(holder.embed(visits) for holder in holders))
    weights = visits._replace(weights=visits.weights.double() / 2**12)
    assert torch.allclose(features.double(), GRID.read(whole, weights), atol=3 * UNIT)


@given(
    numbers=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=50), seed=st.integers(1, 99)
)
def test_dropping_low_bits_of_shares_is_off_by_one_unit_at_most(
    numbers: list[int], seed: int
) -> None:
    """Whatever wraps around: against the number itself."""
    whole = torch.tensor(numbers)
    one, other = shares(whole, seed)
    sent = (one >> 32).to(torch.int32) + (other >> 32).to(torch.int32)
    wanted = (whole >> 32).to(torch.int32)
    apart = (wanted.long() - sent.long()) % 2**32
    assert bool((apart <= 1).all())


def test_the_ring_wraps_around() -> None:
    """All of it rests on arithmetic modulo 2^64, scatter included."""
    table = torch.full((GRID.rows, 4), 2**63 - 1)
    visits = whole_weights(GRID.visit(torch.rand(3, 3, generator=drawn(0))))
    found = GRID.read(table, visits)
    weights = [int(total) for total in visits.weights.sum(-1).T.flatten()]
    expected = [(w * (2**63 - 1) + 2**63) % 2**64 - 2**63 for w in weights]
    assert found[:, ::4].flatten().tolist() == expected
    pulled = GRID.pull_back(torch.full((3, 8), 2**63 - 1), visits)
    exact = np.zeros(GRID.rows, dtype=object)
    for level in range(2):
        for m in range(3):
            for row, weight in zip(visits.rows[level, m], visits.weights[level, m], strict=True):
                exact[int(row)] += int(weight) * (2**63 - 1)
    assert pulled[:, 0].tolist() == [(int(v) + 2**63) % 2**64 - 2**63 for v in exact]


# ---------------------------------------------------------------------- what a holder gets
def uniformity(words: torch.Tensor) -> float:
    """The smallest p-value of: bytes of every place (chi square), the value (Kolmogorov-Smirnov), a
    correlation between neighbours."""
    raw = words.contiguous().numpy().view(np.uint8).reshape(-1, 8)
    found = [chisquare(np.bincount(raw[:, place], minlength=256)).pvalue for place in range(8)]
    value = words.double().numpy() / 2.0**64 + 0.5
    found.append(kstest(value, "uniform").pvalue)
    z = abs(float(np.corrcoef(value[:-1], value[1:])[0, 1])) * len(value) ** 0.5
    found.append(float(torch.special.erfc(torch.tensor(z / 2**0.5))))
    return min(found)


def test_guarantee_a_holders_messages_are_uniform() -> None:
    """The share of a gradient of all zeros, of one of ones, of a real one: all alike. And an
    unmasked share is not."""
    count = 40_000
    secret = NodeSecret.simulated("uniform")
    real = in_ring(torch.randn(count, generator=drawn(1)) * 0.05, GRADIENT_BITS)
    for number, whole in enumerate((torch.zeros_like(real), torch.ones_like(real), real)):
        mask = expand(secret.bytes("share", number)[:16], count)
        assert uniformity(whole - mask) > SUSPICIOUS
        assert uniformity(mask) > SUSPICIOUS
    assert uniformity(real) < 1e-12, "negative control: the share without its mask"


def test_guarantee_masks_are_one_time() -> None:
    """Different gradients, steps, scenes, runs: different masks; the same one again: the same."""
    secret = NodeSecret.simulated("one time")
    seeds = {
        secret.bytes("split share", run, "sealed", seed, client, exchange, gradient)[:16]
        for run in ("a", "b")
        for seed in (0, 1)
        for client in (0, 1)
        for exchange in (1, 2)
        for gradient in ("x", "y")
    }
    assert len(seeds) == 32
    assert secret.bytes("a", 1) == secret.bytes("a", 1) != secret.bytes("a", "1")
    assert secret.bytes("a,b") != secret.bytes("a", "b")


def test_initial_weights_use_the_whole_secret() -> None:
    """Not a seed of torch's generator, of which 32 bits count: all of them can be tried."""
    same = [torch.Generator().manual_seed(seed) for seed in (7, 7 + 2**32)]
    one, two = (torch.rand(5, generator=stream) for stream in same)
    assert torch.equal(one, two), "why"
    secret = NodeSecret.simulated("weights")
    numbers = secret.uniform("head", 1)(100_000)
    assert torch.equal(numbers, secret.uniform("head", 1)(100_000))
    assert not torch.equal(numbers, secret.uniform("head", 2)(100_000))
    assert kstest(numbers.double().numpy(), "uniform").pvalue > SUSPICIOUS
    last = NodeSecret(secret.key[:-1] + bytes([secret.key[-1] ^ 1])).uniform("head", 1)(5)
    assert not torch.equal(numbers[:5], last)


def test_guarantee_pooling_breaks_it() -> None:
    """The condition that holders do not collude is one: both shares are the features."""
    holders = Holder.first(GRID, torch.randn(GRID.rows, 4, generator=drawn(2))), Holder.second(GRID)
    visits = whole_weights(GRID.visit(torch.rand(500, 3, generator=drawn(3))))
    whole = joined(*(holder.embed(visits) for holder in holders))
    table = from_ring(holders[0].share, TABLE_BITS)
    wanted = GRID.read(table, GRID.visit(torch.rand(500, 3, generator=drawn(3))))
    assert float(torch.corrcoef(torch.stack([whole.flatten(), wanted.flatten()]))[0, 1]) > 0.99


def test_the_clients_scale_stays_with_it_and_is_per_level() -> None:
    scaler = Scaler(2, 4.0)
    gradient = torch.randn(100, 8, generator=drawn(4))
    gradient[:, 4:] *= 1e-5
    found = from_ring(scaler.encode(gradient, 0.5), GRADIENT_BITS)
    sizes = found.view(100, 2, 4).square().mean((0, 2)).sqrt()
    assert torch.allclose(sizes, torch.full((2,), 0.01 * 4.0 * 0.5), rtol=1e-3)
    before = scaler.tensors()["scale.squares"]
    assert not scaler.encode(gradient * float("nan"), 1.0).any(), "no failure for a holder to see"
    assert torch.allclose(scaler.tensors()["scale.squares"], KEPT * before)
    assert measured_rate(1) > measured_rate(16)


# ---------------------------------------------------------------------- peers
def cohort(count: int) -> tuple[list[Ed25519PrivateKey], Roster]:
    keys = [Ed25519PrivateKey.generate() for _ in range(count)]
    members = {number: public_bytes(key) for number, key in enumerate(keys)}
    return keys, Roster(members, public_bytes(Ed25519PrivateKey.generate()))


def test_two_members_share_a_channel_that_nobody_else_opens() -> None:
    keys, roster = cohort(3)
    peers = [Peer(key, number, "run", roster) for number, key in enumerate(keys)]
    one = peers[0].channel(peers[1].advert, "split")
    two = peers[1].channel(peers[0].advert, "split")
    box = one.seal(b"text", "seed", 1)
    assert two.open(box, "seed", 1) == b"text"
    assert box == one.seal(b"text", "seed", 1), "a repeated request gets the same bits"
    assert box[:12] != one.seal(b"texu", "seed", 1)[:12], "no nonce twice"
    other = peers[2].channel(peers[0].advert, "split")
    for channel, about in ((other, ("seed", 1)), (two, ("seed", 2)), (two, ("seed", "1"))):
        with pytest.raises(RefusalError):
            channel.open(box, *about)
    changed = bytearray(box)
    changed[-1] ^= 1
    with pytest.raises(RefusalError):
        two.open(bytes(changed), "seed", 1)
    with pytest.raises(RefusalError):
        two.open(b"short", "seed", 1)


def test_guarantee_a_server_that_plays_the_second_holder_is_refused() -> None:
    keys, roster = cohort(3)
    client = Peer(keys[0], 0, "run", roster)
    own = Ed25519PrivateKey.generate()  # the server's, which is in no roster
    fake = Roster({**roster.members, 1: public_bytes(own)}, roster.server)
    server = Peer(own, 1, "run", fake)
    with pytest.raises(RefusalError, match="not its own"):
        client.channel(server.advert, "split")
    with pytest.raises(RefusalError, match="cannot be the peer"):
        client.channel(client.advert, "split")
    with pytest.raises(RefusalError, match="cannot be the peer"):
        client.channel(Advert(7, bytes(32), bytes(64)), "split")
    honest = Peer(keys[1], 1, "another run", roster).advert
    with pytest.raises(RefusalError, match="not its own"):
        client.channel(honest, "split")
    for order in SMALL_ORDER:
        small = Peer(keys[1], 1, "run", roster)
        public = order.to_bytes(32, "little")
        from privacy.node_secret import _signed_text

        signed = keys[1].sign(_signed_text("run", small.number, public))
        with pytest.raises(RefusalError):
            client.channel(Advert(1, public, signed), "split")
    with pytest.raises(RefusalError, match="roster"):
        Peer(keys[2], 0, "run", roster)


def test_the_second_holder_is_not_the_servers_to_choose() -> None:
    assert [holder_of(number, {4, 0, 9}) for number in (0, 4, 9)] == [4, 9, 0]
    with pytest.raises(RefusalError):
        holder_of(3, {0, 1})


# ---------------------------------------------------------------------- defences
def test_s2nerfs_noise_is_its_formula() -> None:
    """Deviation c M r^(t/T) with M the largest row norm, at the start, the middle and the end."""
    gradient = torch.zeros(20_000, 16)
    gradient[3] = 0.5  # norm 2
    defence = DecayingNoise(1.2, 1e-4)
    for progress, factor in ((0.0, 1.0), (0.5, 1e-2), (1.0, 1e-4), (2.0, 1e-4)):
        draws = NodeSecret.simulated("noise").draws(progress)
        noise = defence.protect(gradient, progress, draws) - gradient
        assert float(noise.std()) == pytest.approx(1.2 * 2 * factor, rel=0.01)
        assert abs(float(noise.mean())) < 0.02 * 1.2 * 2 * factor


def test_a_replayed_step_gives_the_same_noise_and_another_node_other_noise() -> None:
    gradient = torch.randn(50, 4, generator=drawn(5))

    def leaving(name: str, *purpose: object) -> torch.Tensor:
        draws = NodeSecret.simulated(name).draws(*purpose)
        return DecayingNoise().protect(gradient, 0.3, draws)

    assert torch.equal(leaving("a", 1, 2), leaving("a", 1, 2))
    assert not torch.equal(leaving("a", 1, 2), leaving("a", 1, 3))
    assert not torch.equal(leaving("a", 1, 2), leaving("b", 1, 2))


def test_label_noise_touches_targets_alone() -> None:
    colours, gradient = torch.rand(4000, 3, generator=drawn(6)), torch.ones(2, 2)
    draws = NodeSecret.simulated("labels").draws()
    assert float((LabelNoise(8.0).targets(colours, draws) - colours).std()) == pytest.approx(
        8, rel=0.05
    )
    assert LabelNoise(8.0).protect(gradient, 0.0, draws) is gradient
    assert Bare().targets(colours, draws) is colours


def test_channels_are_bound_to_what_they_are_for() -> None:
    one, other = Channel(bytes(32), 1, 2), Channel(bytes(32), 2, 1)
    assert one.seal(b"a", 1) != Channel(b"\x01" * 32, 1, 2).seal(b"a", 1)
    assert other.open(one.seal(b"a", 1), 1) == b"a"
    for opener, about in ((one, 1), (other, 2), (Channel(bytes(32), 3, 1), 1)):
        with pytest.raises(RefusalError, match="not the peer's"):  # sent back, of another step
            opener.open(one.seal(b"a", 1), about)
