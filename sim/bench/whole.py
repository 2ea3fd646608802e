"""A federated round end to end on Ray: 32 clients packed into two nodes against one stock Flower
node per client.

Both sides meta-learn the same pictures from the same batches, two actors of one core each. Stock
clients run the lean loop of ``sim/bench/loops.py``. The models after the last round agree, or there
is no ratio. The limit is the matrix products of half the cohort on one core.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file

from sim.app import OURS, default_config
from sim.bench.limits import chunks, products
from sim.bench.loops import CLIP, INNER_STEPS, RATE, SIDE, STOCK_RATE, task_of
from sim.bench.rounds import STOCK, clock_of, median_gap
from sim.bench.rows import Limit, Row, row
from sim.bench.timing import median_seconds
from sim.launch import flwr_run
from sim.settings import RuntimeSettings
from strategies.cohort import chunk_width
from tasks.errors import FedappError
from tasks.fields.siren import Siren

CLIENTS = 32
ACTORS = 2
ROUNDS = 6
TOLERANCE = 0.1  # distance of the last models over their way: float rounding, grown in K steps


class Case(NamedTuple):
    """A SIREN, how it is trained, and how many times quicker a round should be."""

    width: int
    depth: int
    samples: int
    outer: int
    precision: str
    target: float

    @property
    def config(self) -> dict[str, Any]:
        """Settings that both sides are given."""
        return {
            "width": self.width,
            "depth": self.depth,
            "samples": self.samples,
            "outer": self.outer,
        }


CASES = (Case(64, 3, 64, 5, "highest", 6.0), Case(256, 5, 128, 2, "medium", 3.0))


def end_to_end(quick: bool) -> Iterator[Row]:
    """One row per field; ``quick`` leaves out the large one."""
    for case in CASES[: 1 if quick else 2]:
        compiled = case.precision == "highest" and shutil.which("g++") is not None
        ours, model, start = _ours(case, compiled)
        stock, reference = _stock(case.config)
        apart = float(np.linalg.norm(model - reference) / np.linalg.norm(reference - start))
        if not apart <= TOLERANCE:
            raise FedappError(
                f"the two sides end {apart:.1e} of their way apart "
                f"(tolerance {TOLERANCE}): no ratio"
            )
        arithmetic = "fp32" if case.precision == "highest" else "bf16 products"
        name = (
            f"round on Ray, {CLIENTS} clients × {case.outer} MAML steps, "
            f"SIREN {case.depth}×{case.width}, {arithmetic}{', compiled' * compiled}"
        )
        yield row(f"{name}, against stock", "s", ours, stock, case.target, _bare(case))


def _bare(case: Case) -> Limit:
    """Products of one actor's clients on one thread: the actors work side by side."""
    field = task_of(case.config).field
    assert isinstance(field, Siren), "image tasks fit SIRENs"
    width = chunk_width(field.working_set(case.samples, INNER_STEPS), torch.device("cpu"))
    cohort = chunks(CLIENTS // ACTORS, width, [case.samples] * (INNER_STEPS + 1))
    bare = products(field.network, cohort)
    threads = torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(case.precision)
    try:
        limit = bare.limit(median_seconds(bare.run), case.outer)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    return limit._replace(made_of=f"{case.outer} × {limit.made_of}, per actor")


def _ours(case: Case, compiled: bool) -> tuple[float, np.ndarray, np.ndarray]:
    """Median seconds per round, the last model ``[P]``, and the first."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run = default_config() | {
            "recipe": "bench",
            "run-dir": str(run_dir),
            "rounds": ROUNDS,
            "methods": "maml",
            "clients.total": CLIENTS,
            "data.size": SIDE,
            "data.held-out": 1,
            "field.width": case.width,
            "field.depth": case.depth,
            "field.compiled": compiled,
            "learner.inner-steps": INNER_STEPS,
            "learner.inner-rate": RATE,
            "learner.inner-clip": CLIP,
            "learner.outer-steps": case.outer,
            "learner.outer-rate": STOCK_RATE,
            "learner.outer-clip": CLIP,
            "learner.batch-size": case.samples,
            "rules.server-clip": 0.0,
            "evaluation.uploads": False,
            "evaluation.every": ROUNDS,
            "evaluation.steps": "0",
            "report.pictures": False,
            "report.page": False,
            "runtime.matmul-precision": case.precision,
        }
        ending = flwr_run(OURS, run, RuntimeSettings(), Path(folder) / "flower.log")
        seconds = median_gap(clock_of(run_dir, ROUNDS, CLIENTS, ending.details))
        last = sorted((run_dir / "checkpoints").glob("*.safetensors"))[-1]
        return seconds, load_file(last)["maml-0/model"], task_of(case.config).init(0).numpy()


def _stock(config: dict[str, Any]) -> tuple[float, np.ndarray]:
    """Median seconds per round, one SuperNode per client, and the last model."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        log = Path(folder) / "flower.log"
        ending = flwr_run(
            STOCK,
            {**config, "rounds": ROUNDS, "out": str(out)},
            RuntimeSettings(nodes=CLIENTS),
            log,
        )
        if not out.exists():
            raise FedappError(
                f"the stock run failed: {ending.details}\n{log.read_text(encoding='utf-8')[-2000:]}"
            )
        found = json.loads(out.read_text(encoding="utf-8"))
        if found["failed"]:
            raise FedappError(f"stock rounds {found['failed']} lost replies: no ratio")
        return median_gap(found["clock"]), np.load(out.with_suffix(".npy"))
