"""Bounds, rounding and noise: what the accountant assumes is what the code does."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from privacy.entropy import LARGEST_NORMAL, Entropy
from privacy.joint import CHECK, JointVector, adapt_clip
from privacy.releases.central import CentralDP
from privacy.releases.distributed import DistributedDP
from privacy.releases.plain import Plain
from privacy.releases.secagg import SecAgg
from privacy.ring import HALF, add_rounded, levels, signed
from privacy.settings import PrivacySettings
from strategies.types import Bounds, Contribution, Payload, Scalar


def contribution(vector: np.ndarray, weight: np.ndarray | None = None) -> Contribution:
    weights = np.ones(len(vector)) if weight is None else weight
    return Contribution(
        torch.from_numpy(np.array(vector, np.float32)),
        torch.from_numpy(np.array(weights, np.float32)),
    )


# ---------------------------------------------------------------- M1: sensitivity
@settings(max_examples=60, deadline=None)
@given(
    vector=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.floats(width=32)
    ),
    clip=st.floats(1e-3, 1e3),
    weight=st.floats(width=32),
    value=st.floats(width=32),
    bit=st.booleans(),
)
def test_no_client_exceeds_its_bound(
    vector: np.ndarray, clip: float, weight: float, value: float, bit: bool
) -> None:
    """Also for NaN, infinite, huge, empty (zero) updates, any weight and any metric."""
    joint = JointVector(
        vector.shape[1], 1.0, 0.1 * bit, 0.1, {"m": Bounds(-1.0, 1.0)}, max_examples=10
    )
    given_ = contribution(vector, np.full(len(vector), weight))
    given_ = Contribution(
        given_.vector,
        given_.weight,
        {"m": Scalar(torch.full((len(vector),), value), Bounds(-1.0, 1.0))},
    )
    rows = joint.pack(given_, clip)
    assert (
        np.isfinite(rows).all()
        and (np.linalg.norm(rows, axis=1) <= joint.sensitivity * (1 + 1e-12)).all()
    )
    unsound = ~np.isfinite(vector).all(axis=1)
    assert (rows[unsound] == 0).all()
    count = levels(len(vector), 0.0)
    total = np.zeros(joint.length, np.uint32)
    for row in rows:
        assert add_rounded(total, row, count, Entropy()) <= count * joint.sensitivity + math.sqrt(
            joint.length
        )


def test_clients_are_clipped_one_by_one_also_inside_a_cohort() -> None:
    """Negative control: clipping the node's sum instead would let one client move it by the whole
    bound."""
    big, small = np.array([[100.0, 0.0]]), np.array([[0.0, 0.5]])
    joint = JointVector(2)
    rows = joint.pack(contribution(np.concatenate([big, small])), clip=1.0)
    assert np.allclose(rows, [[1.0, 0.0], [0.0, 0.5]])
    summed = joint.pack(contribution(big + small), clip=1.0)
    assert not np.allclose(summed[0], rows.sum(0), atol=0.1)


def test_one_clip_for_the_whole_vector_not_one_for_each_part() -> None:
    """Negative control: clipping k parts separately gives norm C sqrt(k)."""
    vector = np.full((1, 9), 5.0)
    assert np.linalg.norm(JointVector(9).pack(contribution(vector), 1.0)) == pytest.approx(1.0)
    parts = np.concatenate(
        [JointVector(3).pack(contribution(part), 1.0) for part in np.split(vector, 3, axis=1)], 1
    )
    assert np.linalg.norm(parts) == pytest.approx(math.sqrt(3))


# ---------------------------------------------------------------- M2: noise
def votes(check: object, times: int = 7) -> bool:
    """Majority: a test with p > 1e-4 fails by chance once in 10^4; four of seven do not."""
    return sum(check() for _ in range(times)) > times // 2  # type: ignore[operator]


def test_noise_is_standard_normal_and_white() -> None:
    n = 300_000

    def one() -> bool:
        x = Entropy().normal(n)
        lag = abs(float(np.corrcoef(x[:-1], x[1:])[0, 1])) * math.sqrt(n)
        half = abs(float(np.corrcoef(x[: n // 2], x[n // 2 :])[0, 1])) * math.sqrt(n / 2)
        fits = stats.kstest(x, "norm").pvalue > 1e-4 and abs(x.var() - 1) < 5 * math.sqrt(2 / n)
        return bool(fits and lag < 5 and half < 5 and np.abs(x).max() < LARGEST_NORMAL)

    assert votes(one)


def test_seeding_ordinary_generators_changes_nothing() -> None:
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        drawn.append(Entropy().normal(4))
    assert not np.allclose(*drawn)


@pytest.mark.parametrize("odd", [1, 2, 3, 65535, 65537, 131073])
def test_every_length_is_filled(odd: int) -> None:
    assert np.isfinite(Entropy().normal(odd)).all() and len(Entropy().normal(odd)) == odd


def test_distributed_shares_add_up_to_the_noise_that_is_accounted() -> None:
    """h = 6 honest nodes of 9, all 9 answer: variance (zS)^2 * 9/6; with exactly h it is (zS)^2."""
    release = DistributedDP(PrivacySettings(noise_multiplier=2.0, colluding=1), 40_000)
    public = release.open(9, 9.0, 9, 7)
    assert public["honest"] == 6
    shares = [release.close(None, public) for _ in range(9)]
    for count in (6, 9):
        total = shares[0].vector.clone()  # type: ignore[union-attr]
        for share in shares[1:count]:
            total += share.vector  # type: ignore[union-attr]
        real = signed(total.numpy().view(np.uint32)[:-CHECK]) / int(public["levels"])
        expected = 2.0 * math.sqrt(count / 6)
        assert real.std() == pytest.approx(expected, rel=5 / math.sqrt(2 * 40_000))
        assert (total.numpy()[-CHECK:] == 0).all()


def test_negative_control_noise_forgotten_is_visible_in_the_sum() -> None:
    settings_ = PrivacySettings(noise_multiplier=1.0)
    for release, forgotten in (
        (CentralDP(settings_, 20_000), False),
        (SecAgg(settings_, 20_000), True),
    ):
        public = release.open(4, 4.0, 4, 4)
        total = release.close(None, public)
        total.vector[20_000 : release.joint.length] = int(public["levels"])  # type: ignore[union-attr]
        spread = float(release.decode(total, public).mean.std()) * float(public["denominator"])  # type: ignore[arg-type]
        assert (spread < 0.5) == forgotten


def test_central_noise_has_the_accounted_deviation() -> None:
    release = CentralDP(PrivacySettings(noise_multiplier=1.5, clip_norm=3.0), 50_000)
    public = release.open(10, 10.0, 1, 1)
    mean = release.decode(release.close(None, public), public).mean  # type: ignore[arg-type]
    assert float(mean.std()) == pytest.approx(1.5 * 3.0 / 10, rel=5 / math.sqrt(2 * 50_000))


@pytest.mark.parametrize(("kind", "honest"), [(CentralDP, 1), (DistributedDP, 6)])
def test_noise_is_scaled_to_the_largest_rounded_vector_with_all_its_blocks(
    monkeypatch: pytest.MonkeyPatch, kind: type[CentralDP | DistributedDP], honest: int
) -> None:
    """z (K S + sqrt(D)) with S^2 = 1 + rho_b^2 + 20 rho_m^2: a clip bit, twenty metrics, and what
    rounding adds.

    Each of 6 honest nodes (7 must be in the sum, one is hostile) adds its share of the variance.
    With ten thousand clients K is small enough for sqrt(D) to show.
    """
    asked: list[tuple[int, float]] = []

    def record(self: Entropy, count: int, deviation: float) -> np.ndarray:
        asked.append((count, deviation))
        return np.zeros(count, np.int64)

    monkeypatch.setattr(Entropy, "integer_noise", record)
    metrics = json.dumps({f"m{index}": [0, 1] for index in range(20)})
    release = kind(PrivacySettings(noise_multiplier=1.5, adaptive_clip=True, metrics=metrics), 300)
    public = release.open(10_000, 10_000.0, 9, 7)
    release.decode(release.close(None, public), public)  # type: ignore[arg-type]
    length, sensitivity = 300 + 1 + 20, math.sqrt(1 + 0.1**2 + 20 * 0.1**2)
    deviation = 1.5 * (int(public["levels"]) * sensitivity + math.sqrt(length)) / math.sqrt(honest)
    assert [count for count, _ in asked] == [length]
    assert asked[0][1] == pytest.approx(deviation, rel=1e-9)


# ---------------------------------------------------------------- M3: rounding, reductions
def test_what_is_released_is_a_function_of_the_noised_integer_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two sums whose noised integers agree give the same bits: their difference went into the
    noise, not beside it.

    (Sum and noise rounded to reals apart and then added differ in a third of all cases.)
    """
    release = CentralDP(
        PrivacySettings(noise_multiplier=1.0, clip_norm=1.0, metrics='{"loss": [0, 1]}'), 3
    )
    public = release.open(3, 3, 1, 1)
    draw = np.random.default_rng(0)
    for _ in range(50):
        first, second = (draw.integers(-(10**8), 10**8, release.joint.length) for _ in range(2))
        noised = first + draw.integers(-(10**8), 10**8, release.joint.length)
        found = []
        for total in (first, second):
            monkeypatch.setattr(
                Entropy, "integer_noise", lambda self, count, deviation, noise=noised - total: noise
            )
            vector = np.append(total, np.zeros(CHECK, np.int64)).astype(np.int32)
            found.append(release.decode(Payload(torch.from_numpy(vector), 0.0, {}, 3), public))
        assert (
            torch.equal(found[0].mean, found[1].mean) and found[0].scalars == found[1].scalars != {}
        )


