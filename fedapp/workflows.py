"""The registry of workflows: ways in which a server and its nodes train something together.

Rounds of sums are one; a plug-in adds others through the entry point group ``fedapp.workflow`` or
by ``workflow = "package.module:KIND"``. Nothing here imports torch: a node looks its half up by
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.registry import load, resolve

GENERAL = frozenset(
    {
        "task", "task-options", "recipe", "workflow", "methods", "release", "rounds", "seeds",
        "run-dir", "resume", "clients.", "data.path", "data.hosted", "data.layout", "data.size",
        "evaluation.every", "evaluation.uploads", "report.page", "report.pictures", "runtime.",
    }
)  # fmt: skip


@dataclass(frozen=True)
class WorkflowKind:
    """Places of the parts of a workflow, each ``"module:attribute"`` and imported when needed.

    Attributes:
        server: ``build(run) -> Lineup``: the arms of a run (:mod:`fedapp.running.lineup`).
        identity: ``facts(pieces)``: what a checkpoint must agree with to be continued, the names of
            its arms among them.
        node: ``make(device) -> NodeHalf``: the node's answers to the workflow's legs.
        check: ``refuse(experiment)``: raises ``InputError`` for what does not compose; it also
            knows which names ``methods`` may hold.
        axes: of ``rule`` and ``release``, those that apply; reports show no other.
        choices: fields of the server's messages (``record.key``) that it may choose, within the
            node's configuration, without a node noticing: of every other field a test finds that
            a changed one is refused or changes nothing.
        agreed: of the terms of a secure sum (``record.key.path``), those that it may choose if it
            tells all members the same.
        own_limits: its node half itself holds a device's policy against what it sends (else the
            release is: ``Device.obey_policy``).
        reads: config keys it reads beside those that every run does (``GENERAL``), a table of them
            as ``"name."``; any other key that is set is refused. ``None``: not known (a plug-in's).
        about: in a few words.
        smallest: config changes for the smallest run that sends all its messages, for that test.
    """

    server: str
    identity: str
    node: str
    check: str
    axes: frozenset[str] = frozenset()
    choices: frozenset[str] = frozenset()
    agreed: frozenset[str] = frozenset()
    own_limits: bool = False
    reads: frozenset[str] | None = None
    about: str = ""
    smallest: Mapping[str, Any] = field(default_factory=dict)

    def ignores(self, key: str) -> bool:
        """Whether a config key has no effect on it."""
        if self.reads is None:
            return False
        tables = tuple(name for name in GENERAL | self.reads if name.endswith("."))
        return key not in GENERAL | self.reads and not key.startswith(tables)

    def part(self, name: str) -> Any:
        """Import one of ``server``, ``identity``, ``node`` and ``check``."""
        places = {
            "server": self.server,
            "identity": self.identity,
            "node": self.node,
            "check": self.check,
        }
        return resolve(places[name])


SUMS = WorkflowKind(
    about="rounds of sums: any learner, any rule, any release",
    server="fedapp.running.sums:build",
    identity="fedapp.running.sums:identity",
    node="fedapp.node.sums:SumsNode",
    check="fedapp.config.compatibility:refuse_sums",
    axes=frozenset({"rule", "release"}),
    # Where no secure sum binds them: whom it trains as what, from which model and which memory,
    # what it calls that, and the public numbers that do not follow from the configuration
    choices=frozenset(
        {
            "order.session",
            "order.method",
            "order.seed",
            "order.round",
            "order.clients",
            "order.versions",
            "order.run",
            "order.public",
            "broadcast.model",
            "broadcast.extra",
        }
    ),
    agreed=frozenset(
        {
            "secagg.epoch",
            "secagg.number",
            "secagg.members",
            "secagg.prekeys",
            "secagg.threshold",
            "secagg.least",
            "secagg.model",
            "secagg.public.clients",
            "secagg.public.clip",
            "secagg.public.denominator",
            "secagg.work.ledger",  # of noised sums every node holds it against its own count
            "secagg.work.order.method",
            "secagg.work.order.round",
            "secagg.work.order.run",
            "secagg.work.order.session",
            "secagg.work.clients",
            "secagg.work.versions",
        }
    ),
    smallest={
        "task": "image",
        "methods": "maml,fomaml",
        "rounds": 2,
        "evaluation.uploads": False,
        "evaluation.every": 99,
        "evaluation.steps": "0",
        "learner.outer-steps": 1,
        "rules.server-clip": 0.0,
        "data.held-out": 1,
    },
)

EXCHANGES = WorkflowKind(
    about="split learning: halves of a field on both sides (docs/split.md)",
    server="fedapp.running.split:build",
    identity="fedapp.running.split:identity",
    node="fedapp.node.split:SplitNode",
    check="fedapp.config.designs:refuse_exchanges",
    own_limits=True,
    reads=frozenset({"split."}),
    # What the server's half is, whose state on the node it goes on with, and which scenes it asks
    # for. Of a second holder also for which client, exchange and view it wants a share: that is
    # sealed for the client, who opens what belongs to its own order and nothing else
    choices=frozenset(
        {
            "crossing.values",
            "crossing.scales",
            "crossing.share",
            "order.run",
            "order.client",
            "order.exchange",
            "order.view",
            "scenes.run",
            "scenes.clients",
        }
    ),
    smallest={
        "task": "split-nerf",
        "workflow": "",
        "methods": "split,sealed,private-fourier",
        "rounds": 1,
        "data.size": 8,
        "split.cells": "4,8",
        "split.rays": 16,
        "split.samples": 4,
        "split.batches": 2,
        "split.exchanges": 2,
        "split.train-views": 3,
        "split.test-views": 1,
        "evaluation.uploads": False,
    },
)

UPLOAD = WorkflowKind(
    about="obscured upload: devices send what an operator leaves, the server fits (docs/heads.md)",
    server="fedapp.running.upload:build",
    identity="fedapp.running.upload:identity",
    node="fedapp.node.upload:UploadNode",
    check="fedapp.config.uploads:refuse_upload",
    own_limits=True,
    reads=frozenset({"head.", "template."}),
    # Whose pictures it asks for, in which of the ways that methods of the run need; and in a
    # simulation which mesh is held against the truth
    choices=frozenset({"order.client", "order.kind", "order.run", "mesh.vertices", "mesh.faces"}),
    smallest={
        "task": "head",
        "workflow": "",
        "methods": "stage2,full_rgb",
        "rounds": 2,
        "data.size": 24,
        "head.grid": 16,
        "head.first-steps": 2,
        "head.second-steps": 2,
        "head.neutral-views": 2,
        "head.sensitive-views": 2,
        "head.rays": 16,
        "head.patches": 1,
        "head.patch": 2,
        "head.samples": 2000,
        "evaluation.uploads": False,
    },
)

WORKFLOWS: dict[str, str] = {
    "sums": "fedapp.workflows:SUMS",
    "exchanges": "fedapp.workflows:EXCHANGES",
    "upload": "fedapp.workflows:UPLOAD",
}


def kind_of(name: str) -> WorkflowKind:
    """The workflow a name stands for; raises ``InputError`` if none does."""
    kind: WorkflowKind = load("workflow", name, WORKFLOWS)
    return kind
