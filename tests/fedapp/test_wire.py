"""What goes over the wire comes back the same, through Flower's own serialisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from strategies.cohort import Assignment, CohortResult
from strategies.federation import Fold
from strategies.flower.wire import (
    Order,
    from_array,
    pack_answer,
    pack_broadcast,
    pack_order,
    to_array,
    unpack_answer,
    unpack_order,
)  # fmt: skip
from strategies.types import Bounds, Broadcast, Payload
from tasks.errors import ReplyError

ORDER = Order("s", "maml", Assignment(3, 1, (4, 7, 9), (0, 2, 1)), True, False, "/state")

METRICS = ("loss",)  # what nodes may report


def through_flower(content: RecordDict) -> RecordDict:
    """Deflate to bytes and inflate again, as on the way to another process."""
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

    return recorddict_from_proto(recorddict_to_proto(content))


@given(
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from([torch.float32, torch.uint8, torch.int64]),
)
def test_arrays_round_trip_and_are_what_numpy_would_write(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    tensor = (torch.rand(shape) * 200).to(dtype)
    array = to_array(tensor)
    assert torch.equal(from_array(array), tensor)
    assert np.array_equal(array.numpy(), tensor.numpy()), "Flower's own reader agrees"
    assert torch.equal(from_array(Array(tensor.numpy())), tensor), "and so does its writer"


def test_adding_up_replies_does_not_write_into_them() -> None:
    """Arrays that arrive are views of the message's bytes: the first summand must be copied."""
    arrays, fold = [to_array(torch.full((3,), float(value))) for value in (1, 2)], Fold()
    for slot, array in enumerate(arrays):
        fold.put(slot, Payload(from_array(array), 1.0, {}, 1))
    assert fold.total is not None and fold.total.vector.tolist() == [3.0, 3.0, 3.0]
    assert from_array(arrays[0]).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (3,), "numpy.ndarray", b"short"),
        Array("float32", (4,), "numpy.ndarray", to_array(torch.zeros(3)).data),
        Array("float32", (3,), "pickle", to_array(torch.zeros(3)).data),
        Array("object", (3,), "numpy.ndarray", to_array(torch.zeros(3)).data),
    ],
)
def test_arrays_that_lie_are_refused(array: Array) -> None:
    with pytest.raises((ReplyError, TypeError)):
        from_array(array)


def test_order_round_trips() -> None:
    received = Broadcast(torch.randn(5), {"control": torch.randn(5)}, 3)
    content = through_flower(pack_order(ORDER, pack_broadcast(received), "f" * 64, "/root"))
    order, broadcast = unpack_order(content)
    assert order == ORDER and broadcast.round == 3
    assert torch.equal(broadcast.model, received.model)
    assert torch.equal(broadcast.extra["control"], received.extra["control"])


def test_answer_round_trips() -> None:
    result = CohortResult(
        Payload(torch.randn(6), 2.5, {"tau": 3.0}, 2),
        [4, 9],
        {7: "gone"},
        {"loss": [0.5, float("nan")]},
    )
    result.pictures = {4: (torch.rand(2, 2, 3), torch.rand(2, 2, 3))}
    order = replace(ORDER, pictures=True)
    answer = unpack_answer(
        through_flower(pack_answer(result, order)), order, 6, {"tau": Bounds(0.0, 9.0)}, METRICS
    )
    back = answer.result
    assert back.payload is not None and result.payload is not None
    assert torch.equal(back.payload.vector, result.payload.vector)
    assert (back.payload.weight, back.payload.scalars, back.payload.count) == (2.5, {"tau": 3.0}, 2)
    assert (back.clients, back.failures) == ([4, 9], {7: "gone"}) and back.metrics["loss"][0] == 0.5
    assert back.pictures[4][0].dtype == torch.uint8 and answer.bytes_up > 24