def test_rounding_is_unbiased() -> None:
    value, n = 0.30001, 200_000
    total = np.zeros(n, np.uint32)
    add_rounded(total, np.full(n, value), 2, Entropy())  # 0.60002 quanta
    share = float((total == 1).mean())
    assert set(np.unique(total)) == {0, 1} and abs(share - 0.60002) < 5 * math.sqrt(0.24 / n)


@pytest.mark.parametrize("clients", [1, 7])
def test_secagg_is_plain_up_to_the_quantum(clients: int) -> None:
    rng = np.random.default_rng(0)
    vector, weight = rng.normal(size=(clients, 300)) * 0.01, rng.integers(1, 50, clients)
    given_ = contribution(vector, weight)
    plain = Plain()
    expected = plain.decode(plain.encode(given_, {}), {}).mean
    release = SecAgg(PrivacySettings(clip_norm=10.0, max_examples=50), 300)
    public = release.open(clients, clients, clients, clients)
    found = release.decode(release.close(release.encode(given_, public), public), public)  # type: ignore[arg-type]
    quantum = 10.0 / int(public["levels"]) * 50 / weight.sum() * clients
    assert float((found.mean - expected).abs().max()) < quantum * 1.01 + 1e-9
    assert found.weight * 50 == pytest.approx(weight.sum(), rel=1e-6)


