"""Messages to types and back. Everything that crosses the network is declared here.

Train order (server to node): ``ArrayRecord "broadcast"`` {model, extra.<name>} and ``ConfigRecord
"order"``. Under a private release the answer is :func:`pack_sum`: ``ArrayRecord "sum"`` {vector}
and ``"origin"``, no more. Answer otherwise: ``ArrayRecord "sum"`` {vector}, ``MetricRecord
"sum.meta"`` {weight, count, scalar.<name>}, ``MetricRecord "clients"`` {id, <metric>},
``ConfigRecord "failures"`` {ids, reasons}, ``ConfigRecord "origin"`` {round, session}, and only if
pictures were asked for ``ArrayRecord "pictures"``. A node that could not do its work answers with
``ConfigRecord "failure"`` {reason}.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from strategies.cohort import Assignment, CohortResult
from strategies.flower.records import MALFORMED, content_of_failure, plain, record
from strategies.types import Bounds, Broadcast, Payload
from tasks.errors import ReplyError
from tasks.params import is_finite

NPY_VERSION_1 = (
    b"\x93NUMPY\x01\x00"  # what numpy writes; Flower's metadata already says shape and dtype
)
SLACK = 1e-5  # of a sum in float32
NPY_PREFIX = 10  # magic, version, and two bytes with the length of the header that follows


@dataclass(frozen=True)
class Order:
    """A train order: whom to train, as which method, and what to look at."""

    session: str
    method: str
    assignment: Assignment
    inspect: bool
    pictures: bool
    # where a simulated node may keep what its clients remember; a deployed one has its own
    state_dir: str
    run: str = ""  # which run's memories: a deployed node outlives runs
    pins: str = "{}"  # JSON: config values the server found out, which nodes must agree with
    config: str = ""  # hash of the configuration that nodes must have, too

    @property
    def common(self) -> dict[str, str | int | bool]:
        """All that members of a round are told alike, as it is sent and as a secure sum binds it:
        everything but whom each trains, and the public numbers, which its terms hold."""
        return {
            "session": self.session,
            "method": self.method,
            "round": self.assignment.round,
            "seed": self.assignment.seed,
            "inspect": self.inspect,
            "pictures": self.pictures,
            "state-dir": self.state_dir,
            "run": self.run,
            "pins": self.pins,
            "config": self.config,
        }


@dataclass
class Answer:
    """A node's answer to an order, checked."""

    result: CohortResult
    bytes_up: int


def to_array(tensor: Tensor) -> Array:
    """A CPU copy of the tensor as a Flower array (npy bytes, one copy)."""
    values = tensor.detach().cpu().contiguous().numpy()
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    data = b"".join((header.getvalue(), values.data.cast("B") if values.size else b""))
    return Array(
        dtype=str(values.dtype), shape=tuple(values.shape), stype="numpy.ndarray", data=data
    )


def from_array(array: Array) -> Tensor:
    """The tensor of a Flower array (a view of its bytes, to be read only; no pickle).

    Raises :class:`ReplyError` if the bytes do not fit the array's metadata.
    """
    data, dtype = array.data, np.dtype(array.dtype)
    offset = NPY_PREFIX + int.from_bytes(data[NPY_PREFIX - 2 : NPY_PREFIX], "little")
    if array.stype != "numpy.ndarray" or data[:8] != NPY_VERSION_1 or dtype.kind not in "fiu":
        raise ReplyError(
            f"an array of type {array.stype}, dtype {array.dtype} is not part of the protocol"
        )
    if len(data) - offset != dtype.itemsize * math.prod(array.shape):
        raise ReplyError(
            f"an array of shape {array.shape} arrived with {len(data) - offset} bytes of data"
        )
    values = np.frombuffer(data, dtype, offset=offset).reshape(array.shape)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch warns that it cannot stop anyone from writing to a view of bytes
        return torch.from_numpy(values)


def pack_broadcast(received: Broadcast) -> ArrayRecord:
    """The arrays every node of a round gets; build it once a round and share it between
    messages."""
    arrays = {"model": to_array(received.model)}
    arrays |= {f"extra.{name}": to_array(value) for name, value in received.extra.items()}
    return ArrayRecord(arrays)


def pack_order(order: Order, broadcast: ArrayRecord, fingerprint: str, root: str) -> RecordDict:
    """A train message's content."""
    assignment = order.assignment
    config = ConfigRecord(
        {
            **order.common,
            "clients": list(assignment.clients),
            "versions": list(assignment.versions),
            "public": json.dumps(dict(assignment.public), sort_keys=True),
            "fingerprint": fingerprint,
            "root": root,
        }
    )
    return RecordDict({"broadcast": broadcast, "order": config})