def test_a_node_whose_clients_all_failed_answers_without_a_sum() -> None:
    result = CohortResult(None, [], {4: "a", 7: "b", 9: "c"})
    back = unpack_answer(through_flower(pack_answer(result, ORDER)), ORDER, 6, {}, METRICS).result
    assert back.payload is None and len(back.failures) == 3


BOUNDS = {"steps": Bounds(0.0, 10.0, weighted=True), "square_norm": Bounds(0.0, 1.0, clip_power=2)}


def reply(**scalars: float) -> RecordDict:
    payload = Payload(torch.ones(6), 2.5, {"steps": 5.0, "square_norm": 4.0} | scalars, 2)
    return pack_answer(CohortResult(payload, [4, 9]), ORDER)


@pytest.mark.parametrize(
    "scalars",
    [
        {"steps": float("nan")},
        {"steps": 25.1},
        {"steps": -0.1},
        {"square_norm": float("inf")},
        {"more": 1.0},
    ],
)
def test_a_scalar_no_client_can_give_is_refused(scalars: dict[str, float]) -> None:
    """Weight 2.5 times at most 10 steps is 25; the bound of a squared norm is in units of a clip
    nobody made."""
    assert unpack_answer(reply(), ORDER, 6, BOUNDS, METRICS).result.payload is not None
    with pytest.raises(ReplyError):
        unpack_answer(reply(**scalars), ORDER, 6, BOUNDS, METRICS)


def test_a_missing_scalar_is_refused() -> None:
    with pytest.raises(ReplyError, match="the rule"):
        unpack_answer(
            pack_answer(CohortResult(Payload(torch.ones(6), 2.5, {}, 2), [4, 9]), ORDER),
            ORDER,
            6,
            BOUNDS,
            METRICS,
        )


@pytest.mark.parametrize("image", [torch.zeros(5), torch.zeros(2, 2, 4), torch.zeros(0, 2, 3)])
def test_pictures_are_pictures_and_only_if_asked_for(image: torch.Tensor) -> None:
    result = CohortResult(Payload(torch.ones(6), 2.5, {}, 1), [4])
    result.pictures = {4: (image, image)}
    with pytest.raises(ReplyError, match="a picture of shape"):
        unpack_answer(pack_answer(result, ORDER), replace(ORDER, pictures=True), 6, {}, METRICS)
    result.pictures = {4: (torch.zeros(2, 2, 3), torch.zeros(2, 2, 3))}
    with pytest.raises(ReplyError, match="nobody asked for"):
        unpack_answer(pack_answer(result, ORDER), ORDER, 6, {}, METRICS)


@pytest.mark.parametrize("name", ["round", "epsilon", "event", "method", "psnr_p"])
def test_a_metric_nobody_declared_is_refused(name: str) -> None:
    """A node cannot write into an event, or report what the run did not ask for."""
    result = CohortResult(Payload(torch.ones(6), 2.5, {}, 1), [4], metrics={name: [0.05]})
    with pytest.raises(ReplyError, match=f"reports the metrics .*{name}"):
        unpack_answer(pack_answer(result, ORDER), ORDER, 6, {}, METRICS)


def test_fallbacks_are_told_and_bounded() -> None:
    result = CohortResult(Payload(torch.ones(6), 2.5, {}, 1), [4], fallbacks=["why"], unseen=["so"])
    back = unpack_answer(through_flower(pack_answer(result, ORDER)), ORDER, 6, {}, METRICS).result
    assert (back.fallbacks, back.unseen) == (["why"], ["so"])
    result.fallbacks = ["why"] * 4  # of three clients
    with pytest.raises(ReplyError, match="more chunks than"):
        unpack_answer(pack_answer(result, ORDER), ORDER, 6, {}, METRICS)


def test_failures_of_non_members_are_refused() -> None:
    with pytest.raises(ReplyError, match="not asked to train"):
        unpack_answer(
            pack_answer(CohortResult(None, [], {4: "a", 8: "b"}), ORDER), ORDER, 6, {}, METRICS
        )