def test_central_dp_without_noise_and_clip_is_plain() -> None:
    rng = np.random.default_rng(1)
    given_ = contribution(rng.normal(size=(5, 200)))
    # the least noise that is allowed: of deviation 1e-6 * 100 / 5 in the mean, ten of which pass
    release = CentralDP(PrivacySettings(clip_norm=100.0, noise_multiplier=1e-6), 200)
    public = release.open(5, 5.0, 1, 1)
    found = release.decode(release.close(release.encode(given_, public), public), public).mean  # type: ignore[arg-type]
    assert torch.allclose(found, given_.vector.mean(0), atol=100.0 / int(public["levels"]) + 2e-4)


@given(clients=st.integers(1, 10_000), noise=st.floats(0, 1e4))
def test_sums_cannot_wrap(clients: int, noise: float) -> None:
    count = levels(clients, noise)
    assert clients * (count + 1) + LARGEST_NORMAL * noise * count < HALF + clients


def test_metrics_travel_inside_the_sum_with_their_range() -> None:
    release = SecAgg(PrivacySettings(metrics='{"objective": [0, 2]}'), 3)
    objective = torch.tensor(
        [0.5, 1.5, 9.0, float("nan")]
    )  # clamped to 2, and the middle for not-a-number
    given_ = contribution(np.zeros((4, 3)))
    given_ = Contribution(
        given_.vector, given_.weight, {"metric.objective": Scalar(objective, Bounds(0.0, 2.0))}
    )
    public = release.open(4, 4.0, 4, 4)
    found = release.decode(release.close(release.encode(given_, public), public), public)  # type: ignore[arg-type]
    assert found.scalars["metric.objective"] / found.count == pytest.approx(
        (0.5 + 1.5 + 2.0 + 1.0) / 4, abs=1e-5
    )


