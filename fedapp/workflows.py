"""The registry of workflows: ways in which a server and its nodes train something together.

Rounds of sums are one; a plug-in adds others through the entry point group ``fedapp.workflow`` or
by ``workflow = "package.module:KIND"``. Nothing here imports torch: a node looks its half up by
name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.registry import load, resolve


@dataclass(frozen=True)
class WorkflowKind:
    """Places of the parts of a workflow, each ``"module:attribute"`` and imported when needed.

    Attributes:
        server: ``build(run) -> Lineup``: the arms of a run (:mod:`fedapp.run.lineup`).
        identity: ``facts(pieces)``: what a checkpoint must agree with to be continued, the names of
            its arms among them.
        node: ``make(device) -> NodeHalf``: the node's answers to the workflow's legs. check:
        ``refuse(experiment)``: raises ``InputError`` for what does not compose; it also knows
            which names ``methods`` may hold.
        axes: of ``rule`` and ``release``, those that apply; reports show no other.
    """

    server: str
    identity: str
    node: str
    check: str
    axes: frozenset[str] = frozenset()

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
    server="fedapp.run.sums:build",
    identity="fedapp.run.sums:identity",
    node="fedapp.node.sums:SumsNode",
    check="fedapp.config.compatibility:refuse_sums",
    axes=frozenset({"rule", "release"}),
)

WORKFLOWS: dict[str, str] = {"sums": "fedapp.workflows:SUMS"}


def kind_of(name: str) -> WorkflowKind:
    """The workflow a name stands for; raises ``InputError`` if none does."""
    kind: WorkflowKind = load("workflow", name, WORKFLOWS)
    return kind
