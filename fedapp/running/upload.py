"""Obscured upload as a workflow: devices send what an operator leaves, once; the server fits heads.

A turn is a stage of every head of a method. Heads do not share anything: a client that sends
nothing is left out, and the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedapp.config.pieces import Pieces
from fedapp.config.uploads import kind_of
from fedapp.place import cores
from fedapp.running.lineup import Lineup, Run
from privacy.secagg.messages import RefusalError
from strategies.flower.exchanges import request_of
from strategies.flower.legs import exchange
from strategies.flower.records import MALFORMED, bytes_of, content_of, record
from strategies.flower.roster import Node, spread
from strategies.flower.uploads import UploadOrder, refuse_stale, unpack_evidence
from strategies.flower.wire import from_array, to_array
from strategies.flower.workflow import TurnReport, pack_leg
from strategies.types import Snapshot
from tasks.errors import ReplyError, StoppedError
from tasks.fields.distance import representation
from tasks.head.fit import Budget, Fit
from tasks.head.mesh import Mesh
from tasks.head.shading import clay
from tasks.head.stages import Stage, begins_with_template, chosen, described
from tasks.head.task import SHOWN, VIEWS, turntable
from tasks.head.views import Evidence
from tasks.types import Evaluation, Video

log = logging.getLogger("flwr")
TURN = 24  # pictures of a turntable
EVERY = 20.0  # seconds between lines about a stage
UNITS = {  # of scores: distances are told in thousandths of a head height
    "chamfer_face": 1e3,
    "chamfer_head": 1e3,
    "normals": 1.0,
    "watertight": 1.0,
    "floor_face": 1e3,
    "floor_head": 1e3,
}


def build(run: Run) -> Lineup:
    """Every method at every seed."""
    post = Post(run)
    return Lineup([UploadArm(run, post, method, seed) for method, seed in run.pieces.arms], [])


def identity(pieces: Pieces) -> dict[str, Any]:
    """Facts that a checkpoint must agree with to be continued."""
    settings = pieces.experiment.head.model_dump()
    return {
        "arms": [f"{method}-{seed}" for method, seed in pieces.arms],
        "head": {key: settings[key] for key in sorted(settings)},
    }


class Post:
    """The nodes there are and what they have sent: asked once, shared by all arms."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.session = ""
        self.nodes: list[Node] = []
        self.received: dict[tuple[str, int], Evidence] = {}
        self.stages: dict[str, dict[int, dict[str, Tensor]]] = {}  # what heads came to, by stages
        self.bytes_up: dict[tuple[str, int], int] = {}
        self.bytes_down: dict[tuple[str, int], int] = {}

    @property
    def homes(self) -> dict[int, Node]:
        """The node of every client."""
        clients = range(self.run.pieces.experiment.clients.total)
        return {client: node for node, share in spread(clients, self.nodes) for client in share}

    @property
    def simulated(self) -> bool:
        return all(node.hosts is None for node in self.nodes)

    def ask(
        self, grid: Grid, leg: str, kind: str, contents: dict[int, dict[str, Any]]
    ) -> dict[int, RecordDict | str]:
        """One leg to the homes of clients; a text says why there is no answer."""
        experiment, homes = self.run.pieces.experiment, self.homes
        run_id = self.run.folder.read("run.json").get("id", "") or "run"
        timeout = experiment.runtime.timeout
        found: dict[int, RecordDict | str] = dict.fromkeys(contents, "it is not here")
        asked = []
        for client, content in contents.items():
            if client not in homes:
                continue
            order = UploadOrder(self.session, run_id, client, kind, experiment.digest, "")
            message = pack_leg(
                homes[client], leg, {"order": order.packed(), **content}, self.run.fingerprint,
                self.run.root, timeout * max(len(contents), 1), leg == "upload",
            )  # fmt: skip
            asked.append((order, request_of(message.content), message))
        messages = [message for _, _, message in asked]
        for index, reply in exchange(grid, messages, timeout, experiment.runtime.in_flight):
            order, request, message = asked[index]
            try:
                content_found = content_of(reply, timeout)
                refuse_stale(content_found, order, request)
                found[order.client] = content_found
            except (ReplyError, RefusalError, *MALFORMED) as error:
                found[order.client] = str(error)
            self.bytes_down[leg, order.client] = bytes_of(message.content)
        return found

    def collect(self, grid: Grid, kind: str) -> dict[int, str]:
        """Have what is missing sent; returns why clients sent nothing."""
        clients = range(self.run.pieces.experiment.clients.total)
        missing = [client for client in clients if (kind, client) not in self.received]
        failures: dict[int, str] = {}
        for client, answer in self.ask(grid, "upload", kind, {c: {} for c in missing}).items():
            try:
                if isinstance(answer, str):
                    raise ReplyError(answer)
                self.received[kind, client] = unpack_evidence(answer)
                self.bytes_up[kind, client] = bytes_of(answer)
                self.bytes_down[kind, client] = self.bytes_down.pop(("upload", client))
            except (ReplyError, RefusalError, *MALFORMED) as error:
                failures[client] = str(error)
        return failures