def test_a_metric_whose_range_starts_above_zero_is_moved_back_for_each_client() -> None:
    """In a sum of three there are three times the low end: 2.5, 3.5 and 3.0 from [2, 4] are 9."""
    release = SecAgg(PrivacySettings(metrics='{"loss": [2, 4]}'), 3)
    given_ = contribution(np.zeros((3, 3)))
    loss = Scalar(torch.tensor([2.5, 3.5, 3.0]), Bounds(2.0, 4.0))
    given_ = Contribution(given_.vector, given_.weight, {"metric.loss": loss})
    public = release.open(3, 3.0, 3, 3)
    found = release.decode(release.close(release.encode(given_, public), public), public)  # type: ignore[arg-type]
    assert found.scalars["metric.loss"] == pytest.approx(9.0, abs=1e-5) and found.count == 3


# ---------------------------------------------------------------- M4: adaptive clipping
@pytest.mark.parametrize("start", [0.1, 10.0])
def test_the_clip_moves_to_the_median_norm(start: float) -> None:
    """Norms log-normal with median 1. Starting far below it C must grow: the sign that flwr 1.41
    has wrong."""
    rng, clip = np.random.default_rng(0), start
    for _ in range(60):
        norms = np.exp(rng.normal(scale=0.5, size=100))
        clip = adapt_clip(clip, float((norms <= clip).mean()), 0.5, 0.2, start)
    assert clip == pytest.approx(1.0, rel=0.15)


def test_the_release_adapts_from_the_noisy_clip_bit() -> None:
    release = CentralDP(PrivacySettings(adaptive_clip=True, clip_norm=0.1, noise_multiplier=0.5), 4)
    rng = np.random.default_rng(0)
    for _ in range(40):
        public = release.open(50, 50.0, 1, 1)
        vector = rng.normal(size=(50, 4))
        vector /= np.linalg.norm(vector, axis=1, keepdims=True)
        vector *= np.exp(rng.normal(scale=0.5, size=(50, 1)))
        release.decode(release.close(release.encode(contribution(vector), public), public), public)  # type: ignore[arg-type]
    assert 0.6 < release.state["clip"] < 1.6


def test_all_blocks_cost_one_event() -> None:
    """sum of (rho_i/(zS))^2 over the blocks is z^-2: weights and clip bit are inside the one
    charge."""
    joint = JointVector(
        10,
        rho_weight=1.0,
        rho_bit=0.1,
        rho_scalar=0.1,
        ranges={"a": Bounds(0, 1), "b": Bounds(0, 1)},
    )
    z, s = 1.3, joint.sensitivity
    rhos = [1.0, joint.rho_weight, joint.rho_bit, *[joint.rho_scalar] * 2]
    assert sum((rho / (z * s)) ** 2 for rho in rhos) == pytest.approx(z**-2)
