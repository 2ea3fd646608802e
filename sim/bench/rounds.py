"""What a round itself costs: virtual clients packed into two nodes against one stock Flower node
per client.

Both sides run through ``flwr run`` on two Ray actors, clients do no work, and the time is taken
between the ends of rounds, so it holds everything a round does (ours also writes a checkpoint and
an event). The in-process rows run the same apps without Ray, in a fresh interpreter each, which
also gives the peak memory.
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

from sim.app import OURS, default_config, load_components
from sim.bench import Row, limit, row
from sim.launch import flwr_run
from sim.settings import RuntimeSettings
from tasks.errors import FedappError

STOCK = Path(__file__).resolve().parent / "stock"
#        clients, parameters, target ratio, rounds of ours, rounds of stock
CASES = (
    (10, 100_000, None, 20, 6),
    (200, 100_000, 13.0, 20, 5),
    (1000, 100_000, 150.0, 20, 2),
    (200, 5_000_000, 30.0, 10, 2),
)
RAY_LIMIT, PROCESS_LIMIT, GROWTH_LIMIT = 0.11, 0.010, 1.1  # seconds, seconds, ratio


def toy_config(clients: int, parameters: int, rounds: int, run_dir: Path) -> dict[str, Any]:
    """Our app with clients that do no work."""
    return default_config() | {
        "recipe": "bench", "run-dir": str(run_dir), "rounds": rounds, "task": "sim.bench.toy:ToyTask",
        "task-options": json.dumps({"parameters": parameters}), "methods": "sim.bench.toy:Idle",
        "clients.total": clients, "evaluation.uploads": False, "evaluation.every": rounds,
        "report.pictures": False, "report.page": False,
    }  # fmt: skip


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
        out, log = Path(folder) / "out.json", Path(folder) / "flower.log"
        config = {"parameters": parameters, "rounds": rounds, "out": str(out)}
        ending = flwr_run(STOCK, config, RuntimeSettings(nodes=clients), log)
        if not out.exists():
            raise FedappError(f"the stock run failed: {ending.details}\n{log.read_text()[-2000:]}")
        found = json.loads(out.read_text())
        if found["failed"]:
            raise FedappError(f"stock rounds {found['failed']} lost replies: no ratio")
        return median_gap(found["clock"])


def in_process(clients: int, parameters: int, rounds: int) -> dict[str, float]:
    """``{"seconds", "peak_mb"}`` of our rounds in one process, measured in a fresh interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "sim.bench.rounds",
            folder,
            str(clients),
            str(parameters),
            str(rounds),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=OURS)
        if done.returncode:
            raise FedappError(f"the in-process run failed:\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def measure(quick: bool) -> Iterator[Row]:
    """All rows about rounds; ``quick`` changes nothing here: each case is needed and none is
    long."""
    for clients, parameters, target, rounds, stock_rounds in CASES:
        name = f"{clients} clients × {parameters / 1e6:g} M"
        ours, stock = (
            ours_on_ray(clients, parameters, rounds),
            stock_on_ray(clients, parameters, stock_rounds),
        )
        yield row(f"round on Ray, {name}, against stock", "s", ours, stock, target)
        if parameters == 100_000:
            yield limit(f"round on Ray, {name}, at most", "s", ours, RAY_LIMIT)
    first = None
    for clients in (10, 200, 1000):
        found = in_process(clients, 100_000, 40)
        yield limit(
            f"round in process, {clients} clients × 0.1 M, at most",
            "s",
            found["seconds"],
            PROCESS_LIMIT,
        )
        first = first or found["peak_mb"]
        yield limit(
            f"peak memory in process, {clients} clients × 0.1 M",
            "MB",
            found["peak_mb"],
            GROWTH_LIMIT * first,
        )


def clock_of(run_dir: Path, rounds: int, clients: int, details: str) -> list[float]:
    """Round ends from the events; refuses a run in which any client of any round is missing."""
    file = run_dir / "metrics.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
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
    """The first gap is left out: it holds the start of the actors."""
    gaps = [after - before for before, after in pairwise(clock)]
    return statistics.median(gaps[1:] or gaps)


def _measure_this_process(folder: str, clients: int, parameters: int, rounds: int) -> None:
    import logging

    from sim.inprocess import run_in_process

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_dir = Path(folder) / "run"
    config = toy_config(clients, parameters, rounds, run_dir)
    run_in_process(*load_components(), config, RuntimeSettings().nodes)
    seconds = median_gap(clock_of(run_dir, rounds, clients, "in process"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_mb": peak}) + "\n")


if __name__ == "__main__":
    _measure_this_process(sys.argv[1], *map(int, sys.argv[2:5]))
