"""The client half of a round for many clients: chunked, batched, and tolerant of single failures.

A node is told which clients to train. They run in chunks (one batched computation each, so memory
does not grow with the cohort), are added up through the release, and leave as one partial sum. A
client that raises or whose update is not finite is left out with its reason; the others go on. No
Flower here: this is also what runs on a bare GPU machine.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from strategies.local.train import descend
from strategies.settings import LearnerSettings
from strategies.types import (
    Bounds,
    Broadcast,
    Contribution,
    Learner,
    LocalResult,
    Payload,
    Public,
    Release,
    Rule,
    Scalar,
    WholeFit,
)
from tasks.errors import FedappError, InputError, UnusableDataError
from tasks.params import is_finite
from tasks.randomness import Key, generator
from tasks.types import Rendering, Task

Inspect = Callable[[Sequence[Tensor], Sequence[Tensor]], Mapping[str, list[float]]]

# What a chunk may keep: a few times the last cache on CPU, and rather FEW clients than one if they
# are large (measured)
CHUNK_BYTES = {"cpu": 80 << 20, "cuda": 4 << 30}
CHUNK_LIMIT = {"cpu": 32, "cuda": 1024}
FEW, FEW_BYTES = 4, 256 << 20


class MemoryStore(Protocol):
    """What a rule's clients remember between rounds, on the node that hosts them."""

    def load(self, client: int, version: int) -> Mapping[str, Tensor]:
        """The memory a client left in round ``version``; raises if this node does not have it."""

    def save(self, client: int, version: int, memory: Mapping[str, Tensor]) -> None:
        """Keep it until the server has accepted a later one."""


@dataclass(frozen=True)
class Assignment:
    """Which clients a node trains this round. ``versions``: the round whose memory each continues
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
    """A node's partial sum, who is in it, who is not and why, and metrics aligned with
    ``clients``."""

    payload: Payload | None = None
    clients: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    pictures: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # (truth, rendered)


def describe(error: BaseException) -> str:
    """One line: type, message, and where (file:line in function): the last place that is not in a
    library."""
    return f"{type(error).__name__}: {error}{_place(error, whole=True)}"


def disclose(error: BaseException) -> str:
    """What a real device tells of a failure: its kind and the place in the code. Messages name
    files and folders."""
    named = (
        f"InputError about {error.key}" if isinstance(error, InputError) else type(error).__name__
    )
    return f"{named}{_place(error, whole=False)}; the node's own log says more"


def _place(error: BaseException, whole: bool) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or list(frames)
    if not own:
        return ""
    file = own[-1].filename if whole else "/".join(Path(own[-1].filename).parts[-2:])
    return f" ({file}:{own[-1].lineno} in {own[-1].name})"


def chunk_width(working_set: int, device: torch.device) -> int:
    """How many clients that keep ``working_set`` bytes each are trained at once."""
    need, kind = max(working_set, 1), device.type
    few = min(FEW, FEW_BYTES // need)
    return max(1, few, min(CHUNK_LIMIT[kind], CHUNK_BYTES[kind] // need))


def remembered(task: Task, learner: Learner | WholeFit, rule: Rule) -> dict[str, int]:
    """What clients keep between rounds, and how many numbers each is: the rule's vectors and the
    learner's own."""
    own = learner.memory(task) if hasattr(learner, "memory") else {}
    rules = {**dict.fromkeys(rule.memory, task.layout.size), **getattr(rule, "memory_sizes", {})}
    if both := sorted(set(own) & set(rules)):
        raise InputError(
            "methods", type(learner).__name__, f"its memory {both} has the name of one the rule keeps",
            "rename the learner's",
        )  # fmt: skip
    return {**rules, **own}


