"""Cost of a round itself: virtual clients packed into two nodes against one stock Flower node per
client.

Both sides run through ``flwr run`` on two Ray actors, clients do no work, and the time is taken
between the ends of rounds, so it holds everything a round does (ours also writes a checkpoint and
an event). The limit on Ray is Flower's own: a stock round of two nodes that exchange one number.
The in-process rows run the same apps without Ray, in a fresh interpreter each, which also gives the
peak memory; their limit is reading each client's update once.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from sim.app import OURS, default_config, load_components
from sim.bench.limits import Work, chunks, reading
from sim.bench.rows import Limit, Row, at_most, row
from sim.bench.timing import median_seconds
from sim.bench.toy import ToyTask
from sim.launch import flwr_run
from sim.settings import RuntimeSettings
from strategies.cohort import chunk_width
from tasks.errors import FedappError
from tasks.settings import TaskSettings

STOCK = Path(__file__).resolve().parent / "stock"
#        clients, parameters, target ratio, rounds of ours, rounds of stock
CASES = (
    (10, 100_000, None, 20, 6),
    (200, 100_000, 13.0, 20, 5),
    (1000, 100_000, 150.0, 20, 2),
    (200, 5_000_000, 30.0, 10, 2),
)
MOST_ON_RAY = 0.11  # seconds
MOST_IN_PROCESS = 0.010  # seconds
MOST_GROWTH = 1.1  # peak memory over that of the smallest cohort
EMPTY_ROUNDS = 20


def toy_config(clients: int, parameters: int, rounds: int, run_dir: Path) -> dict[str, Any]:
    """Our app with clients that do no work.

    Args:
        clients: how many take part in every round.
        parameters: P, numbers per update.
        rounds: how many.
        run_dir: its run folder.
    """
    return default_config() | {
        "recipe": "bench",
        "run-dir": str(run_dir),
        "rounds": rounds,
        "task": "sim.bench.toy:ToyTask",
        "task-options": json.dumps({"parameters": parameters}),
        "methods": "sim.bench.toy:Idle",
        "clients.total": clients,
        "evaluation.uploads": False,
        "evaluation.every": rounds,
        "report.pictures": False,
        "report.page": False,
    }


def ours_on_ray(clients: int, parameters: int, rounds: int) -> float:
    """Median seconds between the ends of our rounds on Ray."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        config = toy_config(clients, parameters, rounds, run_dir)
        ending = flwr_run(OURS, config, RuntimeSettings(), Path(folder) / "flower.log")
        return median_gap(clock_of(run_dir, rounds, clients, ending.details))


def stock_on_ray(clients: int, parameters: int, rounds: int) -> float:
    """Median seconds between the ends of stock rounds, one SuperNode per client, two actors."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        log = Path(folder) / "flower.log"
        config = {"parameters": parameters, "rounds": rounds, "out": str(out)}
        ending = flwr_run(STOCK, config, RuntimeSettings(nodes=clients), log)
        if not out.exists():
            raise FedappError(
                f"the stock run failed: {ending.details}\n{log.read_text(encoding='utf-8')[-2000:]}"
            )
        found = json.loads(out.read_text(encoding="utf-8"))
        if found["failed"]:
            raise FedappError(f"stock rounds {found['failed']} lost replies: no ratio")
        return median_gap(found["clock"])


def in_process(clients: int, parameters: int, rounds: int) -> dict[str, Any]:
    """Our rounds in one process, measured in a fresh interpreter: ``seconds`` of one, ``peak_mb``,
    and the ``limit`` of reading its updates (seconds, and in words)."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = map(str, (clients, parameters, rounds))
        command = [sys.executable, "-m", "sim.bench.rounds", folder, *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=OURS)
        if done.returncode:
            raise FedappError(f"the in-process run failed:\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def measure(quick: bool) -> Iterator[Row]:
    """All rows about rounds; ``quick`` leaves out the limit on Ray: each case is needed and none is
    long."""
    empty = None if quick else _empty_round()
    for clients, parameters, target, rounds, stock_rounds in CASES:
        name = f"{clients} clients × {parameters / 1e6:g} M"
        ours = ours_on_ray(clients, parameters, rounds)
        stock = stock_on_ray(clients, parameters, stock_rounds)
        small = parameters == 100_000  # five million numbers take longer to read than to send
        limit = empty if small else None
        yield row(f"round on Ray, {name}, against stock", "s", ours, stock, target, limit)
        if small:
            yield at_most(f"round on Ray, {name}, at most", "s", ours, MOST_ON_RAY, limit)
    first = None
    for clients in (10, 200, 1000):
        found = in_process(clients, 100_000, 40)
        first = first or found["peak_mb"]
        name = f"{clients} clients × 0.1 M"
        yield at_most(
            f"round in process, {name}, at most",
            "s",
            found["seconds"],
            MOST_IN_PROCESS,
            Limit(*found["limit"]),
        )
        yield at_most(
            f"peak memory in process, {name}", "MB", found["peak_mb"], MOST_GROWTH * first
        )


def _empty_round() -> Limit:
    """Flower's own round on this machine: two nodes, messages of one number, nothing to do."""
    seconds = stock_on_ray(2, 1, EMPTY_ROUNDS)
    return Limit(seconds, "a stock round of two nodes that exchange one number")


def bare_reading(clients: int, parameters: int) -> Work:
    """Each client's update read once, from a buffer as large as a chunk of the toy's clients.

    The toy's updates are rows of one matrix that every chunk reads anew, so they come from a cache
    where that matrix fits into one, and so they do here.
    """
    task = ToyTask(TaskSettings(task_options=json.dumps({"parameters": parameters})))
    width = min(chunk_width(task.working_set(1, 0), torch.device("cpu")), clients)
    matrix = torch.zeros(width, parameters)
    return reading([matrix[: chunk.clients] for chunk in chunks(clients, width, ())])


def clock_of(run_dir: Path, rounds: int, clients: int, details: str) -> list[float]:
    """Round ends from the events; refuses a run in which any client of any round is missing.

    Args:
        run_dir: a run folder.
        rounds: how many there must be.
        clients: how many must have answered in each.
        details: said of the run in the refusal.
    """
    file = run_dir / "metrics.jsonl"
    events = (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if file.exists()
        else []
    )
    clock = [
        e["clock"]
        for e in events
        if e["event"] == "round" and e["clients"] == {"ok": clients, "failed": 0}
    ]
    if len(clock) < rounds:
        raise FedappError(
            f"only {len(clock)} of {rounds} rounds were complete ({details}): no ratio"
        )
    return clock


def median_gap(clock: list[float]) -> float:
    """Median seconds between rounds but for the first gap, which holds the start of the actors."""
    gaps = [after - before for before, after in pairwise(clock)]
    return statistics.median(gaps[1:] or gaps)


def _measure_here(folder: str, clients: int, parameters: int, rounds: int) -> None:
    import logging

    from sim.inprocess import run_in_process

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_dir = Path(folder) / "run"
    config = toy_config(clients, parameters, rounds, run_dir)
    run_in_process(*load_components(), config, RuntimeSettings().nodes)
    seconds = median_gap(clock_of(run_dir, rounds, clients, "in process"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # before the limit allocates
    bare = bare_reading(clients, parameters)
    limit = bare.limit(median_seconds(bare.run))
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_mb": peak, "limit": limit}) + "\n")


if __name__ == "__main__":
    _measure_here(sys.argv[1], *map(int, sys.argv[2:5]))
