"""Messages of obscured upload: what a device sends of a person's pictures, once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from strategies.flower.records import record
from strategies.flower.wire import from_array, to_array
from tasks.errors import ReplyError
from tasks.head.views import Cameras, Coloured, Evidence, Obscured
from tasks.modulus import KERNELS

ORDER = ("session", "run", "client", "kind", "config", "state-dir")
LARGEST = 4096  # pixels per side
MOST = 1000  # views


@dataclass(frozen=True)
class UploadOrder:
    """The server's request: the pictures of ``client`` as ``kind``, under a configuration."""

    session: str
    run: str
    client: int
    kind: str
    config: str
    state_dir: str

    def packed(self) -> ConfigRecord:
        return ConfigRecord(
            {
                "session": self.session,
                "run": self.run,
                "client": self.client,
                "kind": self.kind,
                "config": self.config,
                "state-dir": self.state_dir,
            }
        )

    @classmethod
    def unpacked(cls, content: RecordDict) -> UploadOrder:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for another shape."""
        values = record(content, "order", ConfigRecord)
        if set(values) != set(ORDER):
            raise ValueError(f"an order holds {', '.join(ORDER)}")
        client = values["client"]
        if type(client) is not int:
            raise TypeError("client is a number")
        texts = [values[name] for name in ORDER if name != "client"]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("an order's names are texts")
        return cls(
            str(values["session"]), str(values["run"]), client, str(values["kind"]),
            str(values["config"]), str(values["state-dir"]),
        )  # fmt: skip


def origin_of(order: UploadOrder, request: str) -> ConfigRecord:
    """What an answer belongs to."""
    return ConfigRecord({"session": order.session, "client": order.client, "request": request})


def refuse_stale(content: RecordDict, order: UploadOrder, request: str) -> None:
    """Raise :class:`ReplyError` for an answer to something else."""
    origin = record(content, "origin", ConfigRecord)
    if dict(origin) != dict(origin_of(order, request)):
        raise ReplyError("it answers another order")


def pack_evidence(evidence: Evidence) -> dict[str, ArrayRecord | ConfigRecord]:
    """Records of an upload: colours in 8 bits, magnitudes in 16, cameras."""
    records: dict[str, ArrayRecord | ConfigRecord] = {}
    facts: dict[str, float | str] = {"background": float(evidence.background)}
    if evidence.neutral is not None:
        colours = (evidence.neutral.images * 255).round().to(torch.uint8)
        records["neutral"] = ArrayRecord(
            {"values": to_array(colours), **_cameras(evidence.neutral.cameras)}
        )
    if evidence.obscured is not None:
        records["obscured"] = ArrayRecord(
            {
                "values": Array(evidence.obscured.values.numpy().astype(np.float16)),
                "valid": to_array(evidence.obscured.valid.to(torch.uint8)),
                **_cameras(evidence.obscured.cameras),
            }
        )
        facts["kernel"] = evidence.obscured.kernel
    records["facts"] = ConfigRecord(facts)  # type: ignore[arg-type]
    return records


def unpack_evidence(content: RecordDict) -> Evidence:
    """Inverse of :func:`pack_evidence`; raises :class:`ReplyError` for what is no upload."""
    if strange := sorted(set(content) - {"neutral", "obscured", "facts", "origin"}):
        raise ReplyError(f"an upload has no record {strange[0]!r}")
    facts = record(content, "facts", ConfigRecord)
    background = facts["background"]
    if not isinstance(background, float) or not 0 <= background <= 1:
        raise ReplyError("the background is a grey level in [0, 1]")
    neutral = obscured = None
    if "neutral" in content:
        arrays = record(content, "neutral", ArrayRecord)
        values = from_array(arrays["values"])
        if values.dtype is not torch.uint8 or values.dim() != 4 or values.shape[-1] != 3:
            raise ReplyError("neutral views are colours in 8 bits")
        cameras = _cameras_of(arrays, values.shape[0], values.shape[1], values.shape[2])
        neutral = Coloured(values.float() / 255, cameras)
    if "obscured" in content:
        arrays = record(content, "obscured", ArrayRecord)
        values = from_array(arrays["values"])
        valid = from_array(arrays["valid"])
        kernel = facts["kernel"]
        if values.dtype is not torch.float16 or values.dim() != 3:
            raise ReplyError("obscured views have one number per pixel, in 16 bits")
        if valid.dtype is not torch.uint8 or valid.shape != values.shape:
            raise ReplyError("every obscured value is valid or not")
        if not isinstance(kernel, str) or kernel not in KERNELS:
            raise ReplyError("the kernel of the magnitudes is not known")
        if not bool(torch.isfinite(values).all()):
            raise ReplyError("obscured values are not finite")
        count, height, width = values.shape
        cameras = _cameras_of(arrays, count, height + 2, width + 2)
        obscured = Obscured(values.float(), valid.bool(), cameras, kernel)
    return Evidence(neutral, obscured, background)


def _cameras(cameras: Cameras) -> dict[str, Array]:
    return {
        "poses": to_array(cameras.poses.contiguous()),
        "intrinsics": to_array(cameras.intrinsics.contiguous()),
    }


def _cameras_of(arrays: ArrayRecord, count: int, height: int, width: int) -> Cameras:
    poses, intrinsics = from_array(arrays["poses"]), from_array(arrays["intrinsics"])
    if not (1 <= count <= MOST and 1 <= height <= LARGEST and 1 <= width <= LARGEST):
        raise ReplyError(f"{count} views of {height} x {width}")
    if poses.shape != (count, 4, 4) or intrinsics.shape != (count, 3, 3):
        raise ReplyError("there is a camera for every view")
    if poses.dtype is not torch.float32 or intrinsics.dtype is not torch.float32:
        raise ReplyError("cameras are 32-bit numbers")
    both = bool(torch.isfinite(poses).all()) and bool(torch.isfinite(intrinsics).all())
    if not both or bool((intrinsics[:, [0, 1], [0, 1]] <= 0).any()):
        raise ReplyError("cameras are finite, focal lengths positive")
    turn = poses[:, :3, :3]
    if not torch.allclose(turn @ turn.mT, torch.eye(3).expand_as(turn), atol=1e-3):
        raise ReplyError("a camera's axes are not at right angles and of unit length")
    return Cameras(poses, intrinsics, height, width)


def digest_of(tensors: list[Tensor], *facts: object) -> str:
    """SHA-256 of pictures and of what is done to them."""
    found = hashlib.sha256(repr(facts).encode())
    for tensor in tensors:
        found.update(repr(tuple(tensor.shape)).encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()
