"""SIREN's hand-written derivatives against automatic ones, and its initialisation against the
paper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.derivatives import Autograd
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.types import Batch, Derivatives


def problem(
    field: Siren, clients: int, samples: int, seed: int
) -> tuple[torch.Tensor, Batch, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    params = torch.stack([field.init(draw) for _ in range(clients)]).double()
    inputs = torch.rand(clients, samples, field.inputs, generator=draw, dtype=torch.float64) * 2 - 1
    targets = torch.rand(clients, samples, field.outputs, generator=draw, dtype=torch.float64)
    direction = torch.randn(params.shape, generator=draw, dtype=torch.float64)
    return params, Batch(inputs, targets), direction


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(1, 7)
)
def test_derivatives_equal_autograd(
    clients: int, depth: int, width: int, outputs: int, samples: int
) -> None:
    field = Siren(2, outputs, width, depth)
    params, batch, direction = problem(field, clients, samples, seed=depth * 100 + width)
    by_hand = SirenDerivatives(field).linearise(params, batch)
    automatic = Autograd(field.loss).linearise(params, batch)
    torch.testing.assert_close(by_hand.loss, automatic.loss)
    torch.testing.assert_close(by_hand.gradient, automatic.gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        by_hand.hvp(direction), automatic.hvp(direction), rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("derivatives", [SirenDerivatives, lambda field: Autograd(field.loss)])
def test_gradient_equals_finite_differences(derivatives: type) -> None:
    field = Siren(2, 1, 5, 2)
    params, batch, direction = problem(field, 1, 9, seed=3)
    oracle: Derivatives = derivatives(field)
    step = 1e-6
    forward, _ = oracle.gradient(params + step * direction, batch)
    backward, _ = oracle.gradient(params - step * direction, batch)
    _, gradient = oracle.gradient(params, batch)
    expected = (gradient * direction).sum(-1)
    torch.testing.assert_close((forward - backward) / (2 * step), expected, rtol=1e-5, atol=1e-7)


def test_one_client_is_a_slice_of_many() -> None:
    field = Siren(2, 3, 8, 2)
    params, batch, direction = problem(field, 4, 6, seed=1)
    oracle = SirenDerivatives(field)
    together = oracle.linearise(params, batch)
    product = together.hvp(direction)
    for c in range(4):
        alone = oracle.linearise(
            params[c : c + 1], Batch(batch.inputs[c : c + 1], batch.targets[c : c + 1])
        )
        torch.testing.assert_close(alone.gradient[0], together.gradient[c], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(
            alone.hvp(direction[c : c + 1])[0], product[c], rtol=1e-9, atol=1e-11
        )


def test_initialisation_bounds_and_activation_statistics() -> None:
    """Section 3.2: weights uniform in the stated bounds; pre-activations of hidden layers have unit
    variance."""
    field = Siren(2, 3, 256, 3)
    params = field.layout.unflatten(field.init(torch.Generator().manual_seed(0)))
    assert params["layers.0.weight"].abs().max() <= 1 / 2
    bound = math.sqrt(6 / 256) / 30
    for layer in (1, 2, 3):
        weight = params[f"layers.{layer}.weight"]
        assert bound * 0.97 < weight.abs().max() <= bound
    coordinates = torch.rand(1, 4096, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    activation = coordinates[0]
    for layer in (0, 1, 2):
        z = 30 * (activation @ params[f"layers.{layer}.weight"].T + params[f"layers.{layer}.bias"])
        activation = torch.sin(z)
        if layer:
            assert (
                0.7 < z.var().item() / (1 + 30**2 / (3 * 256)) < 1.3
            )  # unit variance plus that of the bias
    torch.testing.assert_close(
        field(field.layout.flatten(params)[None], coordinates)[0],
        activation @ params["layers.3.weight"].T + params["layers.3.bias"] + 0.5,
        rtol=1e-4,
        atol=1e-5,
    )


def test_biases_begin_in_the_bounds_that_are_asked_for() -> None:
    """U(+-1/sqrt(i)) as torch.nn.Linear, or those of their layer's weights; weights are the
    same."""
    stream = torch.Generator()
    ours, theirs = (
        Siren(2, 3, 256, 3, biases=biases).init(stream.manual_seed(1))
        for biases in ("linear", "weights")
    )
    layout = Siren(2, 3, 256, 3).layout
    one, other = layout.unflatten(ours), layout.unflatten(theirs)
    for layer in range(4):
        i = 2 if layer == 0 else 256
        bound = 1 / i if layer == 0 else math.sqrt(6 / i) / 30
        name = f"layers.{layer}.bias"
        assert float(one[name].abs().max()) <= 1 / math.sqrt(i)
        assert float(other[name].abs().max()) <= bound
        if layer in (1, 2):
            assert float(one[name].abs().max()) > 0.9 / math.sqrt(i)
            assert float(other[name].abs().max()) > 0.9 * bound
    assert torch.equal(one["layers.0.weight"], other["layers.0.weight"])
