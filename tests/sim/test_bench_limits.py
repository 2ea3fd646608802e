"""Limits of the machine: counts against counts by hand, units, and back passes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sim.bench.limits import (
    Work,
    chunks,
    keystream_rate,
    operations,
    prefixed,
    products,
    read_rate,
    reading,
)
from sim.bench.rounds import bare_reading
from sim.bench.secagg_case import Case
from sim.bench.secagg_limit import Rates, client_limit, rates, server_limit
from sim.bench.talking_head_limit import _back, frozen_layers
from sim.bench.timing import interleaved, median_seconds
from tasks.fields.siren import Siren


def test_a_cohort_is_cut_as_the_trainer_cuts_it() -> None:
    assert [chunk.clients for chunk in chunks(10, 4, [1])] == [4, 4, 2]
    assert [chunk.clients for chunk in chunks(3, 4, [1])] == [3]


def test_products_count_every_layer_of_every_step() -> None:
    """Two layers, one inner step and the query, by hand: 2 x 2 + 3 x 3 products in the step, 2 + 3
    in the query."""
    field = Siren(2, 3, 4, 1)  # 2 -> 4 -> 3
    work = products(field.network, chunks(5, 5, [7, 7]))
    first = 2 * 5 * 7 * 2 * 4
    second = 2 * 5 * 7 * 4 * 3
    assert work.amount == (2 * 2 + 2) * first + (3 * 3 + 3) * second
    work.run()


def test_batches_may_differ_in_size() -> None:
    field = Siren(2, 3, 4, 1)
    whole = products(field.network, chunks(2, 2, [8, 8])).amount
    assert products(field.network, chunks(2, 2, [4, 4])).amount == whole / 2


def test_reading_counts_bytes_where_rows_repeat() -> None:
    buffer = torch.zeros(3, 10)
    assert reading([buffer, buffer[:1]]).amount == 160
    assert bare_reading(1000, 100).amount == 1000 * 100 * 4, "every client's update once"


def test_a_limit_says_what_it_is_made_of() -> None:
    found = Work(lambda: None, 2e9, "FLOP of products").limit(0.5, scale=1e3)
    assert found == (500.0, "2 GFLOP of products at 4 GFLOP/s")
    assert prefixed(12.0) == "12 "


def test_functions_are_timed_in_turn() -> None:
    order: list[str] = []
    best = interleaved(
        lambda: order.append("a"), lambda: order.append("b"), repeats=2, wall=True, unheeded=1
    )
    assert order == ["a", "b"] * 3 and len(best) == 2 and all(0 < time < 1 for time in best)


def test_rates_are_rates() -> None:
    """Loose bounds that any machine meets and a slipped unit does not."""
    assert 1e7 < keystream_rate(bytes(16), 1) < 1e12
    assert 1e7 < read_rate(1 << 20) < 1e13
    assert all(1e-7 < seconds < 1e-1 for seconds in operations())
    small = reading([torch.zeros(1000)])
    large = reading([torch.zeros(1_000_000)])
    assert median_seconds(small.run) < median_seconds(large.run)


def test_a_secure_sum_needs_at_least_its_masks() -> None:
    """At rates of one, limits are counts: bytes and operations of the case."""
    case = Case(nodes=10, gone=1, degree=9, threshold=7, size=1000)
    free = Rates(1e30, 1e30, 1e30, operations()._replace(check=0, agreement=0, pair=0, signature=0))
    masks_alone = free._replace(masks=1.0)
    length = round(client_limit(case, masks_alone).value / 4 / 10)
    assert length > case.size, "the check block is masked too"
    assert client_limit(case, masks_alone).value == pytest.approx(4 * length * (9 + 1))
    assert server_limit(case, masks_alone).value == pytest.approx(4 * length * (9 + 9))
    assert server_limit(case, free._replace(read=1.0)).value == pytest.approx(4 * length * 9)
    checks = free._replace(each=free.each._replace(check=1.0))
    assert client_limit(case, checks).value == pytest.approx(9 + 7 - 1)
    assert server_limit(case, checks).value == pytest.approx(9)
    agreements = free._replace(each=free.each._replace(agreement=1.0))
    assert client_limit(case, agreements).value == pytest.approx(2 * 9)
    assert server_limit(case, agreements).value == pytest.approx(9)
    found = rates(case)
    best = found.better(found._replace(masks=1.0, read=1e30, each=checks.each))
    assert best.masks == found.masks > 1e6 and best.read == 1e30, "the larger rate"
    assert best.each.check == found.each.check and best.each.pair == 0, "the fewer seconds"


def test_frozen_layers_count_back_passes_behind_the_first_adapter_alone() -> None:
    """A convolution in front of all adapters needs no derivative, a linear layer behind one
    does."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.PReLU(), nn.Linear(8, 5))
    net[0].requires_grad_(False)
    net[3].requires_grad_(False)
    picture = torch.rand(3, 1, 4, 4)
    problem = SimpleNamespace(
        ours=SimpleNamespace(
            backbone=SimpleNamespace(unet=net), gradient=lambda _, batch: net(batch)
        ),
        point=None,
        draws=SimpleNamespace(batch=lambda *_: picture),
    )
    work = frozen_layers(problem)  # type: ignore[arg-type]
    convolution = 2 * (3 * 2 * 2 * 2) * 9
    linear = 2 * (3 * 5) * 8
    assert work.amount == convolution + 2 * linear
    work.run()
    assert not net[0]._forward_hooks and not net[3]._forward_hooks


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 2, 6, 6)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), (1, 4, 5, 5)),
        (nn.Linear(3, 4), (2, 5, 3)),
    ],
)
def test_the_back_pass_is_autograds(layer: nn.Conv2d | nn.Linear, shape: tuple[int, ...]) -> None:
    inputs = torch.rand(shape, requires_grad=True)
    output = layer(inputs)
    delta = torch.rand_like(output)
    (expected,) = torch.autograd.grad(output, inputs, delta)
    with torch.no_grad():
        torch.testing.assert_close(_back(layer, inputs, delta), expected)
