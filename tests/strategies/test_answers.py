"""Answers of nodes that count or weigh wrongly are refused before they reach the model."""

from __future__ import annotations

import math

import pytest
import torch
from flwr.app import RecordDict

from strategies.cohort import Assignment, CohortResult
from strategies.flower.wire import Order, pack_answer, unpack_answer
from strategies.types import Payload
from tasks.errors import ReplyError

ORDER = Order("s", "maml", Assignment(3, 1, (4, 7, 9), (0, 2, 1)), False, False, "/state")


def answer(count: int, weight: float, clients: tuple[int, ...] = (4, 9)) -> RecordDict:
    """A sum said to be over ``count`` clients, in a message that lists ``clients``."""
    payload = Payload(torch.ones(6), weight, {}, count)
    return pack_answer(CohortResult(payload, list(clients)), ORDER)


def test_an_honest_answer_is_taken_as_it_is() -> None:
    payload = unpack_answer(answer(2, 2.5), ORDER, 6, {}).result.payload
    assert payload is not None and (payload.count, payload.weight) == (2, 2.5)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_sum_over_more_or_fewer_clients_than_listed_is_refused(count: int) -> None:
    """The weight is fine: the count alone has to be enough."""
    with pytest.raises(ReplyError, match=f"over {count} clients, but lists 2"):
        unpack_answer(answer(count, 2.5), ORDER, 6, {})


@pytest.mark.parametrize("weight", [0.0, -2.5, math.inf, -math.inf, math.nan])
def test_a_weight_nobody_can_divide_by_is_refused(weight: float) -> None:
    """The count is fine. A mean over weight zero is NaN, and one over less turns the step round."""
    with pytest.raises(ReplyError, match="claims weight"):
        unpack_answer(answer(2, weight), ORDER, 6, {})


def test_a_client_counted_twice_is_refused() -> None:
    with pytest.raises(ReplyError, match="some of them twice"):
        unpack_answer(answer(2, 2.5, (4, 4)), ORDER, 6, {})
