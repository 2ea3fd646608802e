"""The private side of a run: its ledger, its nodes' keys, and what charges a round."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.identity import own_files
from fedapp.store.runfolder import RunFolder
from privacy.budget.charge import Charging
from privacy.budget.ledger import Head, Ledger
from privacy.budget.spent import Spent
from privacy.sampling import Sampler
from privacy.secagg.identity import Roster, enrol_simulated, greeting_text
from privacy.secagg.primitives import is_signed
from strategies.flower.roster import ANY, Node, Vouch
from tasks.errors import InputError

if TYPE_CHECKING:
    from privacy.flower.rounds import Sessions


def ledger_folder(experiment: Experiment) -> Path:
    """Folder of the population's ledger: shared by the runs of one folder if the population has a
    name."""
    run_dir = Path(experiment.run_dir)
    name = experiment.privacy.population
    return run_dir.parent / "populations" / name if name else run_dir / "population"


def pins_of(experiment: Experiment, noised: bool) -> dict[str, Any]:
    """Facts a population's ledger keeps for all its runs: how many people, whose data, their delta
    and limit."""
    files = [str(file) for file in own_files(experiment.data.path)]
    data = hashlib.sha256(
        json.dumps([experiment.task, experiment.data.path, files]).encode()
    ).hexdigest()[:16]
    limit = experiment.privacy.epsilon_max if noised else 0.0
    return {
        "clients": experiment.clients.total,
        "data": data,
        "delta": experiment.privacy.delta,
        "epsilon-max": limit,
    }


class Protection:
    """Ledger, keys and draws of a run with a private release; for a plain one, nothing."""

    def __init__(self, pieces: Pieces, folder: RunFolder) -> None:
        experiment, release = pieces.experiment, pieces.release_type
        self.pieces = pieces
        self.experiment = experiment
        self.folder = folder
        self.private = release.private
        self.masked = release.masked
        self.noised = release.placement != "none"
        self.ledger: Ledger | None = None
        if self.private:
            name = experiment.privacy.population
            pins = pins_of(experiment, self.noised)
            self.ledger = Ledger(ledger_folder(experiment), name, pins)
        self.spent = Spent.of(self.ledger.entries) if self.ledger else Spent()
        self.roster: Roster | None = None

    # ------------------------------------------------------------------ the ledger's place in a run
    def begin(self, anchor: dict[str, Any] | None) -> None:
        """Write down that the run starts, or goes on; refuses a ledger that lost entries since
        ``anchor``."""
        if self.ledger is None:
            return
        if self.experiment.resume and anchor is not None:
            self.ledger.require(Head(anchor["seq"], anchor["hash"]))
        kind = "resume" if self.experiment.resume else "config"
        privacy = self.pieces.privacy
        self.spent.add(
            self.ledger.append(
                kind,
                run=self.name,
                release=self.experiment.release,
                delta=privacy.delta,
                epsilon_max=privacy.epsilon_max,
                multiplier=privacy.noise_multiplier,
                clients=self.experiment.clients.total,
                sampling=privacy.sampling,
            )
        )

    @property
    def name(self) -> str:
        """The run's name in the ledger."""
        return self.folder.path.name

    @property
    def anchor(self) -> dict[str, Any] | None:
        """Length and head of the ledger, for the checkpoint."""
        return {"seq": self.ledger.head.seq, "hash": self.ledger.head.hash} if self.ledger else None

    def epsilon(self) -> float | None:
        """Epsilon the population has spent, cohorts known; ``None`` without a noised release."""
        return self.spent.headline(self.experiment.privacy.delta) if self.noised else None

    def close(self) -> None:
        if self.ledger:
            self.ledger.close()

    # ------------------------------------------------------------------ rounds
    def enrol(self, nodes: list[Node]) -> None:
        """Choose whose keys are believed: a roster file, or in simulation keys made for the nodes
        there are."""
        if self.ledger is None:
            return
        given = self.experiment.privacy.roster
        if given:
            self.roster = Roster.read(Path(given))
            if self.roster.server != self.ledger.public:
                raise InputError(
                    "privacy.roster",
                    given,
                    "names another server key than this population's ledger.key",
                    f"the server's public key is {self.ledger.public.hex()}",
                )
            there = self.experiment.runtime.nodes
            if self.pieces.release_type.exact() and len(self.roster.members) != there:
                raise InputError(
                    "runtime.nodes",
                    there,
                    f"sums without noise are of all members, and the roster has "
                    f"{len(self.roster.members)}",
                    "wait for all of them, or use a roster of those that take part",
                )
        elif all(node.hosts is None for node in nodes):
            numbers = [node.partition for node in nodes]
            self.roster = enrol_simulated(self.folder.client_state, numbers, self.ledger.public)
        else:
            raise InputError(
                "privacy.roster",
                "",
                "deployed nodes take part in private rounds only with pinned keys",
                "make keys with `fedapp enrol` and give every node and the server the same roster",
            )

    @property
    def vouch(self) -> Vouch | None:
        """Believe who nodes say they are only by the roster's keys, where a file of them is
        given."""
        given = self.experiment.privacy.roster
        if self.ledger is None or not given:
            return None
        members = Roster.read(Path(given)).members

        def vouch(node: Node, challenge: str, signature: bytes) -> str:
            hosts = ANY if node.hosts is None else node.told
            text = greeting_text(challenge, node.node_id, node.partition, hosts)
            known = members.get(node.partition)
            if known is None:
                return f"no member {node.partition} stands in the roster"
            signed = is_signed(known, signature, text)
            return "" if signed else f"it did not sign that it is member {node.partition}"

        return vouch

    @cached_property
    def sessions(self) -> Sessions:
        """The count of secure sums and the nodes' unused keys, shared by all arms."""
        from privacy.flower.rounds import Sessions

        return Sessions()

    @property
    def identities(self) -> dict[int, bytes]:
        """The nodes' public keys by partition."""
        assert self.roster is not None, "nodes are enrolled before rounds are made"
        return self.roster.members

    def charge(self, arm: str, sampler: Sampler) -> Charging:
        """The ledger's side of an arm's rounds."""
        assert self.ledger is not None, "only private runs are charged"
        privacy, release = self.pieces.privacy, self.pieces.release_type
        return Charging(
            self.ledger,
            self.spent,
            sampler,
            self.pieces.noise_multiplier,
            privacy.delta,
            privacy.epsilon_max,
            self.name,
            arm,
            self.experiment.release,
            release.placement,
            self.masked,
        )