class CohortTrainer:
    """Trains whichever clients an :class:`Assignment` names, for one task, learner, rule and
    release."""

    def __init__(
        self,
        task: Task,
        learner: Learner | WholeFit,
        rule: Rule,
        release: Release,
        settings: LearnerSettings,
        store: MemoryStore | None = None,
        inspect: Inspect | None = None,
        chunk: int = 0,
        tell: Callable[[BaseException], str] = describe,
    ) -> None:
        self.task, self.learner, self.rule, self.release = task, learner, rule, release
        self.settings, self.store, self.inspect, self.chunk = settings, store, inspect, chunk
        self.tell = tell  # what is said of a client's failure
        self._fit = learner.fit if isinstance(learner, WholeFit) else partial(descend, learner)
        self._memory = remembered(task, learner, rule)
        if self._memory and store is None:
            raise ValueError(
                f"clients remember {', '.join(self._memory)}: they need a memory store"
            )

    def run(
        self, received: Broadcast, assignment: Assignment, pictures: bool = False
    ) -> CohortResult:
        """Train the assigned clients from the received model and add them up."""
        result = CohortResult()
        drawn = list(zip(assignment.clients, assignment.versions, strict=True))
        jobs = self._attending(received, assignment, drawn, result)
        width = self.chunk_width(received.model.device)
        for start in range(0, len(jobs), width):
            chunk = jobs[start : start + width]
            try:
                self._train(received, assignment, chunk, result, pictures)
            except InputError:
                raise  # a mistake in the configuration is everybody's
            except Exception as error:
                if len(chunk) == 1:
                    result.failures[chunk[0][0]] = self.tell(error)
                else:
                    self._one_by_one(received, assignment, chunk, result, pictures)
        if self.release.private:
            self._abstain(received, assignment, drawn, result)
        result.payload = self.release.close(result.payload, assignment.public)
        return result

    def _attending(
        self,
        received: Broadcast,
        assignment: Assignment,
        drawn: list[tuple[int, int]],
        result: CohortResult,
    ) -> list[tuple[int, int]]:
        """Those who train, where the rule lets clients stay away by their own score; the others add
        nothing."""
        attendance = getattr(self.rule, "attendance", None)
        adaptive = (
            bool(getattr(self.rule, "memory_sizes", None))
            and self.release.masked
            and self.release.noised
        )
        if attendance is None or not adaptive:
            return drawn
        staying = []
        for job in drawn:
            chance = float(attendance(self._recall_if_any(job, received.model))[0])
            coin = generator("attendance", assignment.seed, assignment.round, job[0])
            if float(torch.rand((), generator=coin)) < chance:
                staying.append(job)
            else:
                result.failures[job[0]] = "stayed away: it did well last time"
        return staying

    def _abstain(
        self,
        received: Broadcast,
        assignment: Assignment,
        jobs: list[tuple[int, int]],
        result: CohortResult,
    ) -> None:
        """Nobody may learn who failed, so the server counts everyone: who failed added zero and
        keeps its memory."""
        if self.store is None or not self._memory:
            return
        for job in jobs:
            if job[0] in result.failures:
                kept = self._recall_if_any(job, received.model)
                self.store.save(
                    job[0], assignment.round, {name: rows[0] for name, rows in kept.items()}
                )

    def chunk_width(self, device: torch.device) -> int:
        """Clients trained at once: what is configured, else what the memory budget of the device
        allows."""
        if self.chunk:
            return self.chunk
        return chunk_width(
            self.task.working_set(self.settings.batch_size, self.learner.inner_steps), device
        )

    def _one_by_one(
        self, received: Broadcast, assignment: Assignment, chunk: list[tuple[int, int]], result: CohortResult,
        pictures: bool,
    ) -> None:  # fmt: skip
        """Find out which client of a failing chunk is at fault; the healthy ones are trained all
        the same."""
        for job in chunk:
            try:
                self._train(received, assignment, [job], result, pictures)
            except Exception as error:
                result.failures[job[0]] = self.tell(error)

    def _train(
        self, received: Broadcast, assignment: Assignment, chunk: list[tuple[int, int]], result: CohortResult,
        pictures: bool,
    ) -> None:  # fmt: skip
        clients = [client for client, _ in chunk]
        cohort, memory, local = self._fitted(received, assignment, chunk)
        contribution, renewed = self.rule.contribute(local, received, memory)
        renewed = {**renewed, **local.kept}
        if renewed and hasattr(self.rule, "settled") and hasattr(self.release, "kept"):
            share = self.release.kept(contribution, assignment.public).to(received.model)
            renewed = {**renewed, **self.rule.settled(memory, renewed, share[:, None])}
        contribution = self._with_metrics(contribution, local)
        payload = self.release.encode(contribution, assignment.public)
        # a sum is finite only if every summand is: reading it alone is enough, unless it is made of
        # integers
        if not is_finite(contribution.vector if self.release.private else payload.vector):
            bad = ~torch.isfinite(contribution.vector).all(dim=1)
            if len(chunk) > 1:
                raise ArithmeticError(f"{int(bad.sum())} of {len(chunk)} updates are not finite")
            raise ArithmeticError("the update is not finite (NaN or infinity) after local training")

        metrics, shown = self._look(received, local, cohort, pictures)
        metrics = {name: values.tolist() for name, values in local.metrics.items()} | metrics
        for row, client in enumerate(
            clients
        ):  # nothing below raises: a client is in everything or in nothing
            if renewed and self.store is not None:
                self.store.save(
                    client, assignment.round, {name: rows[row] for name, rows in renewed.items()}
                )
            if shown:
                result.pictures[client] = shown[row]
        for name, numbers in metrics.items():
            result.metrics.setdefault(name, []).extend(numbers)
        result.clients.extend(clients)
        if result.payload is None:
            result.payload = payload
        else:
            result.payload.add(payload)

    def _fitted(
        self, received: Broadcast, assignment: Assignment, chunk: list[tuple[int, int]]
    ) -> tuple[list[Any], dict[str, Tensor], LocalResult]:
        """The clients' data, their memories, and what they trained."""
        cohort, memory = (
            [self._data(client) for client, _ in chunk],
            self.recall(chunk, received.model),
        )
        keys: list[Key] = [
            ("batches", assignment.seed, assignment.round, client) for client, _ in chunk
        ]
        return (
            cohort,
            memory,
            self._fit(self.task, self.rule, received, cohort, memory, keys, self.settings),
        )

    def simulate_round(
        self, received: Broadcast, assignment: Assignment
    ) -> tuple[LocalResult, Contribution]:
        """Simulate a round of the assigned clients: what they would train and add to the sum,
        before any release; nothing is remembered."""
        chunk = list(zip(assignment.clients, assignment.versions, strict=True))
        _, memory, local = self._fitted(received, assignment, chunk)
        return local, self.rule.contribute(local, received, memory)[0]

    def _data(self, client: int) -> Any:
        """What a client holds; what is wrong with it is that client's failure, not everybody's."""
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

    def recall(self, chunk: list[tuple[int, int]], model: Tensor) -> dict[str, Tensor]:
        """The clients' memories as ``{name: [C, size]}``; zeros for those who never took part."""
        if not self._memory or self.store is None:
            return {}
        blank = {name: model.new_zeros(size) for name, size in self._memory.items()}
        rows = [self.store.load(client, version) if version else blank for client, version in chunk]
        return {name: torch.stack([row[name].to(model) for row in rows]) for name in self._memory}

    def _recall_if_any(self, job: tuple[int, int], model: Tensor) -> dict[str, Tensor]:
        """A client's memory, or zeros if this node no longer has it: it starts anew, and nobody
        else suffers."""
        try:
            return self.recall([job], model)
        except FedappError:
            return self.recall([(job[0], 0)], model)

    def _look(
        self, received: Broadcast, local: LocalResult, cohort: Sequence[Any], pictures: bool
    ) -> tuple[dict[str, list[float]], list[tuple[Tensor, Tensor]]]:
        """What a curious server would see in each client's upload: numbers, and pictures if asked
        for."""
        if self.inspect is None:
            return {}, []
        assert isinstance(self.task, Rendering), "compatibility.py refuses looking at other uploads"
        uploads, truths = received.model + local.delta, [data.truth for data in cohort]
        rendered = self.task.render(uploads, cohort)
        numbers = self._scores(rendered, truths, [getattr(data, "parts", 1) for data in cohort])
        return numbers, list(zip(truths, rendered, strict=True)) if pictures else []

    def _scores(
        self, rendered: Sequence[Tensor], truths: Sequence[Tensor], parts: Sequence[int]
    ) -> dict[str, list[float]]:
        """Numbers of each client's upload, the mean over its signals where it holds several."""
        assert self.inspect is not None, "asked for by _look alone"
        apart = [part > 1 for part in parts]
        images = [
            one
            for image, many in zip(rendered, apart, strict=True)
            for one in (image if many else [image])
        ]
        wanted = [
            one
            for truth, many in zip(truths, apart, strict=True)
            for one in (truth if many else [truth])
        ]
        numbers: dict[str, list[float]] = {}
        for name, values in self.inspect(images, wanted).items():
            rest = iter(values)
            numbers[name] = [sum(next(rest) for _ in range(part)) / part for part in parts]
        return numbers
