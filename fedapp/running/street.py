"""The nodes of a run of split learning: whose scene lies where, and who holds whose share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedapp.running.lineup import Run
from privacy.node_secret import Advert
from privacy.secagg.identity import enrol_simulated, load_identity
from privacy.secagg.messages import RefusalError
from privacy.secagg.primitives import public_bytes
from strategies.flower.exchanges import unpack_geometry
from strategies.flower.legs import exchange as one_leg
from strategies.flower.records import MALFORMED, content_of, record
from strategies.flower.roster import Node, spread
from strategies.flower.workflow import pack_leg
from tasks.errors import ReplyError
from tasks.split_nerf.scene import Geometry

SERVER_KEY = "server.key"  # of a simulation's roster


class Street:
    """The nodes there are, whose scene lies where, and the public geometry: asked once, shared by
    all arms."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.session = ""
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
        """Folder that simulated nodes are offered; real ones have their own."""
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
            except (ReplyError, RefusalError, *MALFORMED) as error:
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
