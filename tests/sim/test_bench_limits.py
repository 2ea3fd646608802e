"""Limits of the machine: what they count, and that doing more never takes less."""

from __future__ import annotations

import pytest
import torch

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
