"""The sum in the clear: no protection. The baseline every private release must reduce to."""

from __future__ import annotations

from collections.abc import Mapping

from privacy.settings import PrivacySettings
from strategies.release import Release
from strategies.types import Aggregate, Bounds, Contribution, Payload, Public


class Plain(Release):
    r"""Adds :math:`\sum_i w_i v_i`, :math:`\sum_i w_i` and the scalars as they are.

    **Guarantee**: none. The server sees each node's sum exactly; with one client a node, each
    client's update.
    """

    def __init__(
        self,
        settings: PrivacySettings | None = None,
        size: int = 0,
        scalars: Mapping[str, Bounds] | None = None,
    ) -> None:
        self.state: dict[str, float] = {}
        self.length = size

    def encode(self, contribution: Contribution, public: Public) -> Payload:
        vector = contribution.vector
        weight = contribution.weight
        total = vector[0] * weight[0] if len(vector) == 1 else vector.mT.mv(weight)
        scalars = {
            name: float((value * weight if bounds.weighted else value).sum())
            for name, (value, bounds) in contribution.scalars.items()
        }
        return Payload(total, float(weight.sum()), scalars, len(vector))

    def decode(self, total: Payload, public: Public) -> Aggregate:
        if not total.weight > 0:
            raise ValueError(f"the weights of a round add up to {total.weight}: nothing to average")
        return Aggregate(
            total.vector / total.weight, total.weight, dict(total.scalars), total.count
        )
