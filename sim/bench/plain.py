"""Sums in the clear against flwr's aggregation, and what client-level privacy adds to a round."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from sim.app import OURS, default_config, load_components
from sim.bench import Row, limit, row
from sim.settings import RuntimeSettings
from strategies.cohort import Assignment, CohortResult
from strategies.federation import Fold
from strategies.flower.wire import Order, pack_answer, unpack_answer
from strategies.types import Payload
from tasks.errors import FedappError

UPDATES, CLIENTS_A_NODE, PARAMETERS, TARGET = 20, 10, 1_000_000, 5.0
DP_LIMIT, ROUNDS = 1.05, 7


def measure(quick: bool) -> Iterator[Row]:
    """CPU seconds and memory of one aggregation; seconds of a round with and without a private
    release."""
    mine, theirs = _fold(UPDATES), _flwr(UPDATES)
    if not torch.allclose(mine[1], theirs[1], atol=1e-6):
        raise FedappError("the two aggregations disagree: no ratio")
    yield row(
        f"server CPU, {UPDATES} clients of 1 M, each its own message",
        "s",
        mine[0],
        theirs[0],
        TARGET,
    )
    packed = _fold(UPDATES // CLIENTS_A_NODE)
    case = f"server CPU, {UPDATES} clients of 1 M, {CLIENTS_A_NODE} a node (added there)"
    yield row(case, "s", packed[0], theirs[0], TARGET)
    few, many = _peak(10), _peak(40)
    yield limit("peak memory of adding 40 updates of 1 M, over that of 10", "×", many / few, 1.1)
    plain, private = (_rounds(release) for release in ("plain", "central-dp"))
    yield limit("a round with central-dp, over a plain one", "×", private / plain, DP_LIMIT)


def _vector(index: int) -> torch.Tensor:
    return torch.sin(torch.arange(PARAMETERS, dtype=torch.float32) * (index + 1))


def _order(index: int) -> Order:
    return Order("bench", "erm", Assignment(1, 0, (index,), (0,)), False, False, "")


def _reply(index: int) -> RecordDict:
    vector, weight = _vector(index), float(index + 1)
    return pack_answer(
        CohortResult(Payload(vector * weight, weight, {}, 1), [index]), _order(index)
    )


def _fold(count: int) -> tuple[float, torch.Tensor]:
    """Our server's part: check each reply, add it, divide."""
    replies = [_reply(index) for index in range(count)]
    best, mean = float("inf"), torch.zeros(0)
    for _ in range(5):
        started, fold = time.process_time(), Fold()
        for index, reply in enumerate(replies):
            fold.put(index, unpack_answer(reply, _order(index), PARAMETERS, {}, ()).result.payload)
        assert fold.total is not None, "there are replies"
        mean = fold.total.vector / fold.total.weight
        best = min(best, time.process_time() - started)
    return best, mean


def _flwr(count: int) -> tuple[float, torch.Tensor]:
    """flwr's part for the same updates."""
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    records = [
        RecordDict(
            {
                "arrays": ArrayRecord({"vector": Array(_vector(index).numpy())}),
                "metrics": MetricRecord({"num-examples": float(index + 1)}),
            }
        )
        for index in range(count)
    ]
    best, mean = float("inf"), torch.zeros(0)
    for _ in range(5):
        started = time.process_time()
        found = aggregate_arrayrecords(records, "num-examples")
        best = min(best, time.process_time() - started)
        mean = torch.from_numpy(found["vector"].numpy().copy())
    return best, mean


def _peak(count: int) -> float:
    """Python-side peak of adding replies that are dropped once added, in bytes."""
    fold, peak = Fold(), 0
    for index in range(count):
        reply = _reply(index)
        gc.collect()
        tracemalloc.start()
        fold.put(index, unpack_answer(reply, _order(index), PARAMETERS, {}, ()).result.payload)
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return float(peak)


def _rounds(release: str) -> float:
    """Median seconds of a quickstart round under ``release``, in a fresh interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sim.bench.plain", folder, release]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=OURS)
        if done.returncode:
            raise FedappError(f"the {release} rounds failed:\n{done.stderr[-2000:]}")
        return float(json.loads(done.stdout.splitlines()[-1]))


def _measure_rounds(folder: str, release: str) -> None:
    import logging

    from sim.inprocess import run_in_process

    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_dir = Path(folder) / "run"
    config: dict[str, Any] = default_config() | {
        "recipe": "bench", "run-dir": str(run_dir), "rounds": ROUNDS, "methods": "maml", "release": release,
        "evaluation.uploads": False, "evaluation.every": ROUNDS, "report.page": False, "report.pictures": False,
        "privacy.epsilon-max": 1000.0,
    }  # fmt: skip
    run_in_process(*load_components(), config, RuntimeSettings().nodes)
    events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    seconds = sorted(event["seconds"] for event in events if event["event"] == "round")
    sys.stdout.write(f"{seconds[0]}\n")


if __name__ == "__main__":
    _measure_rounds(sys.argv[1], sys.argv[2])
