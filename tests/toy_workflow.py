"""A workflow as a plug-in author would write it: distributed gradient descent on a line, where the
server asks every node for a gradient in each turn. No rule, no release, no learner."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid
from outsiders import Regression

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.node.device import Device
from fedapp.running.judging import judge
from fedapp.running.lineup import Lineup, Run
from fedapp.workflows import WorkflowKind
from strategies.flower.legs import exchange
from strategies.flower.records import content_of, record
from strategies.flower.roster import Node, spread
from strategies.flower.wire import from_array, to_array
from strategies.flower.workflow import TurnReport, pack_leg
from strategies.types import Snapshot
from tasks.errors import InputError, ReplyError
from tasks.types import Batch, Evaluation

RATES = {"slow": 0.02, "fast": 0.1}  # the methods


class Line(Regression):
    workflow = "toy_workflow:GRADIENTS"


class Gradients:
    """Server half."""

    def __init__(self, run: Run, method: str, seed: int) -> None:
        self.run, self.method, self.seed = run, method, seed
        self.model = run.pieces.task.init(seed)
        self.nodes: Sequence[Node] = []

    def connect(self, nodes: Sequence[Node], session: str) -> None:
        self.nodes = nodes

    def turn(self, grid: Grid, number: int, show: bool) -> TurnReport:
        started = time.monotonic()
        report = TurnReport(number)
        shares = spread(range(self.run.pieces.experiment.clients.total), self.nodes)
        model = ArrayRecord({"model": to_array(self.model)})
        messages = [
            pack_leg(
                node, "gradient", {"model": model, "clients": ConfigRecord({"ids": clients})},
                self.run.fingerprint, self.run.root, 60.0,
            )
            for node, clients in shares
        ]  # fmt: skip
        total = torch.zeros_like(self.model)
        for slot, reply in exchange(grid, messages, 60.0, 8):
            try:
                total += from_array(record(content_of(reply, 60.0), "sum", ArrayRecord)["gradient"])
                report.clients += len(shares[slot][1])
            except ReplyError as error:
                report.failures |= dict.fromkeys(shares[slot][1], str(error))
        self.model = self.model - RATES[self.method] * total / max(report.clients, 1)
        report.metrics = {"gradient norm": float(total.norm())}
        report.seconds = time.monotonic() - started
        return report

    def evaluate(self, grid: Grid, number: int, final: bool) -> Evaluation:
        return judge(self.run.pieces, self.model, final)

    def snapshot(self) -> Snapshot:
        return Snapshot({"model": self.model.clone()}, {"rate": RATES[self.method]})

    def restore(self, number: int, snapshot: Snapshot) -> None:
        self.model = snapshot.tensors["model"]


class GradientNode:
    """Node half."""

    def __init__(self, device: Device) -> None:
        self.task = device.pieces.task

    def leg(self, name: str, content: RecordDict) -> RecordDict:
        model = from_array(record(content, "model", ArrayRecord)["model"])
        total = torch.zeros_like(model)
        for client in record(content, "clients", ConfigRecord)["ids"]:  # type: ignore[union-attr]
            data = self.task.client_data(int(client))
            batch = Batch(data.inputs[None], data.truth[None])
            total += self.task.derivatives.gradient(model[None], batch)[1][0]
        return RecordDict({"sum": ArrayRecord({"gradient": to_array(total)})})


def build(run: Run) -> Lineup:
    return Lineup([Gradients(run, method, seed) for method, seed in run.pieces.arms], [])


def identity(pieces: Pieces) -> dict[str, Any]:
    return {"arms": [f"{method}-{seed}" for method, seed in pieces.arms]}


def refuse(experiment: Experiment) -> None:
    for method in experiment.method_list:
        if method not in RATES:
            raise InputError("methods", method, "no such rate", f"use {' or '.join(RATES)}")


GRADIENTS = WorkflowKind(
    server="toy_workflow:build", identity="toy_workflow:identity",
    node="toy_workflow:GradientNode", check="toy_workflow:refuse",
    choices=frozenset({"model.model", "clients.ids", "leg.name"}),
    smallest={"task": "toy_workflow:Line", "methods": "slow", "evaluation.uploads": False},
)  # fmt: skip
