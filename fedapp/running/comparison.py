"""The loop of a run: every arm takes its turn, side by side, and the state of all is checkpointed.

An *arm* is one method at one seed, driven by its workflow. All arms take turn r before any takes
turn r + 1; a run that is killed anywhere goes on from its last checkpoint and ends with the same
bits. Nothing here knows what a turn does: see :mod:`strategies.flower.workflow`.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

import torch
from flwr.serverapp import Grid

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.identity import fingerprint, people_of
from fedapp.place import ROOT
from fedapp.results import refuse_derived, write_result
from fedapp.running.lineup import Lineup, Run
from fedapp.running.protection import Protection
from fedapp.store.checkpoint import Checkpoint, CheckpointWriter, list_checkpoints, load_checkpoint
from fedapp.store.runfolder import STOPPED, RunFolder
from fedapp.workflows import kind_of
from strategies.flower.roster import Node, gather, renewed
from strategies.flower.workflow import Judged, TurnReport, Workflow
from tasks.errors import InputError, StoppedError

log = logging.getLogger("flwr")
PATIENCE = 120.0  # seconds to wait for nodes at the start
RETURN = 20.0  # ... and, between turns, for an answer of one that came back


def identity(pieces: Pieces) -> dict[str, Any]:
    """Facts that a checkpoint must agree with to be continued by this experiment."""
    experiment = pieces.experiment
    facts = kind_of(experiment.workflow_name).part("identity")
    return {
        "task": experiment.task,
        "workflow": experiment.workflow_name,
        "clients": experiment.clients.total,
        "data": people_of(experiment.data.path),
        **facts(pieces),
    }


def name_of(arm: Judged) -> str:
    """An arm's name in checkpoints and file names."""
    return f"{arm.method}-{arm.seed}"


