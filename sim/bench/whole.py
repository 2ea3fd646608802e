"""A federated round end to end on Ray: 32 clients packed into two nodes against one stock Flower
node a client.

Both sides meta-learn the same pictures from the same batches, two actors of one core each. Stock
clients run the lean loop of ``sim/bench/loops.py``. The models after the last round agree, or there
is no ratio.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sim.app import OURS, default_config
from sim.bench import Row, row
from sim.bench.loops import CLIP, INNER_STEPS, RATE, SIDE, STOCK_RATE
from sim.bench.rounds import STOCK, clock_of, median_gap
from sim.launch import flwr_run
from sim.settings import RuntimeSettings
from tasks.errors import FedappError

CLIENTS, ROUNDS = 32, 6
TOLERANCE = 0.1  # distance of the two last models over the way they went: float rounding, grown by second-order steps
#        width, depth, samples, outer steps, precision, target
CASES = ((64, 3, 64, 5, "highest", 6.0), (256, 5, 128, 2, "medium", 3.0))


def end_to_end(quick: bool) -> Iterator[Row]:
    """One row a field; ``quick`` leaves out the large one."""
    for width, depth, samples, outer, precision, target in CASES[: 1 if quick else 2]:
        config = {"width": width, "depth": depth, "samples": samples, "outer": outer}
        compiled = precision == "highest" and shutil.which("g++") is not None
        ours, model, start = _ours(config, precision, compiled)
        stock, reference = _stock(config)
        apart = float(np.linalg.norm(model - reference) / np.linalg.norm(reference - start))
        if not apart <= TOLERANCE:
            raise FedappError(
                f"the two sides end {apart:.1e} of their way apart (tolerance {TOLERANCE}): no ratio"
            )
        arithmetic = (
            "fp32" if precision == "highest" else "bf16 products"
        ) + ", compiled" * compiled
        case = f"round on Ray, {CLIENTS} clients × {outer} MAML steps, SIREN {depth}×{width}, {arithmetic}, against stock"
        yield row(case, "s", ours, stock, target)


def _ours(
    config: dict[str, Any], precision: str, compiled: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """Median seconds a round, the last model, and the first."""
    from sim.bench.loops import task_of

    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run = default_config() | {
            "recipe": "bench", "run-dir": str(run_dir), "rounds": ROUNDS, "methods": "maml", "clients.total": CLIENTS,
            "data.size": SIDE, "field.width": config["width"], "field.depth": config["depth"],
            "learner.inner-steps": INNER_STEPS, "learner.inner-rate": RATE, "learner.inner-clip": CLIP,
            "learner.outer-steps": config["outer"], "learner.outer-rate": STOCK_RATE, "learner.outer-clip": CLIP,
            "learner.batch-size": config["samples"], "rules.server-clip": 0.0, "evaluation.uploads": False,
            "evaluation.every": ROUNDS, "evaluation.steps": "0", "data.held-out": 1, "report.pictures": False,
            "report.page": False, "runtime.matmul-precision": precision,
            "field.compiled": compiled,
        }  # fmt: skip
        ending = flwr_run(OURS, run, RuntimeSettings(), Path(folder) / "flower.log")
        seconds = median_gap(clock_of(run_dir, ROUNDS, CLIENTS, ending.details))
        last = sorted((run_dir / "checkpoints").glob("*.safetensors"))[-1]
        return seconds, load_file(last)["maml-0/model"], task_of(config).init(0).numpy()


def _stock(config: dict[str, Any]) -> tuple[float, np.ndarray]:
    """Median seconds a round, one SuperNode a client, and the last model."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "out.json", Path(folder) / "flower.log"
        ending = flwr_run(
            STOCK,
            {**config, "rounds": ROUNDS, "out": str(out)},
            RuntimeSettings(nodes=CLIENTS),
            log,
        )
        if not out.exists():
            raise FedappError(f"the stock run failed: {ending.details}\n{log.read_text()[-2000:]}")
        found = json.loads(out.read_text())
        if found["failed"]:
            raise FedappError(f"stock rounds {found['failed']} lost replies: no ratio")
        return median_gap(found["clock"]), np.load(out.with_suffix(".npy"))
