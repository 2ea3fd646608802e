"""Low-rank adapters in the denoiser: cohorts, derivatives, averaging of factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from head_kit import CPU, batch_of, model_of, moved

from sim.bench.talking_head import Problem, agree, small
from tasks.settings import TalkingHeadSettings
from tasks.talking_head.adapters import PERSONAL, SHARED, Adapters, Grouped
from tasks.talking_head.backbone import Backbone, fresh
from tasks.talking_head.codec import PatchPCA
from tasks.talking_head.model import HeadModel, Noised


def test_our_gradient_is_that_of_a_plain_peft_loop() -> None:
    agree(Problem(small, 1, frames=2))


@pytest.mark.parametrize("both", [False, True])
def test_a_cohort_is_its_clients_one_by_one(
    tiny_backbone: Path, settings: dict[str, Any], both: bool
) -> None:
    model = model_of(tiny_backbone, **settings)
    params = moved(model, 3, both)
    batch = batch_of(model, 3)
    loss, gradient = model.gradient(params, batch)
    for client in range(3):
        alone = Noised(*(tensor[client : client + 1] for tensor in batch))
        one, slope = model.gradient(params[client : client + 1], alone)
        assert float(one) == pytest.approx(float(loss[client]), rel=1e-4)
        assert torch.allclose(
            slope[0], gradient[client], atol=1e-5 + 1e-3 * float(slope.abs().max())
        )


def test_fresh_adapters_change_nothing_and_moved_ones_do(
    tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    bare = Backbone.load(tiny_backbone)
    model = model_of(tiny_backbone, **settings)
    batch = batch_of(model, 1)
    inputs = [tensor[0] for tensor in (batch.sample, batch.reference, batch.mel, batch.steps)]
    start = torch.cat([model.adapters.start(SHARED), model.adapters.start(PERSONAL)])
    with torch.no_grad():
        expected = bare(*inputs)
        with model.adapters.worn(*model._split(start[None])):
            assert torch.allclose(model.backbone(*inputs), expected, atol=1e-6)
        with model.adapters.worn(*model._split(moved(model, 1, True))):
            assert not torch.allclose(model.backbone(*inputs), expected, atol=1e-3)


def test_checkpointing_gives_the_same_gradient(
    tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    plain = model_of(tiny_backbone, **settings)
    frugal = model_of(tiny_backbone, **settings, checkpointing=True)
    params = moved(plain, 2, True)
    batch = batch_of(plain, 2)
    assert torch.allclose(
        plain.gradient(params, batch)[1], frugal.gradient(params, batch)[1], atol=1e-6
    )


def test_half_precision_is_close(tiny_backbone: Path, settings: dict[str, Any]) -> None:
    full = model_of(tiny_backbone, **settings)
    half = model_of(tiny_backbone, **settings, precision="bfloat16")
    params = moved(full, 2, False)
    batch = batch_of(full, 2)
    a, b = full.gradient(params, batch)[1], half.gradient(params, batch)[1]
    assert 0 < float((a - b).norm() / a.norm()) < 0.1


def test_second_derivatives_are_those_of_the_gradient(
    tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    model = model_of(tiny_backbone, **settings | {"tdc": 0.0})
    params = moved(model, 1, False)
    batch = batch_of(model, 1)
    direction = torch.randn_like(params) / 30
    product = model.linearise(params, batch).hvp(direction)
    step = 0.05
    slope = (
        model.gradient(params + step * direction, batch)[1]
        - model.gradient(params - step * direction, batch)[1]
    ) / (2 * step)
    assert float((product - slope).norm() / slope.norm()) < 0.05


def test_averaging_one_factor_is_exact_and_two_are_not(
    tiny_backbone: Path, settings: dict[str, Any]
) -> None:
    """Relative to the round's change: a far larger adapter from earlier rounds makes the error no
    smaller."""
    for mode, exact in (("ffa", True), ("ab", False)):
        adapters = Adapters(Backbone.load(tiny_backbone), 2, 4, mode, 0)
        draw = torch.Generator().manual_seed(0)
        weights = torch.tensor([1.0, 2.0, 3.0])
        updates = torch.randn(3, adapters.shared.size, generator=draw)
        start = adapters.start(SHARED)
        error = adapters.aggregation_error(start, updates, weights)
        assert error < 1e-5 if exact else error > 0.1
        later = start + 3 * torch.randn(adapters.shared.size, generator=draw)
        found = adapters.aggregation_error(later, updates, weights)
        share = weights / weights.sum()
        mean = adapters.products((later + updates).mul(share[:, None]).sum(0, keepdim=True))
        wrong = change = 0.0
        for layer, each in adapters.products(later + updates).items():
            true = sum(w * product for w, product in zip(share, each, strict=True))
            wrong += float((mean[layer][0] - true).square().sum())
            change += float((true - adapters.products(later[None])[layer][0]).square().sum())
        assert found == pytest.approx((wrong / change) ** 0.5, rel=1e-4, abs=1e-6)


def test_alternating_moves_one_factor_a_round(tiny_backbone: Path) -> None:
    adapters = Adapters(Backbone.load(tiny_backbone), 2, 2, "alternating", 0)
    odd = adapters.frozen(1)
    even = adapters.frozen(2)
    assert odd is not None and even is not None and torch.equal(odd, ~even)
    names = adapters.shared.unflatten(odd)
    assert all(
        bool(rests.all()) == ("lora_A" in key) and bool(rests.any()) == ("lora_A" in key)
        for key, rests in names.items()
    )
    assert Adapters(Backbone.load(tiny_backbone), 2, 2, "ffa", 0).frozen(1) is None


def test_common_factors_come_from_the_seed(tiny_backbone: Path) -> None:
    one, same, other = (
        Adapters(Backbone.load(tiny_backbone), 2, 2, "ab", seed).start(SHARED) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_grouped_rows_belong_to_clients() -> None:
    weight = torch.randn(3, 5, 4)
    rows = torch.randn(6, 4)
    total = torch.randn(6, 5)
    found = Grouped(weight)(rows)
    added = Grouped(weight).add_to(total.clone(), rows, 0.5)
    for row in range(6):
        assert torch.allclose(found[row], rows[row] @ weight[row // 2].T, atol=1e-6)
        assert torch.allclose(
            added[row], total[row] + 0.5 * rows[row] @ weight[row // 2].T, atol=1e-6
        )


def test_our_forward_is_the_one_of_peft(tiny_backbone: Path) -> None:
    """Both adapters worn, alpha unlike r, B not 0: the layer with PEFT's own forward gives the same
    rows."""
    adapters = Adapters(Backbone.load(tiny_backbone), 2, 6, "ffa", 0)
    shared, personal = (
        torch.randn(1, layout.size) for layout in (adapters.shared, adapters.personal)
    )
    with adapters.worn(shared, personal):
        for layer in adapters._layers:
            rows = torch.randn(2, 3, layer.in_features)
            flat = rows.flatten(0, 1)
            theirs = type(layer).forward(layer, flat)
            assert layer.scaling[SHARED] == 3 and not torch.allclose(
                theirs, layer.base_layer(flat), atol=1e-3
            )
            assert torch.allclose(layer(rows).flatten(0, 1), theirs, atol=1e-5)


def test_the_motion_denoiser_trains_with_adapters_off_its_motion_modules(
    settings: dict[str, Any],
) -> None:
    backbone = fresh(PatchPCA(4, 6), "motion", (16, 32), {}).requires_grad_(False).eval()
    model = HeadModel(backbone, TalkingHeadSettings(**settings), CPU)
    assert model.backbone.motion and not any(
        "motion" in key for key, _, _ in model.adapters.shared.entries
    )
    batch = batch_of(model, 2)
    loss, gradient = model.gradient(moved(model, 2, False), batch)
    assert loss.shape == (2,) and torch.isfinite(gradient).all() and gradient.abs().max() > 0
