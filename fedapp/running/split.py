"""Split learning as a workflow: the server's half of every scene, and what it asks of nodes.

A turn is a number of exchanges with every scene, each scene at its own pace
(:func:`strategies.flower.legs.converse`). A scene whose node fails stays where it is and goes on in
the next turn; the others do not wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from flwr.serverapp import Grid

from fedapp.config.designs import DESIGNS
from fedapp.config.pieces import Pieces
from fedapp.running.lineup import Lineup, Run
from fedapp.running.split_scene import ServedScene
from fedapp.running.street import Street
from strategies.flower.legs import converse
from strategies.flower.roster import Node
from strategies.flower.workflow import TurnReport
from strategies.types import Snapshot
from tasks.errors import StoppedError
from tasks.split_nerf.halves import Cost
from tasks.types import Evaluation, Video

log = logging.getLogger("flwr")


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


class SplitArm:
    """One design at one seed, with every scene (a
    :class:`strategies.flower.workflow.Workflow`)."""

    def __init__(self, run: Run, street: Street, method: str, seed: int) -> None:
        self.run = run
        self.street = street
        self.method = method
        self.seed = seed
        self.scenes: dict[int, ServedScene] = {}
        self._restored: dict[int, dict[str, torch.Tensor]] = {}
        self._durable: list[dict[int, int]] = []

    # ------------------------------------------------------------------ the seam
    def connect(self, nodes: Sequence[Node], session: str) -> None:
        self.street.connect(nodes)
        self.street.session = session

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
        for scene in self.scenes.values():
            if scene.failure:
                log.warning("scene %d was not looked at: %s", scene.client, scene.failure)
        metrics: dict[str, Any] = {}
        total = experiment.clients.total
        for name in ("psnr", "ssim"):
            each = [s.scores[name] for s in self.scenes.values() if name in s.scores]
            # a mean over fewer scenes than there are is another number
            metrics[name] = sum(each) / len(each) if len(each) == total else None
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
                known = ServedScene(self.street, self.method, self.seed, client, geometry)
                if client in self._restored:
                    known.restore(self._restored.pop(client))
                self.scenes[client] = known
            elif known.geometry.digest != geometry.digest:
                self.street.absent[client] = "its geometry is another than before"
        self.scenes = dict(sorted(self.scenes.items()))

    def _converse(self, grid: Grid, talks: list[Any]) -> None:
        runtime = self.run.pieces.experiment.runtime
        converse(grid, talks, runtime.timeout, runtime.in_flight)