class UploadArm:
    """One method at one seed, with every head (a
    :class:`strategies.flower.workflow.Workflow`)."""

    def __init__(self, run: Run, post: Post, method: str, seed: int) -> None:
        self.run = run
        self.post = post
        self.method = method
        self.seed = seed
        experiment = run.pieces.experiment
        self.stages = chosen(method, experiment.head)
        self.kind = kind_of(self.stages)
        self.fits: dict[int, Fit] = {}
        self.restored: dict[int, tuple[dict[str, Tensor], int]] = {}

    # ------------------------------------------------------------------ the seam
    def connect(self, nodes: Sequence[Node], session: str) -> None:
        self.post.nodes = list(nodes)
        self.post.session = session

    def turn(self, grid: Grid, number: int, show: bool) -> TurnReport:
        started = time.monotonic()
        experiment = self.run.pieces.experiment
        failures = self._meet(grid)
        if len(self.fits) < experiment.clients.min:
            raise StoppedError(
                f"{len(self.fits)} heads can be fitted, fewer than clients.min: "
                + "; ".join(f"client {c}: {why}" for c, why in sorted(failures.items()))
            )
        metrics: dict[str, Any] = {}
        if number <= len(self.stages):
            metrics["seconds_per_step"] = self._run_stage(number)
        up = sum(v for (kind, _), v in self.post.bytes_up.items() if kind == self.kind)
        down = sum(v for (kind, _), v in self.post.bytes_down.items() if kind == self.kind)
        return TurnReport(
            number,
            clients=len(self.fits),
            failures=failures,
            metrics=metrics,
            bytes_up=up if number == 1 else 0,
            bytes_down=down if number == 1 else 0,
            seconds=time.monotonic() - started,
        )

    def evaluate(self, grid: Grid, number: int, final: bool) -> Evaluation:
        """Meshes are held against the truth where it is known, by the nodes of a simulation."""
        self._meet(grid)
        experiment = self.run.pieces.experiment
        meshes, none = {}, 0
        for client, fit in self.fits.items():
            try:
                meshes[client] = fit.surface()
            except ValueError:
                none += 1
        metrics: dict[str, Any] = {"without_surface": none}
        judged: dict[int, dict[str, float]] = {}
        pictures: dict[str, Tensor] = {}
        shown = final and self.post.simulated and experiment.report.pictures
        if self.post.simulated and meshes:
            contents = {client: {"mesh": _packed(mesh)} for client, mesh in meshes.items()}
            for client, answer in self.post.ask(grid, "judge", self.kind, contents).items():
                if isinstance(answer, str):
                    log.warning("head %d was not judged: %s", client, answer)
                    continue
                told = record(answer, "scores", ConfigRecord)
                judged[client] = {n: UNITS[n] * float(told[n]) for n in UNITS if n in told}  # type: ignore[arg-type]
                if shown and "pictures" in answer:
                    truth = from_array(record(answer, "pictures", ArrayRecord)["truth"])
                    own = _rendered(self.fits[client], meshes[client])
                    pictures[f"{client:04d}-0"] = torch.cat([truth.clone(), own], 1)
        for name in UNITS:
            each = [row[name] for row in judged.values() if name in row]
            # a mean over fewer heads than there are is another number
            whole = len(each) == experiment.clients.total
            metrics[name] = sum(each) / len(each) if whole else None
        metrics["face_of"] = {str(client): row["chamfer_face"] for client, row in judged.items()}
        bound = [_bound(fit) for fit in self.fits.values()]
        metrics["opacity_bound_held"] = sum(bound) / len(bound) if bound else None
        films = {}
        if shown and meshes:
            first = min(meshes)
            pictures[f"{first:04d}-1"] = _seen(self.fits[first].evidence)
            films["tour"] = Video(clay(meshes[first], turntable(TURN, SHOWN)), torch.zeros(0))
        if final:
            self._keep(meshes)
        return Evaluation(metrics, pictures, films)

    def snapshot(self) -> Snapshot:
        tensors: dict[str, Tensor] = {}
        for client, fit in self.fits.items():
            tensors |= {f"{client}.{name}": part for name, part in fit.tensors().items()}
        return Snapshot(tensors, {"stages": {str(c): fit.stage for c, fit in self.fits.items()}})

    def restore(self, number: int, snapshot: Snapshot) -> None:
        found: dict[int, dict[str, Tensor]] = {}
        for name, tensor in snapshot.tensors.items():
            client, _, rest = name.partition(".")
            found.setdefault(int(client), {})[rest] = tensor
        stages = snapshot.facts["stages"]
        self.restored = {
            client: (parts, int(stages[str(client)])) for client, parts in found.items()
        }
        self.fits = {}

    # ------------------------------------------------------------------ its parts
    def _run_stage(self, number: int) -> float | None:
        """Stage ``number`` of every head, heads side by side; seconds per step and head, ``None``
        where another arm has gone through the very same stages from the same seed."""
        stage = self.stages[number - 1]
        same = f"{self.kind} {self.seed} {described(self.stages[:number])}"
        known = self.post.stages.setdefault(same, {})
        fresh = {client: fit for client, fit in self.fits.items() if client not in known}
        for client, fit in self.fits.items():
            if client in known:
                fit.restore(known[client], number)
        started = time.monotonic()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # not one head over all cores
        try:
            with ThreadPoolExecutor(cores()) as pool:
                jobs = [
                    pool.submit(fit.run, stage, _progress(self.method, client, stage))
                    for client, fit in fresh.items()
                ]
                for job in jobs:
                    job.result()
        finally:
            torch.set_num_threads(threads)
        known |= {client: fit.tensors() for client, fit in fresh.items()}
        if not fresh:
            return None
        return (time.monotonic() - started) / stage.steps / len(fresh)

    def _meet(self, grid: Grid) -> dict[int, str]:
        """Begin the fit of every head whose pictures are here."""
        failures = self.post.collect(grid, self.kind)
        settings = self.run.pieces.experiment.head
        budget = Budget(settings.rays, settings.patches, settings.patch)
        for (kind, client), evidence in sorted(self.post.received.items(), key=lambda e: e[0][1]):
            if kind != self.kind or client in self.fits:
                continue
            if why := unfit(self.stages, evidence):
                failures[client] = why
                continue
            fit = self._begun(evidence, budget)
            if client in self.restored:
                fit.restore(*self.restored.pop(client))
            self.fits[client] = fit
        return failures

    def _begun(self, evidence: Evidence, budget: Budget) -> Fit:
        """A fit at its start: a ball, or a public template."""
        experiment = self.run.pieces.experiment
        if not begins_with_template(self.stages):
            first = self.stages[0].grids
            side = first[0] if first else experiment.head.grid
            kind = representation(experiment.head.field)
            return Fit(evidence, budget, self.seed, side=side, representation=kind)
        from tasks.head import template

        own, side = experiment.template, experiment.head.grid
        mean, components = template.public(own.people, own.style, own.components)
        return Fit(
            evidence, budget, self.seed, template.start(mean, side), side,
            template.basis(components),
        )  # fmt: skip

    def _keep(self, meshes: dict[int, Mesh]) -> None:
        """Write the meshes into the run folder."""
        from fedapp.export_meshes import MESHES
        from tasks.head.export import write_ply

        folder = self.run.folder.path / MESHES
        folder.mkdir(exist_ok=True)
        for client, mesh in meshes.items():
            write_ply(folder / f"{self.method}-{self.seed}-{client:04d}.ply", mesh)


