"""What a node does with a train order: find the pieces the config names, train, pack the answer.

The pieces are kept between rounds in a process that lives that long (a Ray actor, an in-process run).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, RecordDict

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import build_learner, build_release, build_rule, build_task, pick_device
from fedapp.store.client_state import ClientState
from privacy.attacks.render import render_attack
from strategies.cohort import CohortTrainer
from strategies.flower.wire import pack_answer, unpack_order
from strategies.types import Broadcast
from tasks.errors import InputError


def train_round(content: RecordDict, context: Context, simulated: bool) -> RecordDict:
    """Train the ordered clients on this node's data and return the reply's content."""
    order, received = unpack_order(content)
    run_config = dict(context.run_config)
    if "data-path" in context.node_config:  # a deployed node has its data where it has them
        run_config["data.path"] = str(context.node_config["data-path"])
    state_dir = str(context.node_config.get("state-dir", order.state_dir if simulated else ""))
    trainer, device = _trainer(
        json.dumps(run_config, sort_keys=True), order.method, order.assignment.seed, state_dir, order.inspect
    )
    extra = {name: tensor.to(device) for name, tensor in received.extra.items()}
    received = Broadcast(received.model.to(device), extra, received.round)
    result = trainer.run(received, order.assignment, pictures=order.pictures and simulated)
    return pack_answer(result, order)


@lru_cache(maxsize=16)
def _trainer(config: str, method: str, seed: int, state_dir: str, inspect: bool) -> tuple[CohortTrainer, torch.device]:
    experiment = Experiment.from_run_config(json.loads(config))
    runtime = experiment.runtime
    torch.set_num_threads(runtime.threads)
    torch.set_float32_matmul_precision(runtime.matmul_precision)
    rule = build_rule(experiment)
    if rule.memory and not state_dir:
        raise InputError(
            "state-dir",
            "",
            f"rule {experiment.rule} keeps state on the node",
            'start it with --node-config "state-dir=…"',
        )
    trainer = CohortTrainer(
        build_task(experiment),
        build_learner(experiment, method),
        rule,
        build_release(experiment),
        experiment.learner,
        store=ClientState(Path(state_dir) / f"{method}-{seed}") if rule.memory else None,
        inspect=render_attack if inspect else None,
        chunk=runtime.chunk,
    )
    return trainer, pick_device(runtime.device)
