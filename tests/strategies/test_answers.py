"""Answers of nodes that count or weigh wrongly are refused before they reach the model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from strategies.cohort import Assignment, CohortResult
from strategies.flower.wire import (
    Order,
    pack_answer,
    pack_broadcast,
    pack_order,
    pack_sum,
    unpack_answer,
    unpack_order,
    unpack_sum,
)
from strategies.types import Bounds, Broadcast, Payload
from tasks.errors import ReplyError

METRICS = ("loss", "psnr_p")
ORDER = Order("s", "maml", Assignment(3, 1, (4, 7, 9), (0, 2, 1)), False, False, "/state")


def answer(count: int, weight: float, clients: tuple[int, ...] = (4, 9)) -> RecordDict:
    """A sum said to be over ``count`` clients, in a message that lists ``clients``."""
    payload = Payload(torch.ones(6), weight, {}, count)
    return pack_answer(CohortResult(payload, list(clients)), ORDER)


def test_an_honest_answer_is_taken_as_it_is() -> None:
    payload = unpack_answer(answer(2, 2.5), ORDER, 6, {}, METRICS).result.payload
    assert payload is not None and (payload.count, payload.weight) == (2, 2.5)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_sum_over_more_or_fewer_clients_than_listed_is_refused(count: int) -> None:
    """The weight is fine: the count alone has to be enough."""
    with pytest.raises(ReplyError, match=f"over {count} clients, but lists 2"):
        unpack_answer(answer(count, 2.5), ORDER, 6, {}, METRICS)


@pytest.mark.parametrize("weight", [0.0, -2.5, math.inf, -math.inf, math.nan])
def test_a_weight_nobody_can_divide_by_is_refused(weight: float) -> None:
    """The count is fine. A mean over weight zero is NaN, and one over less turns the step round."""
    with pytest.raises(ReplyError, match="claims weight"):
        unpack_answer(answer(2, weight), ORDER, 6, {}, METRICS)


def test_a_client_counted_twice_is_refused() -> None:
    with pytest.raises(ReplyError, match="some of them twice"):
        unpack_answer(answer(2, 2.5, (4, 4)), ORDER, 6, {}, METRICS)


@pytest.mark.parametrize("lists", [([4], []), ([], ["gone"]), ([4, 7], ["gone"])])
def test_every_failure_has_a_reason_and_every_reason_a_client(
    lists: tuple[list[int], list[str]],
) -> None:
    content = answer(1, 2.5, (9,))
    content["failures"] = ConfigRecord({"ids": lists[0], "reasons": lists[1]})
    with pytest.raises(ReplyError, match="malformed"):
        unpack_answer(content, ORDER, 6, {}, METRICS)


def test_metrics_are_one_number_a_client() -> None:
    result = CohortResult(Payload(torch.ones(6), 2.5, {}, 2), [4, 9], {}, {"loss": [0.5]})
    with pytest.raises(ReplyError, match="loss"):
        unpack_answer(pack_answer(result, ORDER), ORDER, 6, {}, METRICS)


# ---------------------------------------------------------------- scalars beside the sum
@pytest.mark.parametrize(
    ("bounds", "value", "fits"),
    [
        (Bounds(0.0, 10.0), 20.0, True),  # two clients, at most 10 each
        (Bounds(0.0, 10.0), 20.1, False),
        (Bounds(0.0, 10.0, weighted=True), 25.0, True),  # weight 2.5 times at most 10
        (Bounds(0.0, 10.0, weighted=True), 25.1, False),
        (Bounds(1.0, 10.0), 2.0, True),
        (Bounds(1.0, 10.0), 1.9, False),
        (Bounds(1.0, 10.0, weighted=True), 2.5, True),
        (Bounds(1.0, 10.0, weighted=True), 2.4, False),
        (Bounds(0.0, 1.0, clip_power=2), 1e6, True),  # in units of a clip nobody made
        (Bounds(0.0, 1.0, clip_power=2), -0.1, False),
        (Bounds(0.0, 1.0, clip_power=2), math.inf, False),
        (Bounds(0.0, 1.0), math.nan, False),
    ],
)
def test_a_sum_of_scalars_lies_between_what_its_clients_can_give(
    bounds: Bounds, value: float, fits: bool
) -> None:
    payload = Payload(torch.ones(6), 2.5, {"steps": value}, 2)
    content = pack_answer(CohortResult(payload, [4, 9]), ORDER)
    if fits:
        found = unpack_answer(content, ORDER, 6, {"steps": bounds}, METRICS).result.payload
        assert found is not None and found.scalars == {"steps": value}
    else:
        with pytest.raises(ReplyError, match="which 2 clients cannot give"):
            unpack_answer(content, ORDER, 6, {"steps": bounds}, METRICS)


# ---------------------------------------------------------------- private sums
def test_a_private_answer_is_its_vector_over_all_clients_of_the_order() -> None:
    """It says nothing of them: whoever was asked to train is counted, and no weight is told."""
    vector = torch.tensor([1, -2, 3, 2**31 - 1, -(2**31), 0], dtype=torch.int32)
    found = unpack_sum(pack_sum(vector, ORDER), ORDER, 6)
    payload = found.result.payload
    assert payload is not None and torch.equal(payload.vector, vector)
    assert (payload.weight, payload.scalars, payload.count) == (0.0, {}, 3)
    assert found.result.clients == [4, 7, 9] and not found.result.failures
    assert found.bytes_up > 6 * 4


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (torch.zeros(5, dtype=torch.int32), "expected int32"),
        (torch.zeros(7, dtype=torch.int32), "expected int32"),
        (torch.zeros(2, 3, dtype=torch.int32), "expected int32"),
        (torch.zeros(6, dtype=torch.int64), "expected int32"),
        (torch.zeros(6), "expected int32"),
    ],
)
def test_a_private_answer_of_another_shape_or_type_is_refused(
    vector: torch.Tensor, words: str
) -> None:
    with pytest.raises(ReplyError, match=words):
        unpack_sum(pack_sum(vector, ORDER), ORDER, 6)


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize(
    "other",
    [
        replace(ORDER, session="other"),
        replace(ORDER, assignment=replace(ORDER.assignment, round=4)),
    ],
    ids=["session", "round"],
)
def test_an_answer_to_another_round_or_session_is_refused(private: bool, other: Order) -> None:
    payload = Payload(torch.ones(6), 2.5, {}, 2)
    content = (
        pack_sum(torch.zeros(6, dtype=torch.int32), other)
        if private
        else pack_answer(CohortResult(payload, [4, 9]), other)
    )
    with pytest.raises(ReplyError, match="not this one"):
        unpack_sum(content, ORDER, 6) if private else unpack_answer(content, ORDER, 6, {}, METRICS)


# ---------------------------------------------------------------- orders and pictures
@pytest.mark.parametrize("inspect", [True, False])
@pytest.mark.parametrize("pictures", [True, False])
def test_an_order_says_what_to_look_at(inspect: bool, pictures: bool) -> None:
    order = replace(ORDER, inspect=inspect, pictures=pictures, run="run-7", pins='{"a": 1}')
    received = Broadcast(torch.arange(3.0), {"control": torch.ones(2)}, 3)
    found, broadcast = unpack_order(pack_order(order, pack_broadcast(received), "print", "/code"))
    assert found == order and broadcast.round == 3
    assert torch.equal(broadcast.model, received.model)
    assert torch.equal(broadcast.extra["control"], received.extra["control"])


def test_pictures_come_back_as_bytes_for_those_who_have_some() -> None:
    """0 to 1 as 0 to 255, what is outside cut off; client 9 has none."""
    result = CohortResult(Payload(torch.ones(6), 2.5, {}, 2), [4, 9])
    private = torch.tensor([[[-1.0], [0.0]], [[0.5], [2.0]]])
    result.pictures = {4: (private, 1 - private)}
    order = replace(ORDER, pictures=True)
    found = unpack_answer(pack_answer(result, order), order, 6, {}, METRICS).result.pictures
    assert list(found) == [4]
    assert found[4][0].flatten().tolist() == [0, 0, 128, 255]
    assert found[4][1].flatten().tolist() == [255, 255, 128, 0]
    with pytest.raises(ReplyError, match="nobody asked for"):
        unpack_answer(pack_answer(result, ORDER), ORDER, 6, {}, METRICS)