class Comparison:
    """The arms of one run, and the loop that drives them."""

    def __init__(self, pieces: Pieces, folder: RunFolder, grid: Grid) -> None:
        experiment = pieces.experiment
        self.experiment = experiment
        self.folder = folder
        self.grid = grid
        self.nodes: list[Node] = []
        torch.set_num_threads(experiment.runtime.threads)
        torch.set_float32_matmul_precision(experiment.runtime.matmul_precision)
        self.last: dict[str, dict[str, Any]] = {}  # the event of each arm's last turn
        self._anchor: dict[str, Any] | None = None  # the ledger's length at the checkpoint
        pins = dict(pieces.task.prepare(_announce))
        if strange := sorted(set(pins) - pieces.task_type.pins):
            raise InputError(
                "task",
                experiment.task,
                f"it pins {strange[0]}, which nodes will not let a server set",
                "name the key in the task's trait `pins`",
            )
        pieces.task.check(experiment.clients.total)
        self.run_facts = Run(
            pieces,
            folder,
            Protection(pieces, folder),
            fingerprint(experiment.to_run_config()),
            str(ROOT),
            uuid.uuid4().hex,
            pins,
        )
        build = kind_of(experiment.workflow_name).part("server")
        self.lineup: Lineup = build(self.run_facts)
        _refuse_unlisted(self.lineup, experiment)
        # once: it walks through all files of own data
        self.identity = identity(pieces)

    @property
    def protection(self) -> Protection:
        return self.run_facts.protection

    @property
    def arms(self) -> list[Workflow]:
        return self.lineup.arms

    def run(self) -> None:
        """From wherever the run stands to its last turn, its result and its report."""
        try:
            try:
                self._train()
            finally:
                self.protection.close()
        except StoppedError as error:
            # a planned end (a budget is used up) or a forced one: what there is is shown
            self.folder.set_status(STOPPED, error.exit_code, str(error))
            self._tell_clients()
            self._conclude()
            raise
        self._conclude()

    def _tell_clients(self) -> None:
        """Values of single clients as an early end left them: only a run's last turn tells them by
        itself."""
        for event in self.last.values():
            kept = {name: event[name] for name in ("round", "method", "seed", "by_client")}
            self.folder.append({"event": "clients", **kept})

    def _conclude(self) -> None:
        """The result of what was trained, and its report; of nothing there is none."""
        if not any(event["event"] == "round" for event in self.folder.events()):
            return
        write_result(self.folder)
        if self.experiment.report.attacks:
            from fedapp.attacks import attack_at_end

            attack_at_end(self.folder, log.info)
        if self.experiment.report.page:
            from fedapp.attacks.rounds import end_with_attacks

            end_with_attacks(self.folder, log.info)
            self._report()

    def _train(self) -> None:
        experiment = self.experiment
        done = self._restore() if experiment.resume else 0
        self.protection.begin(self._anchor)
        facts = self.run_facts
        nodes = gather(
            self.grid, experiment.runtime.nodes, PATIENCE, facts.fingerprint, facts.root, _warn,
            self.protection.vouch,
        )  # fmt: skip
        self.protection.enrol(nodes)
        self._connect(nodes)
        if not done:
            self._log_start(nodes)
        writer = CheckpointWriter(self.folder.checkpoints)
        try:
            for number in range(done + 1, experiment.rounds + 1):
                last = number == experiment.rounds
                due = last or number % experiment.evaluation.every == 0
                self._welcome_back()
                for arm in self.arms:
                    self._turn(arm, number, due, last)
                writer.save(self._checkpoint(number))
            writer.flush()
        finally:
            writer.close()
        self._refuse_nothing_learned()

    def _refuse_nothing_learned(self) -> None:
        """Raise ``StoppedError`` for an arm of which no turn counted: what is judged is its start,
        and nobody is to take it for a trained model."""
        events = [event for event in self.folder.events() if event["event"] == "round"]
        for arm in self.arms:
            own = [e for e in events if (e["method"], e["seed"]) == (arm.method, arm.seed)]
            if own and all(event["skipped"] for event in own):
                reasons = "\n".join(
                    f"  client {client}: {why}" for client, why in own[-1]["failures"].items()
                )
                raise StoppedError(
                    f"none of the {len(own)} rounds of {name_of(arm)} counted, its model is the "
                    f"untrained one: {own[-1]['skipped']}\n{reasons}"
                )

    def _connect(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        for arm in self.arms:
            arm.connect(nodes, self.run_facts.session)

    def _welcome_back(self) -> None:
        """Devices that restarted since the last turn take part again."""
        facts = self.run_facts
        nodes = renewed(
            self.grid, self.nodes, RETURN, facts.fingerprint, facts.root, _warn,
            self.protection.vouch,
        )  # fmt: skip
        if nodes != self.nodes:
            self._connect(nodes)

    # ------------------------------------------------------------------ a turn
    def _turn(self, arm: Workflow, number: int, due: bool, last: bool) -> None:
        report = arm.turn(self.grid, number, due and self.experiment.report.pictures)
        self._log_turn(arm, report)
        for name, image in report.pictures.items():
            self.folder.save_picture(name, image)
        if due:
            self._evaluate(arm, number, final=last)

    def _log_turn(self, arm: Workflow, report: TurnReport) -> None:
        refuse_derived(report.metrics)
        event: dict[str, Any] = {
            "event": "round",
            "clock": time.time(),
            "round": report.number,
            "method": arm.method,
            "seed": arm.seed,
            "clients": {"ok": report.clients, "failed": len(report.failures)},
            "failures": {str(c): reason for c, reason in sorted(report.failures.items())},
            "fallbacks": report.fallbacks,
            "unseen": report.unseen,
            "bytes_up": report.bytes_up,
            "bytes_down": report.bytes_down,
            "seconds": report.seconds,
            "epsilon": report.epsilon,
            "skipped": report.skipped or None,
            "groups_skipped": {str(g): why for g, why in sorted(report.groups_skipped.items())},
            "remarks": {str(n): what for n, what in sorted(report.remarks.items())},
            "metrics": report.metrics,
        }
        if report.number == self.experiment.rounds or report.failures:
            event["by_client"] = report.by_client
        self.last[name_of(arm)] = event | {"by_client": report.by_client}
        self.folder.append(event)
        log.info(
            "round %d/%d %s: %d ok, %d failed, %s%.1f s", report.number, self.experiment.rounds,
            name_of(arm), report.clients, len(report.failures),
            "".join(f"{part}, " for part in _known(report)), report.seconds,
        )  # fmt: skip
        if report.skipped:
            log.warning(
                "round %d %s skipped, the model stays: %s",
                report.number, name_of(arm), report.skipped,
            )  # fmt: skip
        for client, reason in sorted(report.failures.items()):
            log.warning(
                "round %d %s: client %d left out: %s",
                report.number, name_of(arm), client, reason,
            )  # fmt: skip
        for node, reason in sorted(report.remarks.items()):
            log.warning("round %d %s: node %d: %s", report.number, name_of(arm), node, reason)
        for reason in report.fallbacks:
            log.warning(
                "round %d %s: a chunk of clients failed together and was trained one by one: %s",
                report.number, name_of(arm), reason,
            )  # fmt: skip

    def _evaluate(self, arm: Judged, number: int, final: bool) -> None:
        """Judge an arm or a baseline, and keep what there is to look at of a final one."""
        started = time.monotonic()
        evaluation = arm.evaluate(self.grid, number, final)
        refuse_derived(evaluation.metrics)
        self.folder.append(
            {
                "event": "evaluation",
                "round": number,
                "method": arm.method,
                "seed": arm.seed,
                "final": final,
                "seconds": time.monotonic() - started,
                "metrics": evaluation.metrics,
            }
        )
        if final:
            for name, image in evaluation.pictures.items():
                self.folder.save_picture(f"{name_of(arm)}-adapted-{name}", image)
            for name, video in evaluation.videos.items():
                self.folder.save_video(f"{name_of(arm)}-{name}", video)
        for name, value in evaluation.metrics.items():
            if value is True:
                log.warning("round %d %s: %s", number, name_of(arm), name)

    def _log_start(self, nodes: list[Node]) -> None:
        """Log what is known before the first turn: the nodes, held-out data to look at,
        baselines."""
        task = self.run_facts.pieces.task
        deployed = any(node.hosts is not None for node in nodes)
        self.folder.append(
            {
                "event": "start",
                "round": 0,
                "nodes": len(nodes),
                "device": str(self.run_facts.pieces.device),
                "deployed": deployed,
            }
        )
        for index, data in enumerate(task.held_out()):
            if (image := task.picture(data, data.truth)) is not None:
                self.folder.save_picture(f"held-out-{index:02d}", image)
        for baseline in self.lineup.baselines:
            self._evaluate(baseline, 0, final=True)

    # ------------------------------------------------------------------ checkpoints, report
    def _checkpoint(self, number: int) -> Checkpoint:
        snapshots = {name_of(arm): arm.snapshot() for arm in self.arms}
        return Checkpoint.of(number, self.identity, snapshots, self.protection.anchor)

    def _restore(self) -> int:
        """Put the arms back to the last checkpoint; returns its turn (0: none was written yet)."""
        files = list_checkpoints(self.folder.checkpoints)
        if not files:
            self.folder.rewind(-1)
            return 0
        checkpoint = load_checkpoint(files[-1], self.identity)
        for arm in self.arms:
            arm.restore(checkpoint.round, checkpoint.arm(name_of(arm)))
        self._anchor = checkpoint.ledger
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


def _known(report: TurnReport) -> list[str]:
    """A turn's numbers for a log line: plain ones, and means with their worst client."""
    parts = []
    for name, value in report.metrics.items():
        if isinstance(value, int | float):
            parts.append(f"{name} {value:.3g}")
        elif isinstance(value, dict) and value.get("mean") is not None:
            parts.append(f"{name} {value['mean']:.3g} (max {value['max']:.3g})")
    if report.epsilon is not None:
        parts.append(f"epsilon {report.epsilon:.3f}")
    return parts


def _refuse_unlisted(lineup: Lineup, experiment: Experiment) -> None:
    """Raise ``InputError`` for an arm or baseline that no method and seed of the run stands for:
    it would be trained, and shown nowhere."""
    for arm in [*lineup.arms, *lineup.baselines]:
        if arm.method not in experiment.method_list or arm.seed not in experiment.seed_list:
            raise InputError(
                "workflow",
                experiment.workflow_name,
                f"it trains {arm.method} at seed {arm.seed}, which methods and seeds do not name",
                "build arms of Pieces.arms only",
            )


def _warn(text: str) -> None:
    log.warning(text)


def _announce(what: str, done: int, total: int) -> None:
    """Progress of what is made before the first turn, a line now and then."""
    if done == total or done % max(1, total // 10) == 0:
        log.info("%s: %d/%d", what, done, total)
