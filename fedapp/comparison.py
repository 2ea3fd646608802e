"""A run: every method at every seed, round by round, side by side.

An *arm* is one method at one seed. All arms take their round r before any takes round r + 1, then
the round is checkpointed; a run that is killed anywhere goes on from its last checkpoint and ends
with the same bits.
"""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid

from fedapp import ROOT
from fedapp.about import versions
from fedapp.config.experiment import ELSEWHERE, Experiment
from fedapp.config.pieces import build_rule, build_task, pick_device
from fedapp.identity import fingerprint, people_of
from fedapp.protection import Protection
from fedapp.results import mean_and_max, write_result
from fedapp.store.checkpoint import Checkpoint, CheckpointWriter, list_checkpoints, load_checkpoint
from fedapp.store.runfolder import FAILED, FINISHED, REFUSED, RUNNING, STOPPED, RunFolder, new_path
from privacy.attacks import render
from strategies.federation import Federation
from strategies.flower.roster import Node, gather, renewed
from strategies.flower.rounds import FederatedRounds, RoundReport, RoundSettings
from strategies.local import LOCAL
from tasks.errors import FedappError, InputError, StoppedError
from tasks.types import Preparing, Task

log = logging.getLogger("flwr")
INTERRUPTED = 130  # exit status, as a shell has it
PATIENCE = 120.0  # seconds to wait for nodes at the start
RETURN = 20.0  # ... and, between rounds, for an answer of one that came back


@dataclass
class Arm:
    """One method at one seed. ``seen`` is what its uploads show, per metric and client, as last
    uploaded."""

    method: str
    seed: int
    federation: Federation
    rounds: FederatedRounds | None = None
    seen: dict[str, dict[int, float]] = field(default_factory=dict)
    adapted: dict[str, float] = field(
        default_factory=dict
    )  # the release's state in the checkpoint it came from

    @property
    def name(self) -> str:
        return f"{self.method}-{self.seed}"


def identity(experiment: Experiment, task: Task) -> dict[str, Any]:
    """What a checkpoint must agree with to be continued by this experiment."""
    return {
        "task": experiment.task,
        "parameters": task.layout.size,
        "rule": experiment.rule,
        "release": experiment.release,
        "arms": [
            f"{method}-{seed}"
            for seed in experiment.seed_list
            for method in experiment.trained_methods
        ],
        "clients": experiment.clients.total,
        "data": people_of(experiment.data.path),
    }


def run_experiment(grid: Grid, run_config: Mapping[str, Any]) -> None:
    """Run the experiment and leave its end, good or bad, in the run folder; errors are raised after
    that.

    Another run's folder, or one that is running, is refused before anything is written into it.
    """
    folder = RunFolder(_run_path(run_config))
    resume = bool(run_config.get("resume", False))
    with folder.locked():
        if folder.begun and not resume:
            raise InputError(
                "run-dir",
                str(folder.path),
                "already holds a run",
                "set resume=true, or name another",
            )
        try:
            experiment = Experiment.from_run_config({**run_config, "run-dir": str(folder.path)})
            if not (
                folder.path / "config.json"
            ).exists():  # plain `flwr run`: nobody made the folder yet
                folder.create(experiment.to_run_config(), versions())
            elif resume:
                _refuse_changes(folder.config, experiment)
            folder.set_status(RUNNING)
            Comparison(experiment, folder, grid).run()
            folder.set_status(FINISHED)
        except FedappError as error:
            state = (
                REFUSED
                if isinstance(error, InputError)
                else STOPPED
                if isinstance(error, StoppedError)
                else FAILED
            )
            folder.set_status(state, error.exit_code, str(error))
            log.error("run ended: %s", error)
            raise
        except (KeyboardInterrupt, SystemExit):
            folder.set_status(STOPPED, INTERRUPTED, "interrupted")
            raise
        except BaseException as error:
            folder.set_status(
                FAILED, 1, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            )
            raise
    log.info("run folder: %s", folder.path)


