"""Mutation of the server's messages: every field of every message of every workflow, one at a time.

A real node must refuse a changed field, or answer as if it had not been changed. Two passes: in the
first, one honest run stops at the first message of each kind, and a node answers all its mutants
from the same state on disk. What it did not refuse there is told in runs of its own in the second,
to one node, or to all: a lie that a leg accepts must be found by a later one, or change nothing.
About the terms of a secure sum the server lies to all coherently: its session, its orders and the
sum it makes are those of the lie. What remains must be among the ``choices`` of the workflow;
under secure aggregation among the terms that all members agree on (``agreed``).
"""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from device_kit import Town
from flwr.app import Array, Message, RecordDict
from message_mutants import (
    Mutant,
    Others,
    as_table,
    collect,
    leaves,
    leg_of,
    mutants,
    mutate,
    one_of_each,
)
from safetensors.torch import load_file

import privacy.entropy
from fedapp.config.designs import DESIGNS
from fedapp.config.uploads import COLOUR, OBSCURED
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from fedapp.workflows import SUMS, WORKFLOWS, WorkflowKind, kind_of
from privacy.flower.rounds import SecureRounds
from privacy.flower.wire import model_digest, pack_terms, unpack_terms
from privacy.releases import RELEASES
from privacy.secagg.groups import FILE as EXACT_SUMS
from privacy.secagg.identity import Policy
from privacy.secagg.messages import AbortedError, Terms
from sim.inprocess import InProcessGrid
from strategies.flower.records import FAILURE
from strategies.flower.wire import Order, pack_order
from tasks.errors import FedappError
from tasks.registry import load

Run = Callable[..., RunFolder]
NODES = 6
TOY = "toy_workflow:GRADIENTS"  # a plug-in's, which no code of ours knows
LINE = "toy_workflow:Line"
VICTIM = 1000  # the node whose messages are changed


# ---------------------------------------------------------------------- what came of it
def content_of(reply: Message) -> dict[str, Any]:
    """A message as comparable values, less what a reply repeats of its order."""
    return {
        f"{name}.{key}": value.data if isinstance(value, Array) else value
        for name, part in reply.content.items()
        if name != "origin"
        for key, value in part.items()
    }


def models(folder: RunFolder) -> dict[str, torch.Tensor]:
    found = list_checkpoints(folder.checkpoints)
    return load_file(found[-1]) if found else {}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def differing(one: Terms, other: Terms) -> set[str]:
    """Places in which two terms differ, as ``agreed`` names them."""
    found: set[str] = set()
    first, second = pack_terms(one), pack_terms(other)
    for key in first:
        tables = [as_table(record[key]) for record in (first, second)]
        if None in tables:
            found |= {f"secagg.{key}"} if first[key] != second[key] else set()
            continue
        held = [
            {".".join((key, *path)): leaf for path, leaf in leaves(table)
             if path and not isinstance(leaf, dict)}
            for table in tables
        ]  # fmt: skip
        found |= {f"secagg.{name}" for name in {*held[0], *held[1]}
                  if held[0].get(name, held) != held[1].get(name, held)}  # fmt: skip
    return found


