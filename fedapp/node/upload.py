"""A node's half of obscured upload: the operator runs here, and what it takes away never leaves.

What a device sends of a person's pictures, it sends in one way for good: operators that differ
could be put together (noise averages out), so a request under another operator is refused,
whatever run it belongs to. The draws of a chain follow from the node's secret, the pictures and
the chain: asked again, a device answers with the same bits.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedapp.config.uploads import COLOUR, OBSCURED, kind_of
from fedapp.node.device import Device
from privacy.node_secret import NodeSecret
from privacy.operators import Chain
from privacy.secagg.identity import KEY_FILE, load_identity
from privacy.secagg.messages import RefusalError
from strategies.flower.exchanges import request_of
from strategies.flower.records import record
from strategies.flower.uploads import (
    UploadOrder,
    digest_of,
    origin_of,
    pack_evidence,
)
from strategies.flower.wire import from_array, to_array
from tasks.atomic import PRIVATE, make_folder, write_bytes
from tasks.data.people.photograph import photographs
from tasks.head.mesh import Mesh, compare, floor, is_watertight
from tasks.head.stages import chosen
from tasks.head.task import FOCAL, SHOWN, VIEWS, HeadData, turntable
from tasks.head.views import Cameras, Evidence, Obscured

FOLDER = "uploaded"  # a file per client: how its pictures left
RECORDS = {"upload": {"leg", "order"}, "judge": {"leg", "order", "mesh"}}


def obscured_evidence(data: HeadData, chain: Chain, secret: NodeSecret, client: int) -> Evidence:
    """Neutral views in colour, and what the chain leaves of the sensitive ones; draws follow from
    the secret, the pictures and the chain."""
    pictures = digest_of([data.sensitive.images], chain.text)
    draws = secret.draws("operator", client, pictures)
    left = chain(data.sensitive.images, data.cover, draws)
    height, width = left.values.shape[1] + 2, left.values.shape[2] + 2
    cameras = data.sensitive.cameras
    scale = torch.tensor([width / cameras.width, height / cameras.height, 1.0])
    smaller = Cameras(cameras.poses, cameras.intrinsics * scale[:, None], height, width)
    obscured = Obscured(left.values[..., 0], left.valid, smaller, left.kernel)
    return Evidence(data.neutral, obscured, data.background)


class UploadNode:
    """Answers to the legs of uploads (a :class:`strategies.flower.workflow.NodeHalf`)."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.experiment = device.experiment
        torch.set_num_threads(self.experiment.runtime.threads)

    def leg(self, name: str, content: RecordDict) -> RecordDict:
        """``upload``: the pictures, once. ``judge``: in a simulation, how far a mesh is from the
        truth."""
        if name not in RECORDS:
            raise RefusalError(f"no leg {name!r}")
        if strange := sorted(set(content) - RECORDS[name]):
            raise RefusalError(f"leg {name!r} has no record {strange[0]!r}")
        order = UploadOrder.unpacked(content)
        self._refuse(order)
        data: HeadData = self.device.pieces.task.client_data(order.client)
        request = request_of(content)
        if name == "judge":
            reply = self._judged(data, content)
        else:
            evidence = self._evidence(data, order)
            reply = RecordDict(dict(pack_evidence(evidence)))
        reply["origin"] = origin_of(order, request)
        return reply

    def _refuse(self, order: UploadOrder) -> None:
        """Raise :class:`RefusalError` for an order that this node does not follow."""
        experiment, device = self.experiment, self.device
        if order.config != experiment.digest:
            raise RefusalError("the server's configuration is not this node's")
        if not 0 <= order.client < experiment.clients.total:
            raise RefusalError(f"client {order.client} of {experiment.clients.total}")
        if device.hosts is not None and order.client not in device.hosts:
            raise RefusalError(f"the pictures of client {order.client} are not here")
        kinds = {kind_of(chosen(m, experiment.head)) for m in experiment.method_list}
        if order.kind not in kinds:
            raise RefusalError(f"no method of this run is fitted to {order.kind!r} uploads")
        if order.state_dir and not device.simulated:
            raise RefusalError("a folder on this node is not the server's to say")
        if not device.simulated and order.kind not in device.policy.designs:
            raise RefusalError(
                f"uploads of kind {order.kind} are not among what this node takes part in: "
                + (", ".join(device.policy.designs) or "none")
            )

    # ------------------------------------------------------------------ upload
    def _evidence(self, data: HeadData, order: UploadOrder) -> Evidence:
        if order.kind == COLOUR:
            return data.in_colour
        assert order.kind == OBSCURED
        chain = Chain.parsed(self.experiment.head.operator)
        self._once(order.client, data, chain.text)
        return obscured_evidence(data, chain, self._secret(order), order.client)

    def _secret(self, order: UploadOrder) -> NodeSecret:
        if self.device.simulated:
            return NodeSecret.simulated("upload", order.client)
        return NodeSecret.of(load_identity(self.device.key_folder("") / KEY_FILE))

    def _once(self, client: int, data: HeadData, way: str) -> None:
        """Raise unless this client's pictures leave as their owner says, and as they have before,
        at the same size, over the node's life. (Colours leave where the owner's policy names them;
        simulations compare chains.)"""
        if self.device.simulated:
            return
        most = self.device.policy.pixels
        if data.sensitive.cameras.width > most:
            raise RefusalError(
                f"pictures leave this node with up to {most} pixels per side (pixels in its "
                f"policy), not {data.sensitive.cameras.width}"
            )
        if way != self.device.policy.operator:
            raise RefusalError(
                f"pictures leave this node through {self.device.policy.operator!r} (operator in "
                f"its policy), not through {way!r}"
            )
        folder = self.device.key_folder("") / FOLDER
        make_folder(folder, PRIVATE | 0o100)
        cameras = data.sensitive.cameras
        told = f"{way} at {cameras.width} x {cameras.height}: {digest_of([data.sensitive.images])}"
        file = Path(folder) / f"client-{client}"
        with contextlib.suppress(FileExistsError):  # made exclusively: of two at once one wins
            write_bytes(file, told.encode(), PRIVATE, new=True)
        if (sent := file.read_text(encoding="utf-8")) != told:
            raise RefusalError(
                f"pictures of client {client} have left as {sent.split(':')[0]!r}: in another way "
                "both could be put together"
            )

    # ------------------------------------------------------------------ judging
    def _judged(self, data: HeadData, content: RecordDict) -> RecordDict:
        """How far a mesh is from the truth, which only a simulation has."""
        if not self.device.simulated or data.truth is None:
            raise RefusalError("nobody knows the truth here")
        arrays = record(content, "mesh", ArrayRecord)
        vertices = from_array(arrays["vertices"]).double().numpy()
        faces = from_array(arrays["faces"]).long().numpy()
        mesh = Mesh(vertices, faces)
        samples = self.experiment.head.samples
        told: dict[str, Any] = compare(mesh, data.truth, samples=samples)
        told["watertight"] = float(is_watertight(mesh))
        least = floor(data.truth, samples)
        told |= {"floor_face": least["chamfer_face"], "floor_head": least["chamfer_head"]}
        reply = RecordDict({"scores": ConfigRecord(told)})
        if self.experiment.report.pictures and data.portrait is not None:
            cameras = turntable(8, SHOWN)
            poses = cameras.poses[torch.tensor(VIEWS)]
            shots = photographs(data.portrait, poses, FOCAL * SHOWN, SHOWN, data.background)
            row = torch.cat(list(shots.images), 1)
            reply["pictures"] = ArrayRecord({"truth": to_array(row)})
        return reply