def unpack_order(content: RecordDict) -> tuple[Order, Broadcast]:
    """Inverse of :func:`pack_order`."""
    config, arrays = (
        record(content, "order", ConfigRecord),
        record(content, "broadcast", ArrayRecord),
    )
    number = int(config["round"])  # type: ignore[arg-type]
    assignment = Assignment(
        round=number,
        seed=int(config["seed"]),  # type: ignore[arg-type]
        clients=tuple(config["clients"]),  # type: ignore[arg-type]
        versions=tuple(config["versions"]),  # type: ignore[arg-type]
        public=json.loads(str(config["public"])),
    )
    order = Order(
        session=str(config["session"]),
        method=str(config["method"]),
        assignment=assignment,
        inspect=bool(config["inspect"]),
        pictures=bool(config["pictures"]),
        state_dir=str(config["state-dir"]),
        run=str(config["run"]),
        pins=str(config["pins"]),
        config=str(config["config"]),
    )
    tensors = {name: from_array(array).clone() for name, array in arrays.items()}
    model = tensors.pop("model")
    # Nothing but extras beside the model, and none that is called like it: whoever looks at the
    # model must look at the one that is trained
    if any(not name.startswith("extra.") or name == "extra.model" for name in tensors):
        raise ValueError("a broadcast of other arrays than a model and what its rule sends beside")
    extra = {name.removeprefix("extra."): tensor for name, tensor in tensors.items()}
    return order, Broadcast(model, extra, number)


def pack_answer(result: CohortResult, order: Order) -> RecordDict:
    """A train reply's content."""
    content = RecordDict(
        {
            "origin": ConfigRecord({"round": order.assignment.round, "session": order.session}),
            "clients": MetricRecord({"id": result.clients, **result.metrics}),
            "failures": ConfigRecord(
                {
                    "ids": list(result.failures),
                    "reasons": list(result.failures.values()),
                    "fallbacks": result.fallbacks,
                    "unseen": result.unseen,
                }
            ),
        }
    )
    if result.payload is not None:
        payload = result.payload
        content["sum"] = ArrayRecord({"vector": to_array(payload.vector)})
        scalars = {f"scalar.{name}": value for name, value in payload.scalars.items()}
        content["sum.meta"] = MetricRecord(
            {"weight": payload.weight, "count": payload.count, **scalars}
        )
    if result.pictures:
        content["pictures"] = ArrayRecord(
            {
                f"{client}.{kind}": to_array(_to_bytes(image))
                for client, pair in result.pictures.items()
                for kind, image in zip(("private", "rendered"), pair, strict=True)
            }
        )
    return content


def pack_sum(vector: Tensor, order: Order) -> RecordDict:
    """A private train reply's content: the (noised or masked) sum and which round it is for,
    nothing else."""
    origin = ConfigRecord({"round": order.assignment.round, "session": order.session})
    return RecordDict({"origin": origin, "sum": ArrayRecord({"vector": to_array(vector)})})


def unpack_sum(content: RecordDict, order: Order, size: int) -> Answer:
    """A node's private answer: an integer vector of ``size`` numbers over all clients it was asked
    to train.

    Raises :class:`ReplyError` for whatever is wrong with it.
    """
    try:
        content_of_failure(content)
        _same_round(content, order)
        array = record(content, "sum", ArrayRecord)["vector"]
        if array.dtype != "int32" or tuple(array.shape) != (size,):
            raise ReplyError(
                f"the sum is {array.dtype} {tuple(array.shape)}, expected int32 ({size},)"
            )
        clients = list(order.assignment.clients)
        payload = Payload(from_array(array), 0.0, {}, len(clients))
        return Answer(
            CohortResult(payload, clients), record(content, "sum", ArrayRecord).count_bytes()
        )
    except MALFORMED as error:
        raise ReplyError(f"the reply is malformed: {type(error).__name__}: {error}") from error


def _same_round(content: RecordDict, order: Order) -> None:
    origin = record(content, "origin", ConfigRecord)
    if (origin["round"], origin["session"]) != (order.assignment.round, order.session):
        raise ReplyError(
            f"the reply is for round {origin['round']!r} of session {origin['session']!r}, not "
            "this one"
        )


def unpack_answer(
    content: RecordDict,
    order: Order,
    size: int,
    scalars: Mapping[str, Bounds],
    metrics: Collection[str],
) -> Answer:
    """A node's answer, checked. Raises :class:`ReplyError` for whatever is wrong with it: no reply
    can make the server fail.

    Args:
        content: the reply's.
        order: what the node was asked to do.
        size: V, numbers in its vector.
        scalars: what the rule sums beside it, with their ranges.
        metrics: names that were declared; a node cannot make up others.
    """
    try:
        return _unpack_answer(content, order, size, scalars, metrics)
    except MALFORMED as error:
        raise ReplyError(f"the reply is malformed: {type(error).__name__}: {error}") from error


