"""Split learning as a workflow: the server's half of every scene, and what it asks of nodes.

A turn is a number of exchanges with every scene, each scene at its own pace
(:func:`strategies.flower.legs.converse`). A scene whose node fails stays where it is and goes on in
the next turn; the others do not wait.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedapp.config.designs import DESIGNS, steps_of
from fedapp.config.pieces import Pieces
from fedapp.run.lineup import Lineup, Run
from fedapp.run.split_scene import ServedScene
from privacy.node_secret import Advert
from privacy.secagg.identity import enrol_simulated, load_identity
from privacy.secagg.messages import RefusalError
from privacy.secagg.primitives import public_bytes
from strategies.flower.exchanges import unpack_geometry
from strategies.flower.legs import converse
from strategies.flower.legs import exchange as one_leg
from strategies.flower.records import content_of, record
from strategies.flower.roster import Node, spread
from strategies.flower.workflow import TurnReport, pack_leg
from strategies.types import Snapshot
from tasks.errors import ReplyError, StoppedError
from tasks.split_nerf.halves import Cost
from tasks.split_nerf.scene import Geometry
from tasks.types import Evaluation, Video

SERVER_KEY = "server.key"  # of a simulation's roster
FILM = 6  # pictures per second of the tour


def build(run: Run) -> Lineup:
    """Every design at every seed."""
    street = Street(run)
    return Lineup([SplitArm(run, street, method, seed) for method, seed in run.pieces.arms], [])


def identity(pieces: Pieces) -> dict[str, Any]:
    """Facts that a checkpoint must agree with to be continued."""
    experiment = pieces.experiment
    split = experiment.split.model_dump()
    return {
        "arms": [f"{method}-{seed}" for method, seed in pieces.arms],
        "split": {key: split[key] for key in sorted(split)},
    }


class Street:
    """The nodes there are, whose scene lies where, and the public geometry: asked once, shared by
    all arms."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.nodes: list[Node] = []
        self.homes: dict[int, Node] = {}
        self.geometry: dict[int, Geometry] = {}
        self.adverts: dict[int, Advert] = {}
        self.absent: dict[int, str] = {}

    @property
    def simulated(self) -> bool:
        return all(node.hosts is None for node in self.nodes)

    @property
    def state_dir(self) -> str:
        """What simulated nodes are offered; real ones have folders of their own."""
        return str(self.run.folder.client_state) if self.simulated else ""

    @property
    def run_id(self) -> str:
        found: str = self.run.folder.read("run.json").get("id", "") or "run"
        return found

    def connect(self, nodes: Sequence[Node]) -> None:
        """Take the nodes there are."""
        if list(nodes) == self.nodes:
            return
        self.nodes = list(nodes)
        clients = range(self.run.pieces.experiment.clients.total)
        shares = spread(clients, self.nodes)
        self.homes = {client: node for node, share in shares for client in share}
        self.geometry.clear()
        self.adverts.clear()
        if self.simulated:
            folder = self.run.folder.client_state
            key = load_identity(folder / SERVER_KEY, create=True)
            enrol_simulated(folder, [node.partition for node in nodes], public_bytes(key))

    def survey(self, grid: Grid) -> None:
        """Ask every node for its scenes' geometry and its key, unless it has said so."""
        experiment = self.run.pieces.experiment
        asked = [
            (node, [c for c, home in self.homes.items() if home is node and c not in self.geometry])
            for node in self.nodes
        ]
        asked = [(node, clients) for node, clients in asked if clients or self._holds(node)]
        self.absent = {}
        messages = []
        for node, clients in asked:
            told = {
                "clients": clients,
                "run": self.run_id,
                "state-dir": self.state_dir,
                "config": experiment.digest,
            }
            messages.append(self.message(node, "scenes", {"scenes": ConfigRecord(told)}, False))  # type: ignore[arg-type]
        timeout = experiment.runtime.timeout
        for index, reply in one_leg(grid, messages, timeout, experiment.runtime.in_flight):
            node, clients = asked[index]
            try:
                self._take(node, clients, content_of(reply, timeout))
            except (ReplyError, RefusalError, KeyError, TypeError, ValueError) as error:
                self.absent |= dict.fromkeys(clients, f"no scene: {error}")

    def _holds(self, node: Node) -> bool:
        """Whether a node's key is wanted and not known."""
        sealed = "sealed" in self.run.pieces.experiment.method_list
        return sealed and node.partition not in self.adverts

    def _take(self, node: Node, clients: list[int], content: RecordDict) -> None:
        for client in clients:
            self.geometry[client] = unpack_geometry(
                record(content, f"poses.{client}", ArrayRecord),
                record(content, f"facts.{client}", ConfigRecord),
            )
        if "peer" in content:
            advert = Advert.unpacked(record(content, "peer", ConfigRecord))
            if advert.number != node.partition:
                raise ReplyError(f"it shows the key of member {advert.number}")
            self.adverts[node.partition] = advert

    def by_partition(self, number: int) -> Node | None:
        """The node with a number in the roster."""
        return next((node for node in self.nodes if node.partition == number), None)

    def message(self, node: Node, leg: str, content: dict[str, Any], trains: bool) -> Message:
        """A message of a leg to a node."""
        timeout = self.run.pieces.experiment.runtime.timeout
        clients = max(self.run.pieces.experiment.clients.total, 1)
        ttl = timeout * clients  # it may wait until others were answered
        return pack_leg(node, leg, content, self.run.fingerprint, self.run.root, ttl, trains)