def unfit(stages: Sequence[Stage], evidence: Evidence) -> str:
    """Reason why the first stage has nothing to be fitted to; empty if it has."""
    first = stages[0]
    has = {"neutral": evidence.neutral is not None, "operator": evidence.obscured is not None}
    if any(first.weight(name) and there for name, there in has.items()):
        return ""
    return "it sent no neutral views, and the first stage is fitted to nothing else"


def _progress(method: str, client: int, stage: Stage) -> Callable[[int], None]:
    """A line in the log every ``EVERY`` seconds: how far a stage is, and the time left."""
    started = last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < EVERY:
            return
        last = now
        left = (now - started) / done * (stage.steps - done)
        log.info(
            "%s, stage %s, client %d: step %d/%d, %.0f s left",
            method, stage.name, client, done, stage.steps, left,
        )  # fmt: skip

    return tell


def _packed(mesh: Mesh) -> ArrayRecord:
    return ArrayRecord(
        {
            "vertices": to_array(torch.from_numpy(mesh.vertices).float()),
            "faces": to_array(torch.from_numpy(mesh.faces).int()),
        }
    )


def _rendered(fit: Fit, mesh: Mesh) -> Tensor:
    """The fit's colours from three sides, and its bare surface."""
    cameras = turntable(8, SHOWN).some(torch.tensor(VIEWS))
    colours = torch.cat(list(fit.pictures(cameras)), 1)
    return torch.cat([colours, torch.cat(list(clay(mesh, cameras)), 1)], 1)


def _seen(evidence: Evidence) -> Tensor:
    """What the server has of a head: a few neutral views and obscured ones, in a row."""
    parts = []
    if evidence.neutral is not None:
        views = evidence.neutral.images
        parts += list(views[:: max(1, len(views) // 3)][:3])
    if evidence.obscured is not None:
        values = evidence.obscured.values
        grey = (values / values.max().clamp(min=1e-6)).clamp(0, 1)[..., None].expand(-1, -1, -1, 3)
        parts += list(grey[:: max(1, len(grey) // 3)][:3])
    shown = [
        torch.nn.functional.interpolate(part.permute(2, 0, 1)[None], (SHOWN, SHOWN))[0].permute(
            1, 2, 0
        )
        for part in parts
    ]
    return torch.cat(shown, 1)


def _bound(fit: Fit) -> float:
    """Share of rays of a frontal picture whose opacity is known to within 0.1."""
    cameras = turntable(8, 32).some(torch.tensor([0]))
    pixel = torch.arange(32 * 32)
    origins, directions = cameras.rays(torch.zeros_like(pixel), pixel // 32, pixel % 32)
    return float((fit.sampling_error(origins, directions) <= 0.1).float().mean())
