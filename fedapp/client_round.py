"""What a node does with a train order: find the pieces the config names, train, pack the answer.

The pieces are kept between rounds in a process that lives that long (a Ray actor, an in-process
run).
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, RecordDict

from fedapp import ROOT
from fedapp.config.experiment import Experiment
from fedapp.config.pieces import build_learner, build_release, build_rule, build_task, pick_device
from fedapp.identity import ForeignCodeError
from fedapp.store.client_state import ClientState
from privacy.attacks.render import render_attack
from privacy.flower.node import SecureNode, node_folder
from privacy.releases import RELEASES
from privacy.releases.lattice import LatticeRelease
from privacy.secagg.identity import POLICY_FILE, Policy
from privacy.secagg.messages import RefusalError
from strategies.cohort import CohortResult, CohortTrainer, describe, disclose, remembered
from strategies.flower.wire import Order, pack_answer, pack_sum, record, unpack_order
from strategies.types import Broadcast
from tasks.errors import InputError
from tasks.registry import load
from tasks.types import Task

log = logging.getLogger("flwr")
CONFIGURED = "privacy."  # errors about these keys tell nothing but the configuration


def train_round(content: RecordDict, context: Context, simulated: bool) -> RecordDict:
    """Train the ordered clients on this node's data and return the reply's content."""
    experiment = _experiment(_frozen(context))
    release = load("release", experiment.release, RELEASES)
    if release.masked:
        raise RefusalError(f"release {experiment.release} never leaves a node unmasked")
    _obey_policy(experiment, context)
    if release.private and (own := build_release(experiment, 1)).noised:
        _see_ledger(content, context, simulated, own.multiplier)  # type: ignore[attr-defined]
    order, result = _train(content, context, simulated)
    if not release.private:
        return pack_answer(result, order)
    assert result.payload is not None, "a private release closes with a vector"
    return pack_sum(result.payload.vector, order)


def secure_leg(leg: str, content: RecordDict, context: Context, simulated: bool) -> RecordDict:
    """Answer one leg of a secure sum."""
    node = _secure_node(content, context, simulated)
    if leg == "masked":
        order, _ = unpack_order(content)
        return node.masked(content, order, lambda: _train(content, context, simulated)[1])
    if leg == "share":
        config = _frozen(context)
        return node.share(content, _experiment(config).release, _release(config))
    return {"advertise": node.advertise, "confirm": node.confirm, "unmask": node.unmask}[leg](
        content
    )


def reason_of(error: Exception, context: Context, simulated: bool) -> str:
    """Why a node could not answer. Under a private release, and of a real device, only what does
    not depend on data and names none of its files: no message texts."""
    if isinstance(error, RefusalError):
        return str(error)
    if isinstance(error, ForeignCodeError):
        return str(error) if simulated else str(error).replace(str(ROOT), "a folder of its own")
    try:
        private = load("release", str(context.run_config["release"]), RELEASES).private
    except (InputError, KeyError):
        private = True
    if (not private and simulated) or (
        isinstance(error, InputError) and error.key.startswith(CONFIGURED)
    ):
        return describe(error)
    return _tell_little(error)


def _tell_little(error: BaseException) -> str:
    log.warning("not told to the server: %s", describe(error))
    return disclose(error)


def _train(content: RecordDict, context: Context, simulated: bool) -> tuple[Order, CohortResult]:
    order, received = unpack_order(content)
    state_dir = order.state_dir if simulated else ""
    if "state-dir" in context.node_config:  # its own, which outlives runs
        state_dir = str(
            Path(str(context.node_config["state-dir"])) / "runs" / _folder_of(order.run)
        )
    config = json.dumps(_config(context) | json.loads(order.pins), sort_keys=True)
    trainer, device = _trainer(
        config, order.method, order.assignment.seed, state_dir, order.inspect, simulated
    )
    extra = {name: tensor.to(device) for name, tensor in received.extra.items()}
    received = Broadcast(received.model.to(device), extra, received.round)
    result = trainer.run(received, order.assignment, pictures=order.pictures and simulated)
    if trainer.release.private:
        for (
            client,
            reason,
        ) in result.failures.items():  # stays here: who failed, and why, is the client's own affair
            log.warning("client %d abstains: %s", client, reason)
    return order, result


def _folder_of(name: str) -> str:
    """A run's id as a folder's name: the server chose it, so nothing but letters and digits."""
    if not name.isalnum():
        raise RefusalError(f"a run called {name!r}")
    return name


def _config(context: Context) -> dict[str, Any]:
    run_config = dict(context.run_config)
    if (
        "data-path" in context.node_config
    ):  # a deployed node has its data where it has them, and only its own
        run_config["data.path"] = str(context.node_config["data-path"])
        hosts = str(context.node_config.get("clients", context.node_config.get("partition-id", 0)))
        run_config["data.hosted"] = ",".join(part.strip() for part in hosts.split(","))
    if (
        "backbone" in context.node_config
    ):  # the same weights (talking-head.digest says so) in a folder of its own
        run_config["talking-head.backbone"] = str(context.node_config["backbone"])
    return run_config


def _frozen(context: Context) -> str:
    return json.dumps(_config(context), sort_keys=True)


@lru_cache(maxsize=16)
def _experiment(config: str) -> Experiment:
    return Experiment.from_run_config(json.loads(config))


def _secure_node(content: RecordDict, context: Context, simulated: bool) -> SecureNode:
    experiment, node = _experiment(_frozen(context)), context.node_config
    partition = int(node.get("partition-id", 0))
    hosts = (
        None
        if simulated
        else frozenset(int(part) for part in str(node.get("clients", partition)).split(","))
    )
    return SecureNode(
        node_folder(content, context, simulated), partition, "" if simulated else str(node.get("roster", "")),
        experiment.privacy.colluding, experiment.digest, hosts,
    )  # fmt: skip


def _obey_policy(experiment: Experiment, context: Context) -> None:
    """A node with limits of its own keeps them under every release, the plain one included."""
    folder = str(context.node_config.get("state-dir", ""))
    if folder:
        forbidden = Policy.read(Path(folder) / POLICY_FILE).forbids(experiment.release, 0.0)
        if forbidden:
            raise RefusalError(forbidden)


def _see_ledger(content: RecordDict, context: Context, simulated: bool, multiplier: float) -> None:
    content["at"] = ConfigRecord(
        {"state-dir": str(record(content, "order", ConfigRecord)["state-dir"])}
    )
    _secure_node(content, context, simulated).see_ledger(content, multiplier)


@lru_cache(maxsize=16)
def _release(config: str) -> LatticeRelease:
    """The release of a config (its length depends on task and rule)."""
    experiment = _experiment(config)
    size = build_rule(experiment).size(_task(config).layout.size)
    release = build_release(experiment, size)
    if not isinstance(release, LatticeRelease):
        raise RefusalError(f"release {experiment.release} has no secure sum")
    return release


@lru_cache(maxsize=2)
def _task(config: str) -> Task:
    """The task of a config, with what it has decoded: the same for all methods and seeds."""
    return build_task(_experiment(config))


@lru_cache(maxsize=64)
def _trainer(
    config: str, method: str, seed: int, state_dir: str, inspect: bool, simulated: bool
) -> tuple[CohortTrainer, torch.device]:
    experiment = Experiment.from_run_config(json.loads(config))
    runtime = experiment.runtime
    torch.set_num_threads(runtime.threads)
    torch.set_float32_matmul_precision(runtime.matmul_precision)
    rule, task, learner = build_rule(experiment), _task(config), build_learner(experiment, method)
    memory = remembered(task, learner, rule)
    if memory and not state_dir:
        raise InputError(
            "state-dir", "", f"clients keep their {' and '.join(memory)} on the node",
            'start it with --node-config "state-dir=…"',
        )  # fmt: skip
    release = build_release(experiment, rule.size(task.layout.size))
    trainer = CohortTrainer(
        task,
        learner,
        rule,
        release,
        experiment.learner,
        store=ClientState(Path(state_dir) / f"{method}-{seed}") if memory else None,
        inspect=render_attack if inspect else None,
        chunk=runtime.chunk,
        tell=describe
        if simulated or release.private
        else _tell_little,  # a private release sends no failures at all
    )
    return trainer, pick_device(runtime.device)
