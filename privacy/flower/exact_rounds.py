"""Rounds of exact sums: of fixed groups of nodes, each of them whole or skipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.serverapp import Grid

from privacy.flower.rounds import MOST_SPOILT, SecureRounds
from privacy.secagg.groups import groups
from privacy.secagg.messages import AbortedError
from strategies.flower.roster import Node
from strategies.flower.rounds import RoundReport
from strategies.flower.totals import Sum
from strategies.flower.wire import Order


class ExactRounds(SecureRounds):
    """:class:`SecureRounds` without noise: one sum for each fixed group
    (:mod:`privacy.secagg.groups` says why).

    A group that is not whole is skipped before anything of it is unmasked; its nodes would refuse
    anyway.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        # a group's clients are always the same: the mean is over those in it, not over those drawn
        super().__init__(*arguments, **(named | {"expected": 0.0}))
        self.groups = groups(list(self.identities), self.privacy.group_size)

    def _too_small(self, orders: Sequence[tuple[Node, Order]]) -> bool:
        return False  # that is each group's to say

    def _collect(
        self, grid: Grid, orders: Sequence[tuple[Node, Order]], report: RoundReport
    ) -> list[Sum]:
        nodes = {node.partition: node for node, _ in orders}
        own = {node.partition: order for node, order in orders}
        sums = []
        for number, members in enumerate(self.groups):
            try:
                if missing := sorted(set(members) - set(nodes)):
                    raise AbortedError(f"nodes {missing} are not here")
                there = {member: nodes[member] for member in members}
                sums.append(self._secure_sum(grid, there, own, report))
            except (AbortedError, ValueError) as error:
                report.groups_skipped[number] = str(error)
                report.remarks |= error.suspects if isinstance(error, AbortedError) else {}
                reason = f"its group of {len(members)} nodes was not whole: {error}"
                for member in set(members) & set(own):
                    for client in own[member].assignment.clients:
                        report.failures.setdefault(client, reason)
        self.sessions.spoilt = 0 if sums else self.sessions.spoilt + 1
        if not sums:
            report.skipped = "no group of nodes was whole: " + "; ".join(
                dict.fromkeys(report.groups_skipped.values())
            )
            if self.sessions.spoilt >= MOST_SPOILT:
                tried = f"no group of nodes was whole {MOST_SPOILT} times in a row"
                raise self._stopped(AbortedError(tried), report)
        return sums

    def _restock(
        self, grid: Grid, nodes: dict[int, Node], orders: dict[int, Order], report: RoundReport
    ) -> None:
        super()._restock(grid, nodes, orders, report)
        if without := sorted(member for member in nodes if not self.sessions.stock.get(member)):
            raise AbortedError(f"nodes {without} gave no keys")