def _refuse_changes(started: Mapping[str, Any], experiment: Experiment) -> None:
    """A run goes on with the settings it was started with; only its length and where it runs may
    change."""
    for key, value in experiment.to_run_config().items():
        free = key in ELSEWHERE or key == "rounds" or key.startswith(("runtime.", "report."))
        if not free and key in started and started[key] != value:
            raise InputError(
                key, value, f"the run was started with {started[key]!r}", "resume it with that"
            )


def _run_path(run_config: Mapping[str, Any]) -> Path:
    """Where the run lives. A relative path would land wherever the SuperLink was started, so it is
    refused."""
    given = str(run_config.get("run-dir", ""))
    if not given:
        return new_path(Path.home() / "fedapp-runs", str(run_config.get("recipe", "default")))
    if not Path(given).is_absolute():
        raise InputError(
            "run-dir",
            given,
            "a relative path depends on where the SuperLink was started",
            "make it absolute",
        )
    return Path(given)


class Comparison:
    """The arms of one run, and the loop that drives them."""

    def __init__(self, experiment: Experiment, folder: RunFolder, grid: Grid) -> None:
        self.experiment, self.folder, self.grid = experiment, folder, grid
        self.fingerprint = fingerprint(experiment.to_run_config())
        self.nodes: list[Node] = []
        runtime = experiment.runtime
        torch.set_num_threads(runtime.threads)
        torch.set_float32_matmul_precision(runtime.matmul_precision)
        self.device = pick_device(runtime.device)
        self._anchor: dict[str, Any] | None = (
            None  # how far the ledger was when the checkpoint was written
        )
        self.task: Task = build_task(experiment)
        self.pins = dict(self.task.prepare(_announce)) if isinstance(self.task, Preparing) else {}
        self.task.check(experiment.clients.total)
        self.identity = identity(
            experiment, self.task
        )  # once: it walks through all files of own data
        rule, population = build_rule(experiment), experiment.clients.total
        self.protection = Protection(experiment, folder)
        self.arms = [
            Arm(method, seed, Federation.start(rule, population, self.task.init(seed)))
            for seed in experiment.seed_list
            for method in experiment.trained_methods
        ]
        for arm in self.arms:
            arm.federation.resting = getattr(self.task, "resting", None)

    def run(self) -> None:
        """From wherever the run stands to its last round, its result and its report."""
        try:
            try:
                self._train()
            finally:
                self.protection.close()
        except (
            StoppedError
        ) as error:  # a planned end (a budget is used up) or a forced one: what there is is shown
            self.folder.set_status(STOPPED, error.exit_code, str(error))
            self._conclude()
            raise
        self._conclude()

    def _conclude(self) -> None:
        """The result of what was trained, and its report; of nothing there is none."""
        if not any(event["event"] == "round" for event in self.folder.events()):
            return
        write_result(self.folder)
        if self.experiment.report.page:
            self._report()

    def _train(self) -> None:
        experiment = self.experiment
        done = self._restore() if experiment.resume else 0
        self.protection.begin(self._anchor)
        self.nodes = nodes = gather(
            self.grid,
            experiment.runtime.nodes,
            PATIENCE,
            self.fingerprint,
            str(ROOT),
            lambda text: log.warning(text),
        )
        self.protection.enrol(nodes)
        self._connect(nodes)
        if not done:
            self._start_line(nodes)
        writer = CheckpointWriter(self.folder.checkpoints)
        try:
            for number in range(done + 1, experiment.rounds + 1):
                last = number == experiment.rounds
                due = last or number % experiment.evaluation.every == 0
                self._welcome_back()
                for arm in self.arms:
                    self._round(arm, number, due, last)
                writer.save(self._checkpoint(number))
            writer.flush()
        finally:
            writer.close()

    def _welcome_back(self) -> None:
        """Devices that restarted since the last round take part again."""
        nodes = renewed(
            self.grid,
            self.nodes,
            RETURN,
            self.fingerprint,
            str(ROOT),
            lambda text: log.warning(text),
        )
        if nodes != self.nodes:
            self.nodes = nodes
            for arm in self.arms:
                assert arm.rounds is not None, "arms are connected before the first round"
                arm.rounds.nodes = nodes

    # ------------------------------------------------------------------ a round
    def _round(self, arm: Arm, number: int, due: bool, last: bool) -> None:
        assert arm.rounds is not None, "arms are connected before the first round"
        report = arm.rounds.run_round(
            self.grid, number, pictures=due and self.experiment.report.pictures
        )
        for name in set(render.METRICS) & set(report.metrics):
            arm.seen.setdefault(name, {}).update(report.metrics[name])
        self._log_round(arm, report)
        for client, (private, rendered) in report.pictures.items():
            self.folder.save_picture(f"private-{client:04d}", private)
            self.folder.save_picture(f"{arm.name}-rendered-{client:04d}", rendered)
        if due:
            self._evaluate(arm.method, arm.seed, arm.federation.result, number, tune=last)

    def _log_round(self, arm: Arm, report: RoundReport) -> None:
        training = {
            name: sum(values.values()) / len(values)
            for name, values in report.metrics.items()
            if name not in render.METRICS and values
        }
        event: dict[str, Any] = {
            "event": "round", "clock": time.time(), "round": report.round, "method": arm.method, "seed": arm.seed,
            "clients": {"ok": len(report.clients), "failed": len(report.failures)},
            "failures": {str(client): reason for client, reason in sorted(report.failures.items())},
            "bytes_up": report.bytes_up, "bytes_down": report.bytes_down, "seconds": report.seconds,
            "epsilon": self.protection.epsilon(), "skipped": report.skipped or None,
            **training, **report.means,
            **{name: mean_and_max(values.values()) for name, values in arm.seen.items()},
        }  # fmt: skip
        if report.round == self.experiment.rounds or report.failures:
            event["by_client"] = {
                name: dict(sorted(values.items())) for name, values in arm.seen.items()
            }
        self.folder.append(event)
        psnr_p, epsilon = (
            mean_and_max(arm.seen.get("psnr_p", {}).values()),
            self.protection.epsilon(),
        )
        known = [f"{name} {value:.3g}" for name, value in training.items()]
        if psnr_p["mean"] is not None:
            known.append(f"PSNR_p {psnr_p['mean']:.2f} dB (max {psnr_p['max']:.2f})")
        if epsilon is not None:
            known.append(f"epsilon {epsilon:.3f}")
        log.info(
            "round %d/%d %s: %d ok, %d failed, %s%.1f s", report.round, self.experiment.rounds, arm.name,
            len(report.clients), len(report.failures), "".join(f"{part}, " for part in known), report.seconds,
        )  # fmt: skip
        for client, reason in sorted(report.failures.items()):
            log.warning(
                "round %d %s: client %d left out: %s", report.round, arm.name, client, reason
            )

    def _evaluate(
        self, method: str, seed: int, model: torch.Tensor, number: int, tune: bool
    ) -> None:
        """Judge a shared model; clients are idle meanwhile, so all configured cores may help."""
        runtime, started = self.experiment.runtime, time.monotonic()
        torch.set_num_threads(
            max(runtime.threads, min(runtime.nodes * runtime.threads, os.cpu_count() or 1))
        )
        evaluation = self.task.evaluate(model.to(self.device), self.experiment.evaluation, tune)
        torch.set_num_threads(runtime.threads)
        self.folder.append(
            {
                "event": "evaluation",
                "round": number,
                "method": method,
                "seed": seed,
                "final": tune,
                **evaluation.metrics,
                "seconds": time.monotonic() - started,
            }
        )
        if tune:
            for name, image in evaluation.pictures.items():
                self.folder.save_picture(f"{method}-{seed}-adapted-{name}", image)
            for name, video in evaluation.videos.items():
                self.folder.save_video(f"{method}-{seed}-{name}", video)
        if evaluation.metrics.get("diverged"):
            log.warning(
                "%s-%d has diverged: its field left the data range before adaptation", method, seed
            )

    def _start_line(self, nodes: list[Node]) -> None:
        """What is known before the first round: the nodes, the held-out pictures, and Local's
        numbers."""
        deployed = any(node.hosts is not None for node in nodes)
        self.folder.append(
            {
                "event": "start",
                "round": 0,
                "nodes": len(nodes),
                "device": str(self.device),
                "deployed": deployed,
            }
        )
        for index, data in enumerate(self.task.held_out()):
            self.folder.save_picture(f"held-out-{index:02d}", data.truth)
        for seed in self.experiment.seed_list if LOCAL in self.experiment.method_list else []:
            self._evaluate(LOCAL, seed, self.task.init(seed), 0, tune=True)

    # ------------------------------------------------------------------ arms, checkpoints, report
    def _connect(self, nodes: list[Node]) -> None:
        experiment, session = self.experiment, uuid.uuid4().hex
        settings = RoundSettings(
            per_round=experiment.clients.per_round,
            min_clients=experiment.clients.min,
            timeout=experiment.runtime.timeout,
            in_flight=experiment.runtime.in_flight,
            state_dir=str(self.folder.client_state),
            inspect=experiment.evaluation.uploads,
            run=self.folder.read("run.json").get("id", ""),
            pins=json.dumps(self.pins),
        )
        for arm in self.arms:
            arm.rounds = self.protection.rounds(
                arm.federation, nodes, settings,
                method=arm.method, seed=arm.seed, session=session, fingerprint=self.fingerprint, root=str(ROOT),
            )  # fmt: skip
            arm.rounds.release.state |= arm.adapted

    def _checkpoint(self, number: int) -> Checkpoint:
        tensors: dict[str, torch.Tensor] = {}
        state: dict[str, Any] = {}
        for arm in self.arms:
            # copies: they are written while the next round runs, and a rule may keep one tensor
            # under two names
            tensors[f"{arm.name}/model"] = arm.federation.model.clone()
            tensors |= {
                f"{arm.name}/state/{name}": value.clone()
                for name, value in arm.federation.state.items()
            }
            seen = {name: dict(values) for name, values in arm.seen.items()}
            release = dict(arm.rounds.release.state) if arm.rounds else {}
            state[arm.name] = {
                "accepted": dict(arm.federation.accepted),
                "seen": seen,
                "release": release,
            }
        state["ledger"] = self.protection.anchor
        return Checkpoint(number, self.identity, state, tensors)

    def _restore(self) -> int:
        """Put the arms back to the last checkpoint; returns its round (0: none was written yet)."""
        files = list_checkpoints(self.folder.checkpoints)
        if not files:
            self.folder.rewind(-1)
            return 0
        checkpoint = load_checkpoint(files[-1], self.identity)
        for arm in self.arms:
            own = {
                name.removeprefix(f"{arm.name}/"): tensor
                for name, tensor in checkpoint.tensors.items()
                if name.startswith(f"{arm.name}/")
            }
            kept = checkpoint.state[arm.name]
            arm.federation.model = own.pop("model")
            arm.federation.state = {
                name.removeprefix("state/"): tensor for name, tensor in own.items()
            }
            arm.federation.accepted = {
                int(client): version for client, version in kept["accepted"].items()
            }
            arm.federation.round = checkpoint.round
            arm.seen = {
                name: {int(client): number for client, number in values.items()}
                for name, values in kept["seen"].items()
            }
            arm.adapted = dict(kept["release"])
        self._anchor = checkpoint.state["ledger"]
        self.folder.rewind(checkpoint.round)
        log.info("resumed after round %d", checkpoint.round)
        return checkpoint.round

    def _report(self) -> None:
        from fedapp.report import MissingExtraError, write_report
        from fedapp.report.budget import write_budget

        try:
            log.info("report: %s", write_report(self.folder))
            if self.protection.private:
                log.info("privacy report: %s", write_budget(self.folder)[1])
        except MissingExtraError as error:
            log.warning("no report written: %s", error)


def _announce(what: str, done: int, total: int) -> None:
    """Progress of what is made before the first round, a line now and then."""
    if done == total or done % max(1, total // 10) == 0:
        log.info("%s: %d/%d", what, done, total)
