"""What a secure sum's messages show: nothing, and the same tests do catch the masks of published
toys."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from cohort import Cohort
from numpy.typing import NDArray
from scipy import stats

from privacy.attacks.secure_sum import simulate_secure_sum
from privacy.attacks.transcript import score_transcript
from privacy.joint import CHECK

D = 4000
RNG = np.random.default_rng(3)
SHAPES: dict[str, Callable[[int], NDArray[np.float64]]] = {
    "constant": lambda n: np.ones((n, D)) * 1e6,
    "sparse": lambda n: (RNG.random((n, D)) < 0.01) * 1e6,
    "one-hot": lambda n: np.eye(n, D) * 2e9,
    "gaussian": lambda n: RNG.normal(size=(n, D)) * 1e5,
    "equal": lambda n: np.tile(RNG.normal(size=D) * 1e8, (n, 1)),
}


def as_ring(values: NDArray[np.float64]) -> NDArray[np.uint32]:
    return np.rint(values).astype(np.int64).astype(np.uint32)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_uploads_of_two_hundred_sums_look_uniform_and_unrelated(
    cohort: Callable[..., Cohort], shape: str
) -> None:
    """40 sums of 5 uploads. One statistic beyond 5 deviations happens by chance in one of 500 runs
    of this test, two in one of a million; none is beyond 7, and a mask that leaks is far beyond."""
    made, beyond = cohort(5), []
    for _ in range(40):
        inputs = SHAPES[shape](5)
        made.run(made.terms(D), dict(enumerate(as_ring(inputs))))
        uploads = np.stack([made.uploads[m][:-CHECK] for m in range(5)])
        score = score_transcript(uploads, inputs)
        assert max(score.input_z, score.pair_z) < 7 and 1e-11 < score.bytes_p < 1 - 1e-11, score
        if score.leaks or score.bytes_p > 1 - 1e-6:
            beyond.append(score)
    assert len(beyond) < 2, beyond


def test_the_statistics_are_those_of_the_textbook() -> None:
    """Bytes against scipy's chi-square test, correlations against numpy's, whatever the scale of a
    row of inputs."""
    uploads = RNG.integers(0, 2**32, (3, D), dtype=np.uint32)
    inputs = RNG.normal(size=(3, D)) + np.array([[0.0], [5.0], [-3.0]])
    score = score_transcript(uploads, inputs)
    counts = np.bincount(uploads.view(np.uint8).ravel(), minlength=256)
    assert score.bytes_p == pytest.approx(stats.chisquare(counts).pvalue)
    seen = uploads.view(np.int32).astype(np.float64)
    own = [abs(np.corrcoef(seen[i], inputs[i])[0, 1]) for i in range(3)]
    pairs = np.abs(np.corrcoef(seen)[np.triu_indices(3, 1)])
    assert score.input_z == pytest.approx(max(own) * math.sqrt(D))
    assert score.pair_z == pytest.approx(max(pairs) * math.sqrt(D))
    scaled = score_transcript(uploads, inputs * np.array([[1e-6], [1.0], [1e6]]))
    assert scaled == pytest.approx(score)


def test_a_simulated_sum_hides_its_inputs_and_clips_them() -> None:
    """The vectors of norm 1/2 and 3 under a clip of 1: as they are, and cut to length 1."""
    vectors = RNG.normal(size=(4, D))
    vectors *= np.array([[0.5], [3.0], [1.0], [0.0]]) / np.linalg.norm(
        vectors, axis=1, keepdims=True
    )
    for clip in (1.0, 0.1):
        uploads, inputs = simulate_secure_sum(vectors, clip)
        lengths = np.minimum(np.array([0.5, 3.0, 1.0, 0.0]), clip) / clip
        assert np.linalg.norm(inputs, axis=1) == pytest.approx(lengths)
        assert np.einsum("nd,nd->n", inputs, vectors) == pytest.approx(
            lengths * np.array([0.5, 3.0, 1.0, 0.0])
        )
        assert uploads.shape == (4, D) and not score_transcript(uploads, inputs).leaks


def test_the_same_input_twice_gives_unrelated_uploads(cohort: Callable[..., Cohort]) -> None:
    made, inputs = cohort(5), SHAPES["gaussian"](5)
    seen = []
    for _ in range(2):
        made.run(made.terms(D), dict(enumerate(as_ring(inputs))))
        seen.append(made.uploads[0][:-CHECK])
    assert not score_transcript(np.stack(seen), inputs[:2]).leaks


def test_negative_control_small_masks_from_a_public_seed_leak() -> None:
    """Masks of standard deviation 1e-3 on unit-norm updates, as in the published PrivFedTalk
    code."""
    updates = RNG.normal(size=(10, D)) / np.sqrt(D)
    masks = np.random.default_rng(42).normal(scale=1e-3, size=(10, D))
    scale = 2.0**24
    assert score_transcript(as_ring((updates + masks) * scale), updates).leaks


def test_negative_control_anyone_can_take_off_a_mask_from_a_public_seed() -> None:
    """Uniform masks pass every statistic; if their seed is public, regenerating them still shows
    the input."""
    inputs = as_ring(SHAPES["gaussian"](5))
    masks = np.random.default_rng(42).integers(0, 2**32, inputs.shape, dtype=np.uint32)
    uploads = inputs + masks
    assert not score_transcript(uploads, inputs.view(np.int32).astype(float)).leaks
    taken_off = uploads - np.random.default_rng(42).integers(
        0, 2**32, inputs.shape, dtype=np.uint32
    )
    assert (taken_off == inputs).all()


def test_negative_control_masks_weighted_after_masking_do_not_cancel() -> None:
    """Pairwise masks that cancel in the plain sum spoil it as soon as the server weights the
    uploads unequally."""
    updates = RNG.normal(size=(10, D)) / np.sqrt(D)
    pair = np.triu(np.ones((10, 10)), 1)
    noise = RNG.normal(scale=0.01, size=(10, 10, D)) * pair[..., None]
    masks = noise.sum(axis=1) - noise.sum(axis=0)
    weights = RNG.dirichlet(np.ones(10))
    exact = weights @ updates
    error = np.linalg.norm(weights @ (updates + masks) - exact) / np.linalg.norm(exact)
    assert np.allclose((updates + masks).sum(0), updates.sum(0)) and error > 0.3
