"""``fedapp bench split-nerf``: what splitting a field costs beside training it in one place.

CPU seconds per step through the real apps and real messages in one process; seconds on the wall per
step and scene on Ray, for one scene and for three that overlap; bytes against the arithmetic of the
wire format; seconds per exchange of a deployed SuperLink with SuperNodes. References are measured
in
the same run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import read_recipe
from fedapp.place import ROOT
from fedapp.running.start import execute
from fedapp.store.runfolder import RunFolder
from sim.bench.rows import Row, at_most, row, unmeasured
from tasks.errors import StoppedError

MOST_CPU = 1.6  # over the field in one place, in process
MOST_WALL = 1.5  # three overlapped scenes over three in one place, on Ray
SLACK = 1.02  # of bytes
STEPS = 128  # of the runs in process
RAY_STEPS = 192
DEVICES = 2
DEPLOYED_EXCHANGES = 2  # of each of two rounds
WIRE = {"split": (2 * 64, 2 * 64), "sealed": (8 * 20 + 4 * 20, 4 * 20 + 4 * 20)}  # bytes per sample


class Silent:
    """No display (a :class:`fedapp.running.start.Watch`)."""

    def tick(self) -> None:
        return

    def live(self, threaded: bool) -> AbstractContextManager[None]:
        return nullcontext()


def measure(quick: bool) -> Iterator[Row]:
    """All rows; ``quick``: few steps, in process alone."""
    import torch

    torch.set_num_threads(1)
    steps = 16 if quick else STEPS
    for batches in (1, 16):
        alone = _alone_seconds(steps)
        for method in ("split", "sealed"):
            events, cpu = _in_process(method, batches, steps)
            alone = min(alone, _alone_seconds(steps))
            bound = MOST_CPU if method == "split" else None
            name = f"CPU per step over unsplit, {method}, K = {batches}"
            yield (
                at_most(name, "×", cpu / alone, bound)
                if bound
                else row(name, "×", cpu / alone, None, None)
            )
            yield from _bytes(method, batches, events)
    if quick:
        yield unmeasured("wall per step, on Ray", "s", "left out by --quick")
        return
    for scenes in (1, 3):
        bare = _on_ray("unsplit", 16, scenes)
        for method in ("split", "sealed"):
            own = _on_ray(method, 16, scenes)
            what = f"{scenes} scenes overlapped" if scenes > 1 else "one scene"
            name = f"wall on Ray over unsplit, {method}, K = 16, {what}"
            asked = method == "split" and scenes > 1
            yield (
                at_most(name, "×", own / bare, MOST_WALL)
                if asked
                else row(name, "×", own / bare, None, None)
            )
    for method, seconds in _deployed().items():
        yield row(
            f"per exchange of two scenes, deployed, {method}, K = 16", "s", seconds, None, None
        )


def _experiment(
    folder: str, method: str, batches: int, steps: int, scenes: int, rounds: int = 2
) -> Experiment:
    values: dict[str, Any] = known_keys() | read_recipe("split-nerf")
    values |= {
        "run-dir": folder,
        "methods": method,
        "clients.total": scenes,
        "rounds": rounds,
        "split.batches": batches,
        "split.exchanges": steps // batches // 2,
        "split.metrics": False,
        "evaluation.every": 99,
        "report.page": False,
        "report.pictures": False,
    }
    return Experiment.from_run_config(values)


def _in_process(method: str, batches: int, steps: int) -> tuple[list[dict[str, Any]], float]:
    """Events of the rounds, and CPU seconds per step: of two rounds less those of one, each the
    least of three."""
    spent: dict[int, list[float]] = {1: [], 2: []}
    for rounds in (1, 2) * 3:
        with tempfile.TemporaryDirectory() as place:
            experiment = _experiment(f"{place}/run", method, batches, steps, 1, rounds)
            started = time.process_time()
            events = _run(experiment, "in-process")
            spent[rounds].append(time.process_time() - started)
    return events, (min(spent[2]) - min(spent[1])) / (steps // 2)


def _on_ray(method: str, batches: int, scenes: int) -> float:
    """Seconds on the wall per step of the second round."""
    with tempfile.TemporaryDirectory() as place:
        experiment = _experiment(f"{place}/run", method, batches, RAY_STEPS, scenes)
        events = _run(experiment, "ray")
    return float(events[-1]["seconds"]) / (RAY_STEPS // 2)


def _deployed() -> dict[str, float]:
    """Seconds per exchange of a SuperLink with two SuperNodes, both scenes at once, in the second
    round. (Flower polls every 3 s on both sides and starts a process for each message.)"""
    from privacy.secagg.identity import KEY_FILE, POLICY_FILE, Policy, Roster, load_identity
    from privacy.secagg.primitives import public_bytes
    from sim.deployed import deployed

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        homes = [root / f"home-{number}" for number in range(DEVICES)]
        members = {
            number: public_bytes(load_identity(home / KEY_FILE, create=True))
            for number, home in enumerate(homes)
        }
        roster = root / "roster.json"
        Roster(members, public_bytes(load_identity(root / "server.pem", create=True))).write(roster)
        nodes: list[dict[str, Any]] = []
        for number, home in enumerate(homes):
            Policy(releases=("plain",), designs=("sealed", "split")).write(home / POLICY_FILE)
            nodes.append(
                {"partition-id": number, "clients": str(number), "data-path": "bundled",
                 "state-dir": str(home), "roster": str(roster)}
            )  # fmt: skip
        folder = RunFolder(root / "run")
        steps = 2 * DEPLOYED_EXCHANGES * 16
        values = _experiment(str(folder.path), "split,sealed", 16, steps, DEVICES).to_run_config()
        with deployed(root, nodes) as town:
            town.submit(ROOT, values | {"runtime.nodes": DEVICES, "data.hosted": "none"})
        last = [event for event in folder.events() if event["event"] == "round"][-2:]
        if len(last) < 2:
            raise StoppedError(f"the deployed run did not finish: {folder.status}")
    return {event["method"]: float(event["seconds"]) / DEPLOYED_EXCHANGES for event in last}


def _run(experiment: Experiment, runtime: str) -> list[dict[str, Any]]:
    folder = RunFolder(Path(experiment.run_dir))
    folder.create(experiment.to_run_config(), {"runtime": runtime})
    execute(experiment, folder, runtime, Silent())
    return [event for event in folder.events() if event["event"] == "round"]


def _alone_seconds(steps: int) -> float:
    """CPU seconds per step of the field in one place, without any messages."""
    from fedapp.config.designs import DESIGNS
    from privacy.node_secret import NodeSecret
    from tasks.split_nerf.halves import ClientHalf, ServerHalf, Whole
    from tasks.split_nerf.scene import scene_seed
    from tasks.split_nerf.task import SplitNerf

    experiment = _experiment("", "unsplit", 1, steps, 1)
    scene = SplitNerf(experiment).client_data(0)
    division = DESIGNS["unsplit"].division(experiment.split, steps)
    head = ClientHalf(division, NodeSecret.simulated("bench").uniform("head"))
    whole = Whole(ServerHalf(division, (0, 0)), head)
    half = steps // 2
    started = 0.0
    for step in range(steps):
        if step == half:
            started = time.process_time()
        whole.step(scene.geometry, scene.colours, scene_seed(0, 0), step)
    return (time.process_time() - started) / (steps - half)


def _bytes(method: str, batches: int, events: list[dict[str, Any]]) -> Iterator[Row]:
    """Bytes per step and direction beside the arithmetic of the wire format."""
    settings = Experiment.from_run_config(known_keys() | read_recipe("split-nerf")).split
    samples = settings.rays * settings.samples
    for way, wanted in zip(("up", "down"), WIRE[method], strict=True):
        found = events[-1]["metrics"][f"bytes_{way}_per_step"]
        yield at_most(
            f"bytes {way} per step, {method}, K = {batches}",
            "B",
            float(found),
            SLACK * samples * wanted,
        )
