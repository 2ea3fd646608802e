"""The client half of a round for many clients: chunked, batched, and tolerant of single failures.

A node is told which clients to train. They run in chunks (one batched computation each, so memory
does not grow with the cohort), are added up through the release, and leave as one partial sum. A
client that raises or whose update is not finite is left out with its reason; the others go on. No
Flower here: this is also what runs on a bare GPU machine.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from strategies.failures import describe
from strategies.learner import Learner, WholeFit
from strategies.local.train import descend
from strategies.memory import ClientMemory, Job, MemoryStore, remembered
from strategies.release import Release
from strategies.rule import Rule
from strategies.settings import LearnerSettings
from strategies.types import Bounds, Broadcast, Contribution, LocalResult, Payload, Public, Scalar
from strategies.uploads import Inspect, Shot, look
from tasks.errors import InputError, UnusableDataError
from tasks.params import is_finite
from tasks.randomness import Key, Secret, generator
from tasks.types import Trainable

log = logging.getLogger("fedapp.cohort")

# What a chunk may keep: a few times the last cache on CPU, and rather FEW clients than one if they
# are large (measured)
CHUNK_BYTES = {"cpu": 80 << 20, "cuda": 4 << 30}
CHUNK_LIMIT = {"cpu": 32, "cuda": 1024}
FEW = 4
FEW_BYTES = 256 << 20


@dataclass(frozen=True)
class Assignment:
    """The clients a node trains this round. ``versions``: the round whose memory each continues
    from (0: none).

    ``public`` are the release's numbers of the round.
    """

    round: int
    seed: int
    clients: tuple[int, ...]
    versions: tuple[int, ...]
    public: Public = field(default_factory=dict)


@dataclass
class CohortResult:
    """A node's partial sum, who is in it, who is not and why, and metrics aligned with ``clients``.

    ``digests``: of clients' pictures, in the provable mode. ``fallbacks``: for each chunk that
    failed as a whole and was trained again one by one, what it failed with. ``unseen``: why uploads
    could not be looked at. All are the node's own affair under a private release.
    """

    payload: Payload | None = None
    clients: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    pictures: dict[int, Shot] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)


def refuse_other_data(task: Trainable, cohort: Sequence[Any]) -> None:
    """Raise :class:`UnusableDataError` for a client whose data a bound from the model alone is not
    about: it holds one signal of as many numbers as the task says."""
    for data in cohort:
        signals = data.signals
        if len(signals) != 1 or signals[0].support.stored.numel() != task.outputs_of_a_picture:
            raise UnusableDataError(
                f"privacy.exact is about one picture of {task.outputs_of_a_picture} numbers a "
                "client (data.size): this one holds something else"
            )


def chunk_width(working_set: int, device: torch.device) -> int:
    """Number of clients that keep ``working_set`` bytes each and are trained at once."""
    need = max(working_set, 1)
    few = min(FEW, FEW_BYTES // need)
    fitting = min(CHUNK_LIMIT[device.type], CHUNK_BYTES[device.type] // need)
    return max(1, few, fitting)


class CohortTrainer:
    """Trains whichever clients an :class:`Assignment` names, for one task, learner, rule and
    release.

    Args:
        task: supplies data, losses and derivatives.
        learner: turns a client's data into an update.
        rule: corrects local steps and says what a client adds to the sum.
        release: makes the sum.
        settings: of the local loop.
        store: keeps what clients remember; needed if the rule or the learner remembers anything.
        secret: of the node, which all random choices that data pass through are derived from;
            ``None``: they follow from the seed, which the server knows.
        inspect: scores uploads as a curious server would; ``None``: nobody looks.
        chunk: clients trained at once; 0: as memory allows.
        tell: turns a client's failure into the text that is reported.
    """

    def __init__(
        self,
        task: Trainable,
        learner: Learner | WholeFit,
        rule: Rule,
        release: Release,
        settings: LearnerSettings,
        store: MemoryStore | None = None,
        secret: Secret | None = None,
        inspect: Inspect | None = None,
        chunk: int = 0,
        tell: Callable[[BaseException], str] = describe,
    ) -> None:
        self.task = task
        self.learner = learner
        self.rule = rule
        self.release = release
        self.settings = settings
        self.secret = secret
        self.inspect = inspect
        self.chunk = chunk
        self.tell = tell
        self.memory = ClientMemory(remembered(task, learner, rule), store)
        self._fit = learner.fit if isinstance(learner, WholeFit) else partial(descend, learner)

    def run(
        self, received: Broadcast, assignment: Assignment, pictures: bool = False
    ) -> CohortResult:
        """Train the assigned clients from the received model and add them up."""
        result = CohortResult()
        drawn = list(zip(assignment.clients, assignment.versions, strict=True))
        jobs = self._attending(received, assignment, drawn, result)
        width = self.chunk_width(received.model.device)
        for start in range(0, len(jobs), width):
            self._chunk(received, assignment, jobs[start : start + width], result, pictures)
        if self.release.private:
            self._abstain(received, assignment, drawn, result)
        result.payload = self.release.close(result.payload, assignment.public)
        return result

    def simulate_round(
        self, received: Broadcast, assignment: Assignment
    ) -> tuple[LocalResult, Contribution]:
        """The assigned clients' training and summands, before any release; nothing is
        remembered."""
        chunk = list(zip(assignment.clients, assignment.versions, strict=True))
        _, memory, local = self._fitted(received, assignment, chunk)
        return local, self.rule.contribute(local, received, memory)[0]

    def chunk_width(self, device: torch.device) -> int:
        """Clients trained at once: what is configured, else what the memory budget of the device
        allows."""
        if self.chunk:
            return self.chunk
        need = self.task.working_set(self.settings.batch_size, self.learner.inner_steps)
        return chunk_width(need, device)

    # ------------------------------------------------------------------ who trains
    def _attending(
        self, received: Broadcast, assignment: Assignment, drawn: list[Job], result: CohortResult
    ) -> list[Job]:
        """Clients who train, where the rule lets them stay away by their own score; the others add
        nothing."""
        # only where nodes add the noise: a lone attendant of an exact sum would stand alone in it
        if not (self.rule.attends and self.release.masked and self.release.noised):
            return drawn
        staying = []
        for job in drawn:
            memory = self.memory.recall_or_blank(job, received.model)
            chance = float(self.rule.attendance(memory)[0])
            coin = generator(*self._stream("attendance", assignment, job[0]))
            if float(torch.rand((), generator=coin)) < chance:
                staying.append(job)
            else:
                result.failures[job[0]] = "stayed away: it did well last time"
        return staying

    def _abstain(
        self, received: Broadcast, assignment: Assignment, jobs: list[Job], result: CohortResult
    ) -> None:
        """Nobody may learn who failed, so the server counts everyone: who failed added zero and
        keeps its memory."""
        for job in jobs:
            if job[0] in result.failures:
                kept = self.memory.recall_or_blank(job, received.model)
                self.memory.keep(job[0], assignment.round, kept)

    # ------------------------------------------------------------------ a chunk
    def _chunk(
        self,
        received: Broadcast,
        assignment: Assignment,
        chunk: list[Job],
        result: CohortResult,
        pictures: bool,
    ) -> None:
        """Train a chunk together; if it fails, one by one, to find out which client is at fault."""
        try:
            self._train(received, assignment, chunk, result, pictures)
            return
        except InputError:
            raise  # a mistake in the configuration is everybody's
        except Exception as error:
            if len(chunk) == 1:
                result.failures[chunk[0][0]] = self.tell(error)
                return
            # said aloud: clients that fail only together mean code that depends on packing
            result.fallbacks.append(self.tell(error))
            log.warning(
                "round %d: a chunk of %d clients failed and is trained one by one: %s",
                assignment.round, len(chunk), describe(error),
            )  # fmt: skip
        for job in chunk:
            try:
                self._train(received, assignment, [job], result, pictures)
            except InputError:
                raise
            except Exception as error:
                result.failures[job[0]] = self.tell(error)

    def _train(
        self,
        received: Broadcast,
        assignment: Assignment,
        chunk: list[Job],
        result: CohortResult,
        pictures: bool,
    ) -> None:
        cohort, memory, local = self._fitted(received, assignment, chunk)
        contribution, renewed = self.rule.contribute(local, received, memory)
        remembers = {**renewed, **local.kept}
        factor = self.release.clip_factor(contribution, assignment.public) if renewed else None
        if factor is not None:
            scale = factor.to(received.model)[:, None]
            remembers |= self.rule.after_clip(memory, renewed, scale)
        contribution = self._with_metrics(contribution, local)
        payload = self.release.encode(contribution, assignment.public)
        self._refuse_infinite(contribution, payload, len(chunk))

        metrics: dict[str, list[float]] = {
            name: values.tolist() for name, values in local.metrics.items()
        }
        shots: Sequence[Shot | None] = []
        unseen: list[str] = []
        if self.inspect is not None:
            seen, shots, unseen = self._look(received, local, cohort)
            metrics |= seen
        for row, (client, _) in enumerate(chunk):  # the last that can fail: it writes to disk
            self.memory.keep(client, assignment.round, remembers, row)
        if result.payload is None:
            result.payload = payload
        else:
            result.payload.add(payload)
        # nothing below raises: a client is in everything or in nothing
        for row, (client, _) in enumerate(chunk):
            if pictures and shots and (shot := shots[row]) is not None:
                result.pictures[client] = shot
        before = len(result.clients)
        for name in {**result.metrics, **metrics}:  # NaN: not computed for these clients
            column = result.metrics.setdefault(name, [math.nan] * before)
            column.extend(metrics.get(name, [math.nan] * len(chunk)))
        result.unseen += unseen
        if self.release.provable:
            for (client, _), data in zip(chunk, cohort, strict=True):
                values = data.signals[0].support.values.contiguous()
                result.digests[client] = sha256(values.numpy().tobytes()).hexdigest()
        result.clients.extend(client for client, _ in chunk)

    def _refuse_infinite(self, contribution: Contribution, payload: Payload, clients: int) -> None:
        """Raise ``ArithmeticError`` for an update that holds NaN or infinity."""
        # a sum is finite only if every summand is: reading it alone is enough, unless it is made of
        # integers
        given = contribution.vector if self.release.private else payload.vector
        # under an exact sum who has no weight would add zero, and be counted
        weighs = not self.release.exact() or is_finite(contribution.weight)
        if is_finite(given) and weighs:
            return
        if clients > 1:
            bad = int((~torch.isfinite(contribution.vector).all(dim=1)).sum())
            raise ArithmeticError(f"{bad} of {clients} updates are not finite")
        raise ArithmeticError("the update is not finite (NaN or infinity) after local training")

    def _fitted(
        self, received: Broadcast, assignment: Assignment, chunk: list[Job]
    ) -> tuple[list[Any], dict[str, Tensor], LocalResult]:
        """The clients' data, their memories, and what they trained, in the model's dtype."""
        cohort = [self._data(client) for client, _ in chunk]
        if self.release.provable:
            refuse_other_data(self.task, cohort)
        memory = self.memory.recall(chunk, received.model)
        keys = [self._stream("batches", assignment, client) for client, _ in chunk]
        local = self._fit(self.task, self.rule, received, cohort, memory, keys, self.settings)
        # weights are made of counts: one dtype, or a weighted sum of a chunk is not even defined
        delta = local.delta
        local = replace(local, steps=local.steps.to(delta), examples=local.examples.to(delta))
        return cohort, memory, local

    def _stream(self, purpose: str, assignment: Assignment, client: int) -> Key:
        """Name of a client's stream in a round. (The arm is not in it: methods are compared on the
        same batches.)"""
        name: Key = (purpose, assignment.seed, assignment.round, client)
        return name if self.secret is None else (self.secret, *name)

    def _data(self, client: int) -> Any:
        """The data of a client; what is wrong with them is that client's failure, not
        everybody's."""
        try:
            return self.task.client_data(client)
        except InputError as error:
            raise UnusableDataError(str(error)) from error

    def _with_metrics(self, contribution: Contribution, local: LocalResult) -> Contribution:
        """The contribution with those metrics beside it that the release bounds and noises with the
        sum."""
        ranges = self.release.metric_ranges
        if not ranges:
            return contribution
        for name in ranges:
            if name not in local.metrics:
                known = ", ".join(sorted(local.metrics))
                raise InputError(
                    "privacy.metrics",
                    name,
                    "the learner reports no such metric",
                    f"it reports: {known}",
                )
        extra = {
            f"metric.{name}": Scalar(local.metrics[name], Bounds(*bounds))
            for name, bounds in ranges.items()
        }
        return replace(contribution, scalars={**contribution.scalars, **extra})

    def _look(
        self, received: Broadcast, local: LocalResult, cohort: Sequence[Any]
    ) -> tuple[dict[str, list[float]], Sequence[Shot | None], list[str]]:
        """Scores and pictures of the uploads, and why there are none; looking never costs a client
        its place in the sum."""
        assert self.inspect is not None, "asked for by _train alone"
        try:
            return *look(self.task, self.inspect, received, local, cohort), []
        except Exception as error:
            log.warning("uploads could not be looked at: %s", describe(error))
            return {}, [], [self.tell(error)]
