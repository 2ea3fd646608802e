"""Inverting updates in closed form: where a field is linear in its parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from privacy.attacks.inversion import CONTRAST, invert_update

SIZE, VALUES = 20, 6  # parameters, and the values of a picture of two channels


def linear(seed: int = 0) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """f(w) = A w as a picture ``[3, 2]``, the matrix A ``[6, 20]`` of full rank, and w."""
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(VALUES, SIZE, generator=draw, dtype=torch.float64)
    model = torch.randn(SIZE, generator=draw, dtype=torch.float64) / 20
    return (lambda params: (matrix @ params).view(3, 2)), matrix, model


def test_the_residual_of_one_gradient_is_recovered_exactly_up_to_its_scale() -> None:
    """An update A^T r has one residual r, which six conjugate steps find; the picture is f(w) + c r
    at the middle of the way, with c > 0 and the contrast of a photograph."""
    forward, matrix, model = linear()
    residual = torch.tensor([0.3, -1.0, 0.2, 0.9, -0.5, 0.1], dtype=torch.float64)
    update = 0.01 * matrix.T @ residual
    found = invert_update(forward, model, update, iterations=VALUES)
    added = (found - forward(model + update / 2)).reshape(-1)
    scale = added @ residual / (residual @ residual)
    torch.testing.assert_close(added, scale * residual)
    assert float(scale) > 0 and float(found.std(correction=0)) == pytest.approx(CONTRAST)


def test_of_a_part_no_picture_explains_nothing_is_made() -> None:
    """A component of the update orthogonal to every gradient changes nothing but the middle."""
    forward, matrix, model = linear()
    update = 0.01 * matrix.T @ torch.ones(VALUES, dtype=torch.float64).cumsum(0)
    noise = torch.randn(SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise -= matrix.T @ torch.linalg.solve(matrix @ matrix.T, matrix @ noise)
    clean = invert_update(forward, model, update, iterations=VALUES)
    torch.testing.assert_close(invert_update(forward, model, update + noise, VALUES), clean)


def test_fewer_steps_leave_more_of_the_update_unexplained() -> None:
    """Early stopping is the regularisation: after k steps the normal equations are solved on a
    Krylov space of k dimensions, and the misfit falls with every one of them."""
    forward, matrix, model = linear()
    residual = torch.tensor([0.3, -1.0, 0.2, 0.9, -0.5, 0.1], dtype=torch.float64)
    update, misfits = 0.01 * matrix.T @ residual, []
    for steps in range(1, VALUES + 1):
        found = invert_update(forward, model, update, steps)
        added = (found - forward(model + update / 2)).reshape(-1)
        image = matrix.T @ added
        best = image @ update / (image @ image)  # the scale is not part of the answer
        misfits.append(float((best * image - update).norm() / update.norm()))
    assert misfits == sorted(misfits, reverse=True)
    assert misfits[0] > 0.05 and misfits[-1] < 1e-9


def test_no_update_shows_the_model_and_nothing_else() -> None:
    forward, _, model = linear()
    found = invert_update(forward, model, torch.zeros_like(model))
    torch.testing.assert_close(found, forward(model))


def test_an_update_that_is_not_finite_is_told_apart() -> None:
    forward, _, model = linear()
    found = invert_update(forward, model, torch.full_like(model, float("nan")))
    assert not torch.isfinite(found).all()


def test_where_no_scale_gives_the_contrast_the_residual_alone_gets_it() -> None:
    """The rendering has more contrast than a photograph, and a residual along it only adds."""
    forward, matrix, model = linear()
    model = 100 * model
    for length in (1e-3, 1e-5):
        values = forward(model).reshape(-1)
        update = length * matrix.T @ (values - values.mean())
        middle = forward(model + update / 2)
        found = invert_update(forward, model, update, iterations=VALUES)
        assert float(middle.std(correction=0)) > CONTRAST
        assert float((found - middle).std(correction=0)) == pytest.approx(CONTRAST)