class Bench:
    """Runs of one workflow and release among real nodes, from the same state and entropy."""

    def __init__(self, run: Run, town: Town, changes: dict[str, Any], patch: Any) -> None:
        self.run = run
        self.town = town
        self.changes = changes
        self.patch = patch
        self.others: Others = {}
        self.drawn = 0

    def go(self, base: type[InProcessGrid]) -> tuple[RunFolder, str]:
        """A run, and what it ended with."""
        folder = RunFolder(Path(self.changes["run-dir"]))
        for place in (folder.path, *(self.town.home(number) / "runs" for number in range(NODES))):
            shutil.rmtree(place, ignore_errors=True)
        for number in range(NODES):  # a run of the same name, whose rounds were answered
            (self.town.home(number) / EXACT_SUMS).unlink(missing_ok=True)
        self.drawn = 0
        self.patch.setattr(privacy.entropy, "fresh_key", self._key)
        # a run's name is part of what nodes derive their streams from
        self.patch.setattr("fedapp.store.runfolder.uuid.uuid4", lambda: uuid.UUID(int=1))
        try:
            return self.run(nodes=NODES, grid=self.town.grid(base), **self.changes), ""
        except FedappError as error:
            return folder, str(error)

    def _key(self) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(32, "big")

    def honest_run(self) -> None:
        others: Others = {}

        class Listening(InProcessGrid):
            def deliver(self, message: Message) -> list[Message]:
                collect(message, others)
                return super().deliver(message)

        folder, ended = self.go(Listening)
        assert not ended, ended
        self.others = others
        self.honest = models(folder)

    def first_pass(self) -> tuple[list[Mutant], list[Mutant], RunFolder]:
        """(all mutants, those that were neither refused nor answered alike, the honest run)."""
        every: list[Mutant] = []
        accepted: list[Mutant] = []
        seen: set[str] = set()
        others = self.others
        home = self.town.home(0)
        bench = self

        class Trying(InProcessGrid):
            def answer(self, message: Message) -> Message:
                """From the state on disk and of entropy, which stay as they are."""
                kept, drawn = home.with_name("kept"), bench.drawn
                shutil.copytree(home, kept)
                try:
                    return super().deliver(message)[0]
                finally:
                    shutil.rmtree(home)
                    kept.rename(home)
                    bench.drawn = drawn

            def deliver(self, message: Message) -> list[Message]:
                leg = leg_of(message)
                if message.metadata.dst_node_id == VICTIM and leg not in seen:
                    seen.add(leg)
                    honest = content_of(self.answer(copy.deepcopy(message)))
                    assert f"{FAILURE}.reason" not in honest
                    for mutant in mutants(message, others):
                        lie = copy.deepcopy(message)
                        mutate(lie, mutant, others)
                        if content_of(lie) == content_of(message):
                            continue  # the value of another message is this one's, too
                        every.append(mutant)
                        reply = self.answer(lie)
                        assert "pictures" not in reply.content
                        if reply.has_error() or FAILURE in reply.content:
                            continue
                        if content_of(reply) != honest:
                            accepted.append(mutant)
                return super().deliver(message)

        folder, ended = self.go(Trying)
        assert not ended, ended
        return every, accepted, folder

    def second_pass(self, mutant: Mutant, everybody: bool) -> bool:
        """Whether a lie that a leg accepted came to nothing."""
        lied: set[int] = set()  # sums, in order, in which the victim was told another value
        others = self.others
        if everybody and mutant.leg == "query.share":
            return self.coherent_lie(mutant)

        class Lying(InProcessGrid):
            sums = 0

            def deliver(self, message: Message) -> list[Message]:
                node = message.metadata.dst_node_id
                if leg_of(message) == mutant.leg and (everybody or node == VICTIM):
                    true = message
                    message = copy.deepcopy(true)  # records are shared between messages
                    mutate(message, mutant, others)
                    if node == VICTIM:
                        self.sums += 1
                    if node == VICTIM and content_of(message) != content_of(true):
                        lied.add(self.sums - 1)
                return super().deliver(message)

        folder, ended = self.go(Lying)
        assert lied or ended
        return self.came_to_nothing(folder, ended, lied)

    def came_to_nothing(
        self,
        folder: RunFolder,
        ended: str,
        lied: set[int] | None = None,
        want_same: bool = True,
    ) -> bool:
        """Whether the sums of the lie (default: all) were made without the victim, or not at all,
        or (``want_same``) everything is as it would have been."""
        rounds = [event for event in folder.events() if event["event"] == "round"]
        told = [event for index, event in enumerate(rounds) if lied is None or index in lied]
        refused = ended or all("0" in event["failures"] or event["skipped"] for event in told)
        return bool(refused) or (want_same and same(models(folder), self.honest))

    def coherent_lie(self, mutant: Mutant) -> bool:
        """The same about a lie in the terms that the server lives by itself: its sum, its session
        and its orders are those of the lie."""
        others = self.others
        honest: list[Terms] = []
        lies: list[Terms] = []
        honest_terms, honest_order = SecureRounds._terms, pack_order
        members: dict[tuple[int, ...], str] = {}

        def terms(rounds: Any, *arguments: Any) -> Terms:
            true = honest_terms(rounds, *arguments)
            honest.append(true)
            work = json.loads(true.work)
            members.update({tuple(ids): member for member, ids in work["clients"].items()})
            carrier = Message(RecordDict({"secagg": pack_terms(true)}), VICTIM, "query.share")
            mutate(carrier, mutant, others)
            try:
                lie = unpack_terms(carrier.content.config_records["secagg"])
                if lie.public != true.public:  # it is hashed with the model
                    lie = replace(lie, model=model_digest(arguments[2], lie.public))
                lies.append(lie)
            except (KeyError, TypeError, ValueError) as error:
                raise AbortedError("the server cannot live by this itself") from error
            return lies[-1]

        def order(given: Order, *arguments: Any) -> Any:
            content = honest_order(given, *arguments)
            work, own = json.loads(lies[-1].work), members[given.assignment.clients]
            said = {**work["order"], "clients": work["clients"][own]}
            said |= {"versions": work["versions"][own], "public": lies[-1].public}
            for key, value in said.items():
                content.config_records["order"][key] = value
            return content

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SecureRounds, "_terms", terms)
            patch.setattr("privacy.flower.rounds.pack_order", order)
            patch.setattr("strategies.flower.wire._same_round", lambda content, order: None)
            try:
                folder, ended = self.go(InProcessGrid)
            except (KeyError, TypeError, ValueError, AttributeError, MemoryError):
                return True  # the liar's own code stumbled over its lie
        assert lies or ended
        weaker = any(
            other.threshold < one.threshold or other.degree < one.degree
            for one, other in zip(honest, lies, strict=False)
        )
        if weaker and not self.came_to_nothing(folder, ended, want_same=False):
            return False  # the same sum, with less protection
        changed_places = {
            place
            for one, other in zip(honest, lies, strict=False)
            for place in differing(one, other)
        }
        agreed = all(
            any(place == name or place.startswith(name + ".") for name in SUMS.agreed)
            for place in changed_places
        )
        return agreed or self.came_to_nothing(folder, ended)

    honest: dict[str, torch.Tensor]


