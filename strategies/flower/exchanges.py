"""Messages of split learning: what crosses between a server's half and a client's, and no more.

Every message of a scene has a record ``order`` (:class:`Order`). Down: ``crossing`` {values,
scales}
(16 bits and a scale, :mod:`strategies.flower.wire16`), or of a sealed table {share} (int32) and
``peer``, the other holder's key and sealed box. Up: ``gradient`` {values, scales} or {share}
(int64)
and a sealed seed, with ``origin`` {session, exchange, request}: the session and number of the order
and the digest of what was asked. No message holds pixels, colours, densities (but for
``split.cut = "geometry"``, whose first number is one) or losses; ``scores``
(if the configuration releases metrics) and ``picture`` (of a simulation) answer a ``look``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from strategies.flower.records import record
from strategies.flower.wire import from_array, to_array
from strategies.flower.wire16 import Scaled, checked
from tasks.errors import ReplyError
from tasks.split_nerf.scene import Geometry

FREE = ("session", "durable")  # of an order: not part of what is asked


@dataclass(frozen=True)
class Order:
    """What a node is asked to do for one scene.

    Attributes:
        session: name of the server process; comes back with the answer.
        run: whose state on the node.
        method: of the arm.
        seed: of the arm.
        client: whose scene.
        exchange: number of the exchange, from 1; of a look, the last one that was made.
        durable: newest exchange that the server has on disk: older states may go.
        view: of a look: number of the camera; else -1.
        geometry: digest of the scene's.
        config: digest of the configuration.
        state_dir: where a simulated node may keep its state.
    """

    session: str
    run: str
    method: str
    seed: int
    client: int
    exchange: int
    durable: int
    view: int
    geometry: str
    config: str
    state_dir: str

    def packed(self) -> ConfigRecord:
        return ConfigRecord(asdict(self))

    @classmethod
    def unpacked(cls, content: RecordDict) -> Order:
        """Inverse of :meth:`packed`; raises :class:`ReplyError` for fields of another type, missing
        or unknown ones."""
        found = dict(record(content, "order", ConfigRecord))
        kinds = {field.name: str if field.type == "str" else int for field in fields(cls)}
        if set(found) != set(kinds) or any(type(found[k]) is not kinds[k] for k in kinds):
            raise ReplyError("an order that is none")
        return cls(**found)  # type: ignore[arg-type]


def request_of(content: RecordDict) -> str:
    """SHA-256 of all that is asked: the order but for its session, every array, every other
    record."""
    text = hashlib.sha256()

    def add(*parts: bytes) -> None:
        """Parts that cannot run into each other: each is preceded by its length."""
        for part in parts:
            text.update(len(part).to_bytes(8, "big") + part)

    for name in sorted(content):
        if name == "leg":
            continue
        part = content[name]
        add(name.encode(), type(part).__name__.encode(), str(len(part)).encode())
        for key in sorted(part):
            if name == "order" and key in FREE:
                continue
            value = part[key]
            add(key.encode(), type(value).__name__.encode())
            if isinstance(value, Array):
                add(repr((value.dtype, value.shape, value.stype)).encode(), value.data)
            else:
                add(value if isinstance(value, bytes) else repr(value).encode())
    return text.hexdigest()


# Records that each leg may have; a node refuses others, which would be digested and not looked at
RECORDS: dict[str, frozenset[str]] = {
    "exchange": frozenset({"leg", "order", "crossing", "peer", "box"}),
    "look": frozenset({"leg", "order", "crossing", "peer", "box"}),
    "alone": frozenset({"leg", "order"}),
    "hold": frozenset({"leg", "order", "peer", "poses", "facts", "seed"}),
    "hold-look": frozenset({"leg", "order", "peer", "poses", "facts", "seed"}),
}


# ---------------------------------------------------------------------- arrays
def pack_scaled(sent: Scaled) -> ArrayRecord:
    return ArrayRecord({"values": to_array(sent.values), "scales": to_array(sent.scales)})


def unpack_scaled(content: RecordDict, name: str, shape: tuple[int, ...]) -> Scaled:
    """Arrays of another side; raises :class:`ReplyError` unless they are ``shape`` and finite."""
    values, scales = _arrays(content, name, ("values", "scales"))
    return checked(values, scales, shape)


def pack_share(share: Tensor) -> ArrayRecord:
    return ArrayRecord({"share": to_array(share)})


def unpack_share(
    content: RecordDict, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """A share of another side; raises :class:`ReplyError` unless it is ``shape`` of ``dtype``."""
    (share,) = _arrays(content, name, ("share",))
    if share.dtype is not dtype or tuple(share.shape) != shape:
        raise ReplyError(f"a share of {share.dtype}, {tuple(share.shape)}, expected {shape}")
    return share


def _arrays(content: RecordDict, name: str, keys: tuple[str, ...]) -> list[Tensor]:
    try:
        found = record(content, name, ArrayRecord)
    except KeyError as error:
        raise ReplyError(f"no arrays {name!r}") from error
    if set(found) != set(keys):
        raise ReplyError(f"{name} holds {', '.join(found)}, expected {', '.join(keys)}")
    return [from_array(found[key]) for key in keys]


# ---------------------------------------------------------------------- geometry
def pack_geometry(geometry: Geometry) -> tuple[ArrayRecord, ConfigRecord]:
    """The public part of a scene: cameras as an array, everything else as text."""
    facts = {
        "focal": geometry.focal,
        "height": geometry.height,
        "width": geometry.width,
        "lower": list(geometry.lower),
        "upper": list(geometry.upper),
        "background": geometry.background,
        "held_out": geometry.held_out,
    }
    return ArrayRecord({"poses": to_array(geometry.poses)}), ConfigRecord(
        {"facts": json.dumps(facts, sort_keys=True)}
    )


def unpack_geometry(arrays: ArrayRecord, facts: ConfigRecord) -> Geometry:
    """Inverse of :func:`pack_geometry`; raises :class:`ReplyError` for what is no geometry."""
    poses = from_array(arrays["poses"])
    try:
        told = json.loads(str(facts["facts"]))
        corners = [tuple(float(value) for value in told[name]) for name in ("lower", "upper")]
        geometry = Geometry(
            poses.clone(),
            float(told["focal"]),
            int(told["height"]),
            int(told["width"]),
            corners[0],  # type: ignore[arg-type]
            corners[1],  # type: ignore[arg-type]
            float(told["background"]),
            int(told["held_out"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReplyError(f"a geometry that is none ({error})") from error
    _refuse_impossible(geometry)
    return geometry


def _refuse_impossible(geometry: Geometry) -> None:
    poses = geometry.poses
    numbers = torch.tensor([geometry.focal, *geometry.lower, *geometry.upper])
    if poses.dtype is not torch.float32 or poses.dim() != 3 or tuple(poses.shape[1:]) != (4, 4):
        raise ReplyError("poses are float32 [V, 4, 4]")
    if not bool(torch.isfinite(poses).all()) or not bool(torch.isfinite(numbers).all()):
        raise ReplyError("a geometry that is not finite")
    sides = [high - low for low, high in zip(geometry.lower, geometry.upper, strict=True)]
    if len(geometry.lower) != 3 or min(sides) <= 0 or geometry.focal <= 0:
        raise ReplyError("a box without room, or no focal length")
    if not 0 < geometry.held_out < len(poses) <= 100_000:
        raise ReplyError("held-out views are some of all")
    if not (0 < geometry.height <= 16384 and 0 < geometry.width <= 16384):
        raise ReplyError("pictures have at most 16384 pixels per side")


# ---------------------------------------------------------------------- answers
def origin_of(order: Order, request: str) -> ConfigRecord:
    return ConfigRecord({"session": order.session, "exchange": order.exchange, "request": request})


def refuse_stale(content: RecordDict, order: Order, request: str) -> None:
    """Raise :class:`ReplyError` unless an answer is to this very order of this very process."""
    found: Mapping[str, Any] = record(content, "origin", ConfigRecord)
    if found.get("session") != order.session:
        raise ReplyError("an answer to another server process")
    if found.get("exchange") != order.exchange or found.get("request") != request:
        raise ReplyError("an answer to another exchange, or to something that was not asked")
