"""One scene of one arm on a node: its pieces, its secret streams, its states, what was answered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from flwr.app import RecordDict
from torch import Tensor

from fedapp.config.designs import DESIGNS, Design, sealed_rate, steps_of
from fedapp.node.device import Device
from fedapp.store.client_state import ClientState
from privacy.node_secret import NodeSecret
from privacy.sealed import Scaler
from privacy.secagg.identity import KEY_FILE, load_identity
from privacy.secagg.messages import RefusalError
from strategies.flower.exchanges import Order, request_of
from tasks.atomic import PRIVATE, write_bytes
from tasks.data.cameras import PixelRays
from tasks.errors import InputError
from tasks.split_nerf.halves import ClientHalf, Division, ServerHalf, Whole
from tasks.split_nerf.head import Uniform
from tasks.split_nerf.scene import TOUR, Geometry, Scene, scene_seed

ANSWERED = "answered"  # folder: a file for each request, which holds its digest
LOOK = "look-"  # begins the names of what was judged


def view_rays(device: Device, geometry: Geometry, view: int) -> Tensor:
    """Rays ``[H W, 6]`` of a held-out view, or of a camera of the tour behind them."""
    count = len(geometry.poses)
    if not geometry.train <= view < count + TOUR:
        raise RefusalError(f"view {view} is not one to look at")
    poses = geometry.poses
    if view >= count:
        poses, view = device.pieces.task.tour(geometry, TOUR), view - count
    pixels = PixelRays(poses, geometry.focal, geometry.height, geometry.width)
    return pixels[geometry.of_view(view)]


class ScenePlace:
    """One scene of one arm on this node: its pieces, its state, and what was answered."""

    def __init__(self, device: Device, order: Order) -> None:
        self.device = device
        self.order = order
        self.design: Design = DESIGNS[order.method]
        experiment = device.experiment
        self.division: Division = self.design.division(experiment.split, steps_of(experiment))
        self.scene: Scene = device.pieces.task.client_data(order.client)
        if order.geometry != self.scene.geometry.digest:
            raise RefusalError("the server speaks of another scene's geometry")
        folder = device.state_dir(order.state_dir, order.run)
        if not folder:
            raise InputError(
                "state-dir",
                "",
                "a client keeps its head on the node",
                'start it with --node-config "state-dir=…"',
            )
        self.folder = Path(folder) / f"{order.method}-{order.seed}"
        self.store = ClientState(self.folder)

    @property
    def seed(self) -> int:
        """Of the scene's rays, which is public."""
        return scene_seed(self.order.seed, self.order.client)

    def shape(self, batches: int, rays: int = 0) -> tuple[int, int, int]:
        """Of what crosses: ``[K, B S, W]``."""
        division = self.division
        return batches, (rays or division.rays) * division.samples, division.head.crossing

    @cached_property
    def secret(self) -> NodeSecret:
        """Of this node; in a simulation a stand-in that follows from the arm's seed."""
        if self.device.simulated:
            return NodeSecret.simulated("split", self.order.seed, self.order.client)
        return NodeSecret.of(load_identity(self.device.key_folder("") / KEY_FILE))

    @property
    def purpose(self) -> tuple[object, ...]:
        """Purpose of this scene's streams."""
        run = "" if self.device.simulated else self.order.run
        return (run, self.order.method, self.order.seed, self.order.client, self.pictures)

    @cached_property
    def pictures(self) -> str:
        """SHA-256 of the pictures: others never share a stream with them."""
        return sha256(self.scene.images.contiguous().numpy().tobytes()).hexdigest()

    @cached_property
    def client(self) -> ClientHalf:
        """The head at its secret start."""
        return ClientHalf(self.division, self._start())

    @cached_property
    def scaler(self) -> Scaler | None:
        """The running scale of a sealed table's client."""
        if self.design.kind != "sealed":
            return None
        settings = self.device.experiment.split
        return Scaler(len(settings.cells.split(",")), sealed_rate(settings))

    def _start(self) -> Uniform:
        if not self.device.simulated:
            return self.secret.uniform("split head", *self.purpose)
        # The same for every method: what differs between rows is the design
        run, _, seed, client, pictures = self.purpose
        return self.secret.uniform("split head", run, seed, client, pictures)

    def whole(self, version: int) -> Whole:
        """The field that is not split, as exchange ``version`` left it."""
        order = self.order
        whole = Whole(ServerHalf(self.division, (order.seed, order.client)), self.client)
        if version:
            state = self.store.read(order.client, version)
            whole.server.restore(state)
            whole.client.restore(state)
        return whole

    def train(self, crossing: Iterable[Tensor]) -> Iterator[Tensor]:
        """K steps of the head in order; what leaves of each gradient ``[M, W]`` (of a sealed table:
        in the ring)."""
        settings = self.device.experiment.split
        division, geometry = self.division, self.scene.geometry
        defence = self.design.defence(settings)
        first = (self.order.exchange - 1) * settings.batches
        for k, received in enumerate(crossing):
            step = first + k
            pixels = geometry.batch(self.seed, step, division.rays)
            samples = geometry.march(pixels, division.samples, (self.seed, step))
            draws = self.secret.draws("split noise", *self.purpose, self.order.exchange, k)
            targets = defence.targets(self.scene.colours[pixels], draws)
            _, gradient = self.client.step(samples, received, targets, geometry.background, step)
            if self.scaler:
                yield self.scaler.encode(gradient, division.fade(step))
            else:
                yield defence.protect(gradient, step / division.steps, draws)

    # ------------------------------------------------------------------ versions
    def begin(self, content: RecordDict) -> str:
        """The digest of what is asked; raises :class:`RefusalError` if this exchange was answered
        to another request, or cannot be next."""
        order = self.order
        request = request_of(content)
        made = self._made()
        # Before anything that depends on pictures: whether a request fails must not let the server
        # ask something else
        if not 1 <= order.exchange <= made + 1 or not self._answers(
            f"{order.exchange:06d}", request, new=order.exchange == made + 1
        ):
            raise RefusalError(
                f"exchange {order.exchange} was answered to another request, or is not the next"
            )
        return request

    def begin_look(self, content: RecordDict) -> str:
        """The same for a look. A view is judged once after each exchange: scores of renderings that
        a server makes up, one after another, would tell the picture."""
        order = self.order
        request = request_of(content)
        if order.exchange > self._made():
            raise RefusalError(f"exchange {order.exchange} was not made")
        name = f"{LOOK}{order.exchange:06d}-{order.view}"
        if not self._answers(name, request, new=True):
            raise RefusalError(f"view {order.view} was judged on something else")
        return request

    def _made(self) -> int:
        """The last exchange that was begun."""
        return max((int(file.name) for file in self._answered.glob("[0-9]*")), default=0)

    def _answers(self, name: str, request: str, new: bool) -> bool:
        """Whether ``name`` is answered to this request and no other: of two that come at once, one
        makes the file."""
        file = self._answered / name
        if new and not file.exists():
            with contextlib.suppress(FileExistsError):
                write_bytes(file, request.encode(), PRIVATE, new=True)
        return file.exists() and file.read_text(encoding="ascii") == request

    def finish(self, state: dict[str, Tensor]) -> None:
        """Keep the state after an exchange, before the answer leaves."""
        order = self.order
        self.store.save(order.client, order.exchange, state)
        self.store.prune(order.client, min(order.durable, order.exchange - 1))

    @property
    def _answered(self) -> Path:
        return self.folder / f"client-{self.order.client:06d}" / ANSWERED
