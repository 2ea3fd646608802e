"""The round after a run's last checkpoint: what its clients would send, and what a server would
hold of it.

The clients' updates are made again from the last shared model, one round further, as the run would
have; then the server's view is taken of them: each update (plain), their sum (secure aggregation),
the noised sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fedapp.config.pieces import Pieces
from fedapp.store.checkpoint import list_checkpoints, load_checkpoint
from fedapp.store.client_state import ClientState
from fedapp.store.runfolder import RunFolder
from privacy.accounting import gaussian_epsilon
from privacy.releases.central import CentralDP
from privacy.releases.plain import Plain
from strategies.cohort import Assignment, CohortTrainer
from strategies.federation import Federation
from strategies.memory import remembered
from strategies.release import Release
from strategies.types import Broadcast, Contribution
from tasks.errors import InputError, UnusableDataError

Row = dict[str, Any]  # attack, method, release, n, metric, value, floor, chance
Held = Callable[[int], Tensor]  # client -> the update [P] a server holds of it
PARALLEL = 1e-3  # 1 - cosine below which one vector is the other, scaled


class ReadOnlyStore:
    """A :class:`strategies.cohort.MemoryStore` that is read and never written: an attack leaves no
    trace in a run."""

    def __init__(self, state: ClientState) -> None:
        self.state = state

    def load(self, client: int, version: int) -> Mapping[str, Tensor]:
        return self.state.read(client, version)

    def save(self, client: int, version: int, memory: Mapping[str, Tensor]) -> None:
        """Drop it: the round does not happen."""


class NextRound:
    """A run's last model, and the updates of the round after it."""

    def __init__(self, folder: RunFolder, clients: int) -> None:
        self.folder = folder
        self.pieces = Pieces.of(folder)
        self.experiment = self.pieces.experiment
        self.task = self.pieces.task
        if any(event.get("deployed") for event in folder.events() if event["event"] == "start"):
            raise InputError(
                "run",
                str(folder.path),
                "its clients' data are on their own devices: what lies here is not theirs",
                "attack a simulated run of the same configuration",
            )
        files = list_checkpoints(folder.checkpoints)
        if not files:
            raise InputError(
                "run", str(folder.path), "has no checkpoint yet", "attack it after its first round"
            )
        self.checkpoint = load_checkpoint(files[-1], {})
        self.clients = list(range(min(clients, self.experiment.clients.total)))
        self.rule = self.pieces.rule
        self._known: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._later: dict[tuple[str, int, int], list[tuple[Tensor, Tensor]]] = {}

    def opening(self, method: str) -> str:
        """Progress line before the attacks on a method."""
        return f"attacking {method}: {len(self.clients)} clients"

    def remarks(self, method: str, seed: int) -> list[Row]:
        """Rows that belong to the updates whatever attacks are tried."""
        return []

    # ------------------------------------------------------------------ the last checkpoint
    def model(self, method: str, seed: int) -> Tensor:
        """The shared model at the last checkpoint."""
        return self.federation(method, seed).model

    def federation(self, method: str, seed: int) -> Federation:
        """An arm at the last checkpoint: shared model, the rule's state, accepted rounds."""
        return self.checkpoint.federation(f"{method}-{seed}", self.rule)

    def judged(self, method: str, seed: int) -> Tensor:
        """The model the run was judged by: the last one, unless the rule says otherwise."""
        return self.federation(method, seed).result

    def received(self, method: str, seed: int) -> Broadcast:
        """Broadcast that clients would get in the round after the checkpoint."""
        return self.federation(method, seed).broadcast(self.checkpoint.round + 1)

    def accepted(self, method: str, seed: int) -> dict[int, int]:
        """The round each client's memory is of."""
        return self.federation(method, seed).accepted

    # ------------------------------------------------------------------ the clients' updates
    def updates(self, method: str, seed: int) -> Tensor:
        """``[C, P]``: what each client trains in the round after the checkpoint, and under
        ``plain`` sends.

        However the server goes on with it, and however a rule scales it (FedNova divides it by the
        client's steps, which the server knows). Raises :class:`InputError` for a rule whose clients
        send something else.
        """
        return self._sent(method, seed)[0]

    @property
    def everybody(self) -> bool:
        """Whether all clients of the run are looked at, take part in every round and remember
        nothing."""
        clients = self.experiment.clients
        all_in = clients.per_round in (0, clients.total)
        return all_in and len(self.clients) == clients.total and not self.rule.memory

    def following(self, method: str, seed: int, rounds: int) -> list[tuple[Tensor, Tensor]]:
        """``(model [P], updates [C, P])`` of so many rounds after the checkpoint, all clients in
        each of them, their sums without a release.

        Right where :attr:`everybody` is: else the rounds of the run would be others.
        """
        if (method, seed, rounds) in self._later:
            return self._later[method, seed, rounds]
        federation = self.federation(method, seed)
        trainer, release = self.trainer(method, seed), Plain()
        order = (tuple(self.clients), (0,) * len(self.clients))
        found = []
        for number in range(self.checkpoint.round + 1, self.checkpoint.round + 1 + rounds):
            received = federation.broadcast(number)
            local, contribution = trainer.simulate_round(received, Assignment(number, seed, *order))
            found.append((received.model, local.delta))
            public = release.open(len(self.clients), len(self.clients), 1, 1)
            closed = release.close(release.encode(contribution, public), public)
            assert closed is not None, "there are clients in every sum"
            federation.apply(release.decode(closed, public), self.clients, number)
        return self._later.setdefault((method, seed, rounds), found)

    def weights(self, method: str, seed: int) -> Tensor:
        """``[C]``: how much each client counts in the sum, as its rule weighs it."""
        return self._sent(method, seed)[1]

    def _sent(self, method: str, seed: int) -> tuple[Tensor, Tensor]:
        if (method, seed) in self._known:
            return self._known[method, seed]
        received = self.received(method, seed)
        trainer = self.trainer(method, seed)
        accepted = self.accepted(method, seed)
        rows = []
        weights = []
        for client in self.clients:
            order = Assignment(received.round, seed, (client,), (accepted.get(client, 0),))
            try:
                local, contribution = trainer.simulate_round(received, order)
            except UnusableDataError as error:
                raise InputError(
                    "run", str(self.folder.path), f"client {client}: {error}", "see its log"
                ) from error
            delta = local.delta[0]
            sent = contribution.vector[0, : len(delta)]
            if 1 - torch.cosine_similarity(sent, delta, dim=0) > PARALLEL and delta.any():
                raise InputError(
                    "rule",
                    self.experiment.rule,
                    "its clients send something else than the update they trained",
                    "attack a run whose clients send updates: what is known here is to invert "
                    "those",
                )
            rows.append(delta)
            weights.append(contribution.weight[0])
        return self._known.setdefault((method, seed), (torch.stack(rows), torch.stack(weights)))

    def trainer(self, method: str, seed: int) -> CohortTrainer:
        """Trainer of the run's clients, from the memories they have."""
        learner = self.pieces.learner(method)
        store = None
        if remembered(self.task, learner, self.rule):
            store = ReadOnlyStore(ClientState(self.folder.client_state / f"{method}-{seed}"))
        return CohortTrainer(
            self.task, learner, self.rule, Plain(), self.experiment.learner, store=store
        )

    def corrections(self, method: str, seed: int) -> Tensor:
        """``[C, P]``: what the rule by itself took off each update in the same way at every step.

        A server that saw a client's earlier messages in the clear knows its control variate, and
        adds this back before it looks for data. Zero for rules whose clients remember nothing.
        """
        received = self.received(method, seed)
        zero = received.model.new_zeros(len(self.clients), received.model.numel())
        if not self.rule.memory:
            return zero
        accepted = self.accepted(method, seed)
        trainer = self.trainer(method, seed)
        versions = [(client, accepted.get(client, 0)) for client in self.clients]
        memory = trainer.memory.recall(versions, received.model)
        each = self.rule.correct(zero, received.model.expand_as(zero), received, memory)
        rate = trainer.learner.outer_rate  # type: ignore[union-attr]
        return each * (self.experiment.learner.outer_steps * rate)

    # ------------------------------------------------------------------ the server's view
    def releases(self, method: str, seed: int) -> Iterator[tuple[str, Held]]:
        """``(release, client -> the update the server would hold)``."""
        updates = self.updates(method, seed)
        yield "plain", lambda client: updates[client]
        mean = updates.mean(0)
        yield "secagg", lambda _: mean
        label, noisy = self.noised(updates)
        yield label, lambda _: noisy

    def noised(self, updates: Tensor) -> tuple[str, Tensor]:
        """The mean update as a noised release gives it: the run's own, or central noise at the
        config's z and C."""
        count, size = updates.shape
        name = self.experiment.release
        own = self.pieces.release_type
        # Attacks look at updates alone: without metrics nothing else is in the sum
        privacy = self.pieces.privacy.model_copy(update={"metrics": "{}"})
        release: Release
        if own.placement != "none":
            release = own(privacy, size)  # type: ignore[call-arg]
        else:
            release = CentralDP(privacy, size)
            name = "central-dp"
        epsilon = gaussian_epsilon(1 / release.multiplier, privacy.delta)
        public = release.open(count, count, 1, 1)
        contribution = Contribution(updates, torch.ones(count), largest=1.0)
        closed = release.close(release.encode(contribution, public), public)
        assert closed is not None, "a private release closes with a vector"
        label = (
            f"{name} (z = {release.multiplier:g}, C = {float(public['clip']):g}, "
            f"epsilon {epsilon:.2f} a round)"
        )
        return label, release.decode(closed, public).mean
