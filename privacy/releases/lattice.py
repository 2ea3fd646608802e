"""Base of all private releases: the joint vector on the integer lattice, and one Gaussian on its
sum.

``masked`` says whether the sum is made under secure aggregation, ``placement`` who adds the noise:
nobody, the server to the sum, or every node a share that the server never sees apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from privacy.entropy import BLOCK, Entropy
from privacy.joint import CHECK, CLIP_MOVES, JointVector, adapt_clip
from privacy.ring import DITHER_ROOM, add_dithered, add_rounded, levels, rounded_norm, signed
from privacy.settings import PrivacySettings
from strategies.release import Release
from strategies.types import Aggregate, Bounds, Contribution, Payload, Public
from tasks.errors import EmptySumError

if TYPE_CHECKING:
    from torch import Tensor

# In quanta: below this deviation of a node's share, rounded and discrete Gaussians begin to differ
FINEST = 64.0
# Shares of the sensitivity that the clip bit and each scalar take
RHO_BIT = 0.1
RHO_SCALAR = 0.1


class LatticeRelease(Release):
    """Base of the private releases; ``size`` is V, the numbers a rule contributes, ``scalars`` what
    it sums beside."""

    private = True

    def __init__(
        self, settings: PrivacySettings, size: int, scalars: Mapping[str, Bounds] | None = None
    ) -> None:
        self.settings = settings
        given = json.loads(settings.metrics)
        metrics = {name: (float(low), float(high)) for name, (low, high) in given.items()}
        self.metric_ranges: Mapping[str, tuple[float, float]] = metrics
        bounded = {f"metric.{name}": Bounds(*bounds) for name, bounds in metrics.items()}
        ranges = {**(scalars or {}), **bounded}
        self.joint = JointVector(
            size,
            # Without noise the mean is exact; with it the denominator is public
            rho_weight=0.0 if self.noised else 1.0,
            rho_bit=RHO_BIT if settings.adaptive_clip else 0.0,
            rho_scalar=RHO_SCALAR if ranges else 0.0,
            ranges=ranges,
            max_examples=settings.max_examples,
        )
        self.length = self.joint.length + CHECK
        self.sensitivity = self.joint.sensitivity
        self.state = {"clip": settings.clip_norm}
        self.provable = settings.exact
        self.multiplier = settings.noise_multiplier if self.noised else 0.0

    # ------------------------------------------------------------------ one round
    def open(self, clients: int, expected: float, nodes: int, least: int) -> Public:
        """The public numbers of a round.

        Args:
            clients: in the sum, at most.
            expected: clients per round on average: the public denominator.
            nodes: members of the sum.
            least: nodes that must be in it, whoever drops out.
        """
        # h, the nodes counted on for noise. At least one is not: whoever looks at the result may be
        # a node, and knows its own share
        honest = max(least - max(self.settings.colluding, 1), 1)
        return {
            "clip": self.state["clip"],
            "levels": self._levels(clients, nodes, honest),
            "clients": clients,
            "denominator": float(expected),
            "nodes": nodes,
            "honest": honest,
            "multiplier": self.multiplier,
            "placement": self.placement,
        }

    def _levels(self, clients: int, nodes: int, honest: int) -> int:
        """K, which follows from the other public numbers, so that nobody chooses it."""
        if self.placement != "distributed":
            return levels(clients, 0.0) - (DITHER_ROOM if self.provable else 0)
        sensitivity = self.joint.sensitivity
        # h shares of noise are enough, but every node adds one: the ring must have room for all
        count = levels(clients, self.multiplier * sensitivity * math.sqrt(nodes / honest))
        if rounded_norm(count, sensitivity, self.joint.length) > 1.1 * count * sensitivity:
            raise ValueError(f"{count} levels are too few to round {self.joint.length} numbers to")
        if self.multiplier * count * sensitivity / math.sqrt(honest) < FINEST:
            raise ValueError(
                f"noise of multiplier {self.multiplier:g} is too small for {count} levels"
            )
        return count

    def objection(self, public: Public, nodes: int, least: int, colluding: int) -> str:
        """Reason for a node to refuse public numbers (they come from the server); empty if there is
        none.

        Args:
            public: the numbers, as the server says them.
            nodes: that really are members.
            least: of them that must be in the sum.
            colluding: of them that may be hostile, as this node sees it.
        """
        try:
            clip = float(public["clip"])
            honest = int(public["honest"])
            expected = self.open(int(public["clients"]), float(public["denominator"]), nodes, least)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            return f"a public number of the round is missing or out of its range ({error})"
        start = self.settings.clip_norm
        moves = CLIP_MOVES if self.settings.adaptive_clip else 1.0
        if not start / moves <= clip <= start * moves:
            return f"the clip norm of the round, {clip}, is not one that {start:g} can have become"
        if not math.isfinite(float(public["denominator"])):
            return "the denominator of the round is out of its range"
        certain = least - max(colluding, 1)
        if self.placement == "distributed" and honest > max(certain, 1):
            return f"noise counted on {honest} honest nodes, only {certain} are certain"
        # All but C follow from the configuration; C moves with what was released
        if dict(public) != {**expected, "clip": public["clip"]}:
            return (
                f"the public numbers {dict(public)} are not those that follow from the "
                "configuration"
            )
        return ""

    def encode(self, contribution: Contribution, public: Public) -> Payload:
        """On the node: each client clipped and rounded on its own, then added. No check block
        yet."""
        import torch

        total = np.zeros(self.joint.length, np.uint32)
        count = int(public["levels"])
        entropy = Entropy()
        bound = rounded_norm(count, self.joint.sensitivity, self.joint.length)
        for row in self.joint.pack(contribution, float(public["clip"])):
            if self.provable:
                add_dithered(total, row, count, entropy)
            elif not add_rounded(total, row, count, entropy) <= bound:
                raise ArithmeticError("a rounded contribution exceeds its bound")
        return Payload(torch.from_numpy(total.view(np.int32)), 0.0, {}, 0)

    def clip_factor(self, contribution: Contribution, public: Public) -> Tensor:
        """The share of each client's vector that the clip lets through ``[C]``, in (0, 1]; 0 where
        it abstains."""
        import torch

        return torch.from_numpy(self.joint.clip_factor(contribution, float(public["clip"])))

    def close(self, payload: Payload | None, public: Public) -> Payload | None:
        """The node's last word: its share of distributed noise, and the check block of zeros, which
        gets none."""
        import torch

        vector = np.zeros(self.length, np.uint32)
        if payload is not None:
            vector[:-CHECK] = payload.vector.numpy().view(np.uint32)
        if self.placement == "distributed":
            add_noise(vector[:-CHECK], self._deviation(public) / math.sqrt(int(public["honest"])))
        return Payload(torch.from_numpy(vector.view(np.int32)), 0.0, {}, 0)

    def least_deviation(self, clip: float, denominator: float) -> float:
        """Deviation of the noise in each number of a released mean, at least: z S C over the public
        denominator (rounding makes the sensitivity, and with it the noise, a little larger)."""
        return self.multiplier * self.sensitivity * clip / denominator

    def _deviation(self, public: Public) -> float:
        """Deviation of the noise a sum must carry, in quanta: z times the largest norm of a rounded
        vector."""
        count = int(public["levels"])
        return self.multiplier * rounded_norm(count, self.joint.sensitivity, self.joint.length)

    def held(self, total: Payload, public: Public) -> Tensor:
        import torch

        values = total.vector.numpy().view(np.uint32)
        whole = signed(values[:-CHECK] if len(values) == self.length else values)
        sums = self.joint.unpack(whole / int(public["levels"]))
        return torch.from_numpy(sums.vector * float(public["clip"]))

    def decode(self, total: Payload, public: Public) -> Aggregate:
        """On the server: noise if it is central, then back to real numbers and the mean."""
        import torch

        values = total.vector.numpy().view(np.uint32)
        if len(values) == self.length:
            values = values[:-CHECK]
        clip = float(public["clip"])
        whole = signed(values)
        # Added as integers: a sum of two rounded reals would tell its summands apart
        if self.placement == "central":
            whole += Entropy().integer_noise(len(whole), self._deviation(public))
        sums = self.joint.unpack(whole / int(public["levels"]))
        denominator = float(public["denominator"]) if sums.weight is None else sums.weight
        if not denominator > 0:
            raise EmptySumError("no client contributed anything: nothing to average")
        # Under noise how many took part is not told either: the public number stands for it
        exact = total.count and not self.noised
        clients = float(total.count if exact else public["denominator"])
        if sums.bit is not None:
            unclipped = sums.bit / clients + 0.5
            own = self.settings
            self.state["clip"] = adapt_clip(
                clip, unclipped, own.clip_quantile, own.clip_rate, own.clip_norm
            )
        mean = torch.from_numpy(sums.vector * (clip / denominator)).float()
        scalars = {
            name: self.joint.scalar_sum(name, value, clients, clip)
            for name, value in sums.scalars.items()
        }
        return Aggregate(mean, denominator, scalars, clients)


def add_noise(vector: np.typing.NDArray[np.uint32], deviation: float) -> None:
    """Add rint(N(0, deviation^2)) to every coordinate modulo 2^32, from entropy of its own."""
    entropy = Entropy()
    for start in range(0, len(vector), BLOCK):
        block = vector[start : start + BLOCK]
        block += entropy.integer_noise(len(block), deviation).astype(np.uint32)
