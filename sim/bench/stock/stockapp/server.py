"""Stock FedAvg over all nodes; the time at the end of each round goes to the file ``out``."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and write their clock times."""
    clock: list[float] = []

    def note(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        clock.append(time.time())
        return None

    config = context.run_config
    start = np.zeros(int(config["parameters"]), dtype=np.float32)
    if config["width"]:
        from sim.bench.loops import task_of

        start = task_of(dict(config)).init(0).numpy()
    model = ArrayRecord({"model": Array(start)})
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid, model, num_rounds=int(config["rounds"]), evaluate_fn=note)
    failed = [
        r for r in range(1, int(config["rounds"]) + 1) if r not in result.train_metrics_clientapp
    ]
    np.save(Path(str(config["out"])).with_suffix(".npy"), result.arrays["model"].numpy())
    Path(str(config["out"])).write_text(
        json.dumps({"clock": clock, "failed": failed}), encoding="utf-8"
    )