class SplitArm:
    """One design at one seed, with every scene (a
    :class:`strategies.flower.workflow.Workflow`)."""

    def __init__(self, run: Run, street: Street, method: str, seed: int) -> None:
        self.run = run
        self.street = street
        self.method = method
        self.seed = seed
        self.session = ""
        self.scenes: dict[int, ServedScene] = {}
        self._restored: dict[int, dict[str, torch.Tensor]] = {}
        self._durable: list[dict[int, int]] = []

    # ------------------------------------------------------------------ the seam
    def connect(self, nodes: Sequence[Node], session: str) -> None:
        self.street.connect(nodes)
        self.session = session

    def turn(self, grid: Grid, number: int, show: bool) -> TurnReport:
        started = time.monotonic()
        self._meet(grid)
        settings = self.run.pieces.experiment.split
        goal = number * settings.exchanges
        for scene in self.scenes.values():
            scene.begin_turn(self._newest_durable(scene.client))
        self._converse(grid, [scene.talk(goal) for scene in self.scenes.values()])
        failures = dict(self.street.absent)
        failures |= {s.client: s.failure for s in self.scenes.values() if s.failure}
        going = [scene for scene in self.scenes.values() if not scene.failure]
        if len(going) < self.run.pieces.experiment.clients.min:
            raise StoppedError(
                f"{len(going)} scenes were trained in round {number}, fewer than clients.min: "
                + "; ".join(f"client {c}: {why}" for c, why in sorted(failures.items()))
            )
        made = sum(scene.made for scene in self.scenes.values())
        steps = made * settings.batches
        up = sum(scene.bytes_up for scene in self.scenes.values())
        down = sum(scene.bytes_down for scene in self.scenes.values())
        division = next(iter(self.scenes.values())).division
        metrics: dict[str, Any] = dict(Cost.of(division, not DESIGNS[self.method].crosses).table)
        metrics["exchanges"] = made
        if steps:
            metrics |= {"bytes_up_per_step": up / steps, "bytes_down_per_step": down / steps}
        return TurnReport(
            number,
            clients=len(going),
            failures=failures,
            metrics=metrics,
            bytes_up=up,
            bytes_down=down,
            seconds=time.monotonic() - started,
        )

    def evaluate(self, grid: Grid, number: int, final: bool) -> Evaluation:
        """Nodes render their held-out views and tell what the configuration releases."""
        self._meet(grid)
        experiment = self.run.pieces.experiment
        pictures = final and self.street.simulated and experiment.report.pictures
        first = min(self.scenes, default=-1)
        film = pictures and self.method == experiment.method_list[0]
        talks = [scene.look(film=film and scene.client == first) for scene in self.scenes.values()]
        self._converse(grid, talks)
        metrics: dict[str, Any] = {}
        for name in ("psnr", "ssim"):
            each = [s.scores[name] for s in self.scenes.values() if name in s.scores]
            metrics[name] = sum(each) / len(each) if each else None
        metrics["views"] = {
            str(scene.client): scene.scores["psnr"]
            for scene in self.scenes.values()
            if "psnr" in scene.scores
        }
        shown = {}
        for scene in self.scenes.values() if pictures else ():
            for index, picture in enumerate(scene.pictures[:1]):
                shown[f"{scene.client:04d}-{index}"] = picture
        tour = self.scenes[first].tour if film else []
        films = {"tour": Video(torch.stack(tour), torch.zeros(0))} if tour else {}
        return Evaluation(metrics, shown, films)

    def snapshot(self) -> Snapshot:
        tensors = {
            f"{client}.{name}": tensor
            for client, scene in self.scenes.items()
            for name, tensor in scene.tensors().items()
        }
        made = {client: scene.exchange for client, scene in self.scenes.items()}
        self._durable.append(made)
        return Snapshot(tensors, {"exchanges": {str(c): j for c, j in made.items()}})

    def restore(self, number: int, snapshot: Snapshot) -> None:
        found: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in snapshot.tensors.items():
            client, _, rest = name.partition(".")
            found.setdefault(int(client), {})[rest] = tensor
        self._restored = found
        self.scenes = {}

    # ------------------------------------------------------------------ its parts
    def _newest_durable(self, client: int) -> int:
        """Exchange of the checkpoint before the last: a run may be resumed from either."""
        return self._durable[-2].get(client, 0) if len(self._durable) > 1 else 0

    def _meet(self, grid: Grid) -> None:
        """Make the server's half of every scene whose geometry is known."""
        self.street.survey(grid)
        for client in sorted(self.street.geometry):
            geometry = self.street.geometry[client]
            known = self.scenes.get(client)
            if known is None:
                known = ServedScene(self, client, geometry)
                if client in self._restored:
                    known.restore(self._restored.pop(client))
                self.scenes[client] = known
            elif known.geometry.digest != geometry.digest:
                self.street.absent[client] = "its geometry is another than before"
        self.scenes = dict(sorted(self.scenes.items()))

    def _converse(self, grid: Grid, talks: list[Any]) -> None:
        runtime = self.run.pieces.experiment.runtime
        converse(grid, talks, runtime.timeout, runtime.in_flight)

    @property
    def steps(self) -> int:
        return steps_of(self.run.pieces.experiment)
