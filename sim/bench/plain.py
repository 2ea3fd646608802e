"""Sums in the clear against flwr's aggregation, and the price of client-level privacy per round."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from sim.app import OURS, default_config, load_components
from sim.bench.limits import reading
from sim.bench.rows import Row, at_most, row
from sim.bench.timing import interleaved
from sim.settings import RuntimeSettings
from strategies.cohort import Assignment, CohortResult
from strategies.federation import Fold
from strategies.flower.wire import Order, pack_answer, unpack_answer
from strategies.types import Payload
from tasks.errors import FedappError

UPDATES = 20
CLIENTS_A_NODE = 10
PARAMETERS = 1_000_000
TARGET = 5.0
MOST_MEMORY = 1.1  # of adding many updates, over that of few
MOST_DP = 1.05  # a round with client-level privacy, over a plain one
ROUNDS = 7
REPEATS = 5


def measure(quick: bool) -> Iterator[Row]:
    """CPU seconds and memory of one aggregation; seconds of a round with and without a private
    release."""
    yield from _aggregations()
    yield at_most(
        "peak memory of adding 40 updates of 1 M, over that of 10",
        "×",
        _peak(40) / _peak(10),
        MOST_MEMORY,
    )
    plain, private = (_rounds(release) for release in ("plain", "central-dp"))
    yield at_most("a round with central-dp, over a plain one", "×", private / plain, MOST_DP)


def _aggregations() -> Iterator[Row]:
    """Our server's part and flwr's; the limit reads each arriving vector once."""
    theirs = _flwr(UPDATES)
    for count, how in (
        (UPDATES, "each its own message"),
        (UPDATES // CLIENTS_A_NODE, f"{CLIENTS_A_NODE} a node (added there)"),
    ):
        mine = _fold(count)
        if count == UPDATES and not torch.allclose(mine(), theirs(), atol=1e-6):
            raise FedappError("the two aggregations disagree: no ratio")
        bare = reading([_vector(index) for index in range(count)])
        ours, reference, least = interleaved(mine, theirs, bare.run, repeats=REPEATS)
        case = f"server CPU, {UPDATES} clients of 1 M, {how}"
        yield row(case, "s", ours, reference, TARGET, bare.limit(least))


def _vector(index: int) -> torch.Tensor:
    return torch.sin(torch.arange(PARAMETERS, dtype=torch.float32) * (index + 1))


def _order(index: int) -> Order:
    return Order("bench", "erm", Assignment(1, 0, (index,), (0,)), False, False, "")


def _reply(index: int) -> RecordDict:
    weight = float(index + 1)
    payload = Payload(_vector(index) * weight, weight, {}, 1)
    return pack_answer(CohortResult(payload, [index]), _order(index))


def _fold(count: int) -> Callable[[], torch.Tensor]:
    """Our server's part: check each reply, add it, divide."""
    replies = [_reply(index) for index in range(count)]

    def mean() -> torch.Tensor:
        fold = Fold()
        for index, reply in enumerate(replies):
            fold.put(index, unpack_answer(reply, _order(index), PARAMETERS, {}, ()).result.payload)
        assert fold.total is not None, "there are replies"
        return fold.total.vector / fold.total.weight

    return mean


def _flwr(count: int) -> Callable[[], torch.Tensor]:
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

    def mean() -> torch.Tensor:
        found = aggregate_arrayrecords(records, "num-examples")
        return torch.from_numpy(found["vector"].numpy().copy())

    return mean


def _peak(count: int) -> float:
    """Python-side peak of adding replies that are dropped once added, in bytes."""
    fold = Fold()
    peak = 0
    for index in range(count):
        reply = _reply(index)
        gc.collect()
        tracemalloc.start()
        fold.put(index, unpack_answer(reply, _order(index), PARAMETERS, {}, ()).result.payload)
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return float(peak)


def _rounds(release: str) -> float:
    """Least seconds of a quickstart round under ``release``, in a fresh interpreter."""
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
        "recipe": "bench",
        "run-dir": str(run_dir),
        "rounds": ROUNDS,
        "methods": "maml",
        "release": release,
        "evaluation.uploads": False,
        "evaluation.every": ROUNDS,
        "report.page": False,
        "report.pictures": False,
        "privacy.epsilon-max": 1000.0,
    }
    run_in_process(*load_components(), config, RuntimeSettings().nodes)
    events = [
        json.loads(line)
        for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    seconds = sorted(event["seconds"] for event in events if event["event"] == "round")
    sys.stdout.write(f"{seconds[0]}\n")


if __name__ == "__main__":
    _measure_rounds(sys.argv[1], sys.argv[2])