def _unpack_answer(
    content: RecordDict,
    order: Order,
    size: int,
    scalars: Mapping[str, Bounds],
    metrics: Collection[str],
) -> Answer:
    content_of_failure(content)
    try:
        _same_round(content, order)
        reported = dict(record(content, "clients", MetricRecord))
        failures = record(content, "failures", ConfigRecord)
        ids = [int(client) for client in reported.pop("id")]  # type: ignore[union-attr]
    except KeyError as error:
        raise ReplyError(f"the reply lacks the record {error}") from None
    result = CohortResult(clients=ids)
    failed = zip(_list(failures["ids"]), _list(failures["reasons"]), strict=True)
    result.failures = {int(client): plain(str(reason)) for client, reason in failed}
    result.fallbacks = [plain(str(reason)) for reason in _list(failures["fallbacks"])]
    result.unseen = [plain(str(reason)) for reason in _list(failures["unseen"])]
    if max(len(result.fallbacks), len(result.unseen)) > len(order.assignment.clients):
        raise ReplyError("the reply reports more chunks than it was asked to train clients")
    unasked = {*ids, *result.failures} - set(order.assignment.clients)
    if unasked:
        raise ReplyError(
            f"the reply counts clients {sorted(unasked)} which it was not asked to train"
        )
    if undeclared := sorted(set(reported) - set(metrics)):
        raise ReplyError(
            f"the reply reports the metrics {undeclared[:5]}, declared are {sorted(metrics)}"
        )
    result.metrics = {
        name: [float(value) for value in _list(values)] for name, values in reported.items()
    }
    uneven = [name for name, values in result.metrics.items() if len(values) != len(ids)]
    if uneven or len(set(ids)) < len(ids):
        raise ReplyError(
            f"the reply lists {len(ids)} clients, but {uneven or 'some of them twice'}"
        )
    if ids:
        result.payload = _payload(content, size, len(ids), scalars)
    if "pictures" in content:
        if not order.pictures:
            raise ReplyError("the reply holds pictures that nobody asked for")
        images = {
            name: _picture(array)
            for name, array in record(content, "pictures", ArrayRecord).items()
        }
        result.pictures = {
            client: (images[f"{client}.private"], images[f"{client}.rendered"])
            for client in ids
            if f"{client}.private" in images
        }
    return Answer(
        result,
        sum(part.count_bytes() for part in content.values() if isinstance(part, ArrayRecord)),
    )


def _list(values: object) -> list[Any]:
    """``values`` if it is a list; a single number or text is not part of the protocol."""
    if not isinstance(values, list):
        raise TypeError(f"expected a list, got {type(values).__name__}")
    return values


def _picture(array: Array) -> Tensor:
    image = from_array(array)
    if (
        image.dtype != torch.uint8
        or image.dim() < 3
        or image.shape[-1] not in (1, 3)
        or 0 in image.shape
    ):
        raise ReplyError(f"a picture of shape {tuple(image.shape)} and type {image.dtype}")
    return image


def _payload(content: RecordDict, size: int, count: int, scalars: Mapping[str, Bounds]) -> Payload:
    try:
        array = record(content, "sum", ArrayRecord)["vector"]
        meta = dict(record(content, "sum.meta", MetricRecord))
    except KeyError as error:
        raise ReplyError(f"the reply lacks the record {error}") from None
    if array.dtype != "float32":
        raise ReplyError(f"the sum has dtype {array.dtype}, expected float32")
    vector = from_array(array)
    if vector.shape != (size,):
        raise ReplyError(f"the sum has shape {tuple(vector.shape)}, expected ({size},)")
    if not is_finite(vector):
        raise ReplyError("the sum holds NaN or infinity")
    weight = float(meta.pop("weight"))  # type: ignore[arg-type]
    counted = int(meta.pop("count"))  # type: ignore[arg-type]
    if counted != count or not 0 < weight < float("inf"):
        raise ReplyError(
            f"the sum claims weight {weight} over {counted} clients, but lists {count}"
        )
    sums = {name.removeprefix("scalar."): float(value) for name, value in meta.items()}  # type: ignore[arg-type]
    if sums.keys() != scalars.keys():
        raise ReplyError(f"the reply sums the scalars {sorted(sums)}, the rule {sorted(scalars)}")
    for name, (low, high, power, weighted) in scalars.items():
        over = weight if weighted else count
        # a power of the clip is a unit that a plain sum does not have
        top = math.inf if power else high * over * (1 + SLACK)
        if not low * over * (1 - SLACK) <= sums[name] <= top or not math.isfinite(sums[name]):
            raise ReplyError(
                f"the sum of {name} is {sums[name]}, which {count} clients cannot give"
            )
    return Payload(vector, weight, sums, counted)


def _to_bytes(image: Tensor) -> Tensor:
    return image.detach().cpu().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