MASKED = [name for name in RELEASES if load("release", name, RELEASES).masked]
BLIND = {
    "the release looks at no public number": "privacy.releases.lattice.LatticeRelease.objection",
    "the policy looks at no terms": "privacy.secagg.identity.Policy.objection",
}
CASES = [
    (name, release)
    for name in (*WORKFLOWS, TOY)
    for release in (RELEASES if "release" in kind_of(name).axes else ["plain"])
]


@pytest.mark.parametrize("every_lie", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("workflow", "release"), CASES)
def test_mutation_of_every_field_of_every_message(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workflow: str,
    release: str,
    every_lie: bool,
) -> None:
    """By default a lie about each place that a leg accepted is followed to its end, told to one
    node and to all; ``-m exhaustive`` follows all lies under all releases."""
    kind: WorkflowKind = kind_of(workflow)
    limits = Policy(
        plugins=(LINE, TOY),
        designs=(*DESIGNS, OBSCURED, COLOUR),
        tasks=("image", "split-nerf", "head", LINE),
    )
    town = Town(tmp_path, NODES, limits)
    changes = {**kind.smallest, **town.changes(release)}
    bench = Bench(run, town, changes, monkeypatch)
    bench.honest_run()
    every, accepted, folder = bench.first_pass()
    assert same(models(folder), bench.honest), "two honest runs differ: nothing could be told"
    masked = load("release", release, RELEASES).masked
    # The greeting's challenge is what a signature answers: another one costs the node its place
    choices = frozenset() if masked and kind is SUMS else kind.choices
    choices |= {"hello.challenge"}
    left = [mutant for mutant in accepted if mutant.field not in choices]
    lies = [(mutant, everybody) for mutant in left for everybody in (False, True)]
    if not every_lie:
        of_each = one_of_each(left)
        terms = [mutant for mutant in of_each.values() if mutant.leg == "query.share"]
        lies = [(mutant, True) for mutant in terms]
        lies += [(m, bool(i % 2)) for i, m in enumerate(of_each.values()) if m not in terms]
        lies += [(mutant, False) for mutant in terms]
        # each place in one of the three releases with secure sums, which share all of this
        if masked:
            lies = lies[MASKED.index(release) :: len(MASKED)]
    silent = [lie for lie in lies if not bench.second_pass(*lie)]
    with capsys.disabled():
        fields = len({mutant[:4] for mutant in every})
        print(  # noqa: T201
            f"\n{workflow}, {release}: {fields} fields, {len(every)} mutations: "
            f"{len(every) - len(accepted)} refused or answered alike, "
            f"{len(accepted) - len(left)} choices, {len(left)} accepted by a leg and followed in "
            f"{len(lies)} runs: {len(silent)} silent"
        )
    assert not silent


def test_a_field_that_nobody_checks_is_found(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: nodes that look at no order."""
    monkeypatch.setattr("fedapp.node.sums.refuse_order", lambda device, order: None)
    town = Town(tmp_path, NODES)
    changes = {**SUMS.smallest, **town.changes("plain")}
    bench = Bench(run, town, changes, monkeypatch)
    bench.honest_run()
    _, accepted, _ = bench.first_pass()
    assert {"order.inspect"} <= {mutant.field for mutant in accepted} - SUMS.choices


@pytest.mark.parametrize("blindness", list(BLIND))
def test_a_term_that_nobody_checks_is_found(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blindness: str
) -> None:
    """Negative controls: nodes without one of their checks of the terms of a secure sum."""
    town = Town(tmp_path, NODES)
    changes = {**SUMS.smallest, **town.changes("distributed-dp"), "methods": "maml", "rounds": 1}
    bench = Bench(run, town, changes, monkeypatch)
    bench.honest_run()
    monkeypatch.setattr(BLIND[blindness], lambda *arguments: "")
    _, accepted, _ = bench.first_pass()
    terms = one_of_each(mutant for mutant in accepted if mutant.leg == "query.share")
    assert not all(bench.second_pass(mutant, True) for mutant in terms.values())
