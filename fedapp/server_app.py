"""The ServerApp: hands the grid and the run config to the comparison the config describes."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run (or resume) the experiment; every way it can end is recorded in the run folder."""
    from fedapp.running.serve import run_experiment

    run_experiment(grid, context.run_config)
