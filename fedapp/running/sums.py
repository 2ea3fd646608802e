"""Rounds of sums as a workflow: any learner, any rule, any release."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from typing import Any

from flwr.serverapp import Grid
from torch import Tensor

from fedapp.config.pieces import Pieces
from fedapp.results import mean_and_max
from fedapp.running.judging import judge
from fedapp.running.lineup import Lineup, Run
from fedapp.store.transcript import HeardRound, HeardSum, TranscriptFile
from privacy.attacks import render
from privacy.exact import HIDES, PROVES, Bounds, objection
from strategies.federation import Federation
from strategies.flower.roster import Node
from strategies.flower.rounds import FederatedRounds, RoundReport, RoundSettings
from strategies.flower.totals import Heard
from strategies.flower.workflow import TurnReport
from strategies.learner import OBJECTIVE
from strategies.local import LOCAL
from strategies.types import Snapshot
from tasks.errors import InputError
from tasks.types import Evaluation

log = logging.getLogger("flwr")


def build(run: Run) -> Lineup:
    """Every learner at every seed, and the untrained start where ``local`` is among the methods."""
    experiment = run.pieces.experiment
    if run.pieces.release_type.exact():
        if experiment.privacy.exact:
            _refuse_biting_clips(run.pieces)
            log.info("release %s, provable mode: a run %s", experiment.release, PROVES)
        else:
            log.warning("release %s, a sum without noise, %s", experiment.release, HIDES)
    local = experiment.seed_list if LOCAL in experiment.method_list else []
    return Lineup(
        arms=[Sums(run, method, seed) for method, seed in run.pieces.arms],
        baselines=[Untrained(run.pieces, seed) for seed in local],
    )


def _refuse_biting_clips(pieces: Pieces) -> None:
    """Raise :class:`InputError` where nodes would refuse the very first model of the provable mode:
    a clip could act on a picture."""
    experiment = pieces.experiment
    clips = Bounds.of(
        experiment.learner.outer_clip, experiment.privacy.clip_norm, experiment.clients.total
    )
    for method, seed in pieces.arms:
        step = pieces.learner(method)
        if reason := objection(pieces.task, pieces.task.init(seed), step, clips):
            raise InputError(
                "privacy.exact",
                True,
                f"every node would refuse: {reason}",
                "raise that limit, or take a smaller field (field.depth = 2)",
            )


def identity(pieces: Pieces) -> dict[str, Any]:
    """Facts that a checkpoint must agree with to be continued."""
    return {
        "arms": [f"{method}-{seed}" for method, seed in pieces.arms],
        "parameters": pieces.task.layout.size,
        "rule": pieces.experiment.rule,
        "release": pieces.experiment.release,
    }


class Untrained:
    """No federation at all: test-time optimisation starts from the random initialisation."""

    method = LOCAL

    def __init__(self, pieces: Pieces, seed: int) -> None:
        self.pieces = pieces
        self.seed = seed

    def evaluate(self, grid: Grid, number: int, final: bool) -> Evaluation:
        return judge(self.pieces, self.pieces.task.init(self.seed), tune=True)


class Sums:
    """One learner at one seed, trained by rounds of sums (a
    :class:`strategies.flower.workflow.Workflow`).

    ``seen`` is what its uploads show, per metric and client, as last uploaded.
    """

    def __init__(self, run: Run, method: str, seed: int) -> None:
        pieces = run.pieces
        self.run = run
        self.method = method
        self.seed = seed
        self.federation = Federation.start(
            pieces.rule, pieces.experiment.clients.total, pieces.task.init(seed)
        )
        self.federation.frozen = pieces.task.frozen
        self.seen: dict[str, dict[int, float]] = {}
        self._rounds: FederatedRounds | None = None
        self._adapted: dict[str, float] = {}  # the release's state in a checkpoint

    @property
    def name(self) -> str:
        return f"{self.method}-{self.seed}"

    @property
    def rounds(self) -> FederatedRounds:
        assert self._rounds is not None, "arms are connected before their first turn"
        return self._rounds

    # ------------------------------------------------------------------ the seam
    def connect(self, nodes: Sequence[Node], session: str) -> None:
        if self._rounds is None:
            self._rounds = self._make_rounds(list(nodes), session)
            self._rounds.release.state |= self._adapted
        self._rounds.nodes = list(nodes)

    def turn(self, grid: Grid, number: int, show: bool) -> TurnReport:
        # real nodes refuse to be asked for pictures
        simulated = all(node.hosts is None for node in self.rounds.nodes)
        report = self.rounds.run_round(grid, number, pictures=show and simulated)
        if self.run.pieces.experiment.looks_at(number):
            # a score that could not be taken is none, not the one of the round before
            blank = dict.fromkeys(report.clients, math.nan)
            for name in render.METRICS:
                scores = {**blank, **report.metrics.get(name, {})}
                self.seen.setdefault(name, {}).update(scores)
        return self._told(report)

    def evaluate(self, grid: Grid, number: int, final: bool) -> Evaluation:
        return judge(self.run.pieces, self.federation.result, tune=final)

    def snapshot(self) -> Snapshot:
        snapshot = self.federation.snapshot()
        seen = {name: dict(values) for name, values in self.seen.items()}
        state = dict(self.rounds.release.state)
        return Snapshot(snapshot.tensors, {**snapshot.facts, "seen": seen, "release": state})

    def restore(self, number: int, snapshot: Snapshot) -> None:
        self.federation.restore(number, snapshot)
        self.seen = {
            name: {int(client): value for client, value in values.items()}
            for name, values in snapshot.facts["seen"].items()
        }
        self._adapted = dict(snapshot.facts["release"])

    # ------------------------------------------------------------------ its parts
    def _make_rounds(self, nodes: list[Node], session: str) -> FederatedRounds:
        """Rounds with what the release needs: a ledger's charge, a draw, keys."""
        run, pieces, protection = self.run, self.run.pieces, self.run.protection
        named: dict[str, Any] = {
            "method": self.method,
            "seed": self.seed,
            "session": session,
            "fingerprint": run.fingerprint,
            "root": run.root,
        }
        release = pieces.release_of(self.rule_size)
        if protection.private:
            sampler = pieces.sampler(self.seed)
            charge = protection.charge(self.name, sampler)
            named |= {"sample": sampler.draw, "expected": sampler.expected, "charge": charge}
        settings = self._settings(simulated=all(node.hosts is None for node in nodes))
        if not protection.masked:
            return FederatedRounds(self.federation, release, nodes, settings, **named)
        from privacy.flower.exact_rounds import ExactRounds
        from privacy.flower.rounds import SecureRounds

        kind = ExactRounds if release.exact() else SecureRounds
        rounds = kind(
            self.federation,
            release,
            nodes,
            settings,
            identities=protection.identities,
            privacy=pieces.privacy,
            sessions=protection.sessions,
            **named,
        )
        if pieces.experiment.report.transcript:
            rounds.heard = self._listener()
        return rounds

    def _listener(self) -> Heard | None:
        """Writes down what the server sees of its sums; ``None`` where that would be too much."""
        file = TranscriptFile(self.run.folder.path, self.name)
        if not file.fits(self.federation.model.numel(), self.run.pieces.experiment.rounds):
            log.info("the transcript of %s is not kept: it would be too large", self.name)
            return None
        size = self.federation.model.numel()

        def heard(number: int, model: Tensor, sums: list[tuple[tuple[int, ...], Tensor]]) -> None:
            totals = [HeardSum(clients, held[:size]) for clients, held in sums]
            file.keep(HeardRound(number, model, tuple(totals)))

        return heard

    @property
    def rule_size(self) -> int:
        """V, numbers a client contributes."""
        return self.federation.rule.size(self.federation.model.numel())

    def _settings(self, simulated: bool) -> RoundSettings:
        experiment, folder = self.run.pieces.experiment, self.run.folder
        learner = self.run.pieces.learner(self.method)
        inspect = experiment.evaluation.uploads
        told = set() if learner.silent else {*learner.metrics, OBJECTIVE}
        return RoundSettings(
            per_round=experiment.clients.per_round,
            min_clients=experiment.clients.min,
            timeout=experiment.runtime.timeout,
            in_flight=experiment.runtime.in_flight,
            metrics=frozenset(told | (set(render.METRICS) if inspect else set())),
            # real nodes have folders of their own, and refuse to be told of another
            state_dir=str(folder.client_state) if simulated else "",
            inspect=experiment.looks_at,
            run=folder.read("run.json").get("id", ""),
            pins=json.dumps(self.run.pins),
            config=experiment.digest,
        )

    def _told(self, report: RoundReport) -> TurnReport:
        """A round in the run's words: means over clients, and what uploads show."""
        training = {
            name: sum(values.values()) / len(values)
            for name, values in report.metrics.items()
            if name not in render.METRICS and values
        }
        shown = {name: mean_and_max(values.values()) for name, values in self.seen.items()}
        pictures = {}
        for client, (private, rendered) in report.pictures.items():
            pictures[f"private-{client:04d}"] = private
            pictures[f"{self.name}-rendered-{client:04d}"] = rendered
        return TurnReport(
            number=report.round,
            clients=len(report.clients),
            failures=report.failures,
            metrics={**training, **report.means, **shown},
            by_client={name: dict(sorted(values.items())) for name, values in self.seen.items()},
            pictures=pictures,
            epsilon=self.run.protection.epsilon(),
            skipped=report.skipped,
            groups_skipped=report.groups_skipped,
            remarks=report.remarks,
            fallbacks=report.fallbacks,
            unseen=report.unseen,
            bytes_up=report.bytes_up,
            bytes_down=report.bytes_down,
            seconds=report.seconds,
        )
