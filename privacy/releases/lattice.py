"""What all private releases share: the joint vector on the integer lattice, and one Gaussian on its
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
from privacy.joint import CHECK, JointVector, adapt_clip
from privacy.ring import add_rounded, levels, rounded_norm, signed
from privacy.settings import PrivacySettings
from strategies.release import Release
from strategies.types import Aggregate, Bounds, Contribution, Payload, Public
from tasks.errors import EmptySumError

if TYPE_CHECKING:
    from torch import Tensor

FINEST = 64.0  # quanta: below this deviation of a node's share, rounded and discrete Gaussians begin to differ
RHO_BIT, RHO_SCALAR = 0.1, 0.1  # shares of the sensitivity that the clip bit and each scalar take


class LatticeRelease(Release):
    """Base of the private releases; ``size`` is V, the numbers a rule contributes, ``scalars`` what
    it sums beside."""

    private = True

    def __init__(
        self, settings: PrivacySettings, size: int, scalars: Mapping[str, Bounds] | None = None
    ) -> None:
        self.settings = settings
        metrics = {
            name: (float(low), float(high))
            for name, (low, high) in json.loads(settings.metrics).items()
        }
        self.metric_ranges: Mapping[str, tuple[float, float]] = metrics
        ranges = {
            **(scalars or {}),
            **{f"metric.{name}": Bounds(*bounds) for name, bounds in metrics.items()},
        }
        self.joint = JointVector(
            size,
            rho_weight=0.0
            if self.noised
            else 1.0,  # without noise the exact mean; with it a public denominator
            rho_bit=RHO_BIT if settings.adaptive_clip else 0.0,
            rho_scalar=RHO_SCALAR if ranges else 0.0,
            ranges=ranges,
            max_examples=settings.max_examples,
        )
        self.length = self.joint.length + CHECK
        self.sensitivity = self.joint.sensitivity
        self.state = {"clip": settings.clip_norm}
        self.multiplier = settings.noise_multiplier if self.noised else 0.0

    # ------------------------------------------------------------------ one round
    def open(self, clients: int, expected: float, nodes: int, least: int) -> Public:
        """The public numbers of a round; ``honest`` of the ``least`` nodes in a sum are counted on
        for noise (h).

        At least one is not: whoever looks at the result may be a node, and knows its own share.
        """
        honest = max(least - max(self.settings.colluding, 1), 1)
        return {
            "clip": self.state["clip"], "levels": self._levels(clients, nodes, honest),
            "clients": clients, "denominator": float(expected), "nodes": nodes, "honest": honest,
            "multiplier": self.multiplier, "placement": self.placement,
        }  # fmt: skip

    def _levels(self, clients: int, nodes: int, honest: int) -> int:
        """K, which follows from the other public numbers, so that nobody chooses it."""
        if self.placement != "distributed":
            return levels(clients, 0.0)
        count = levels(
            clients, self.multiplier * self.joint.sensitivity * math.sqrt(nodes / honest)
        )
        if (
            rounded_norm(count, self.joint.sensitivity, self.joint.length)
            > 1.1 * count * self.joint.sensitivity
        ):
            raise ValueError(f"{count} levels are too few to round {self.joint.length} numbers to")
        if self.multiplier * count * self.joint.sensitivity / math.sqrt(honest) < FINEST:
            raise ValueError(
                f"noise of multiplier {self.multiplier:g} is too small for {count} levels"
            )
        return count

    def objection(self, public: Public, nodes: int, least: int, colluding: int) -> str:
        """Why a node refuses these public numbers (they come from the server); empty if it does
        not.

        ``nodes`` really are members, ``least`` of them must be in the sum, ``colluding`` may be
        hostile.
        """
        try:
            clip, honest = float(public["clip"]), int(public["honest"])
            expected = self.open(int(public["clients"]), float(public["denominator"]), nodes, least)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            return f"a public number of the round is missing or out of its range ({error})"
        if not (math.isfinite(clip) and clip > 0 and math.isfinite(float(public["denominator"]))):
            return "the clip norm of the round is out of its range"
        if self.placement == "distributed" and honest > max(least - max(colluding, 1), 1):
            return f"noise counted on {honest} honest nodes, only {least - max(colluding, 1)} are certain"
        if dict(public) != {**expected, "clip": public["clip"]}:
            return f"the public numbers {dict(public)} are not those that follow from the configuration"
        return ""

    def encode(self, contribution: Contribution, public: Public) -> Payload:
        """On the node: each client clipped and rounded on its own, then added. No check block
        yet."""
        import torch

        total = np.zeros(self.joint.length, np.uint32)
        count = int(public["levels"])
        entropy = Entropy()
        for row in self.joint.pack(contribution, float(public["clip"])):
            norm = add_rounded(total, row, count, entropy)
            if norm > rounded_norm(count, self.joint.sensitivity, self.joint.length):
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

    def _deviation(self, public: Public) -> float:
        """Of the noise a sum must carry, in quanta: z times the largest norm of a rounded
        vector."""
        return self.multiplier * rounded_norm(
            int(public["levels"]), self.joint.sensitivity, self.joint.length
        )

    def decode(self, total: Payload, public: Public) -> Aggregate:
        """On the server: noise if it is central, then back to real numbers and the mean."""
        import torch

        values = total.vector.numpy().view(np.uint32)
        if len(values) == self.length:
            values = values[:-CHECK]
        count, clip = int(public["levels"]), float(public["clip"])
        whole = signed(values)
        if (
            self.placement == "central"
        ):  # added as integers: a sum of two rounded reals would tell its summands apart
            whole += Entropy().integer_noise(len(whole), self._deviation(public))
        real = whole / count
        sums = self.joint.unpack(real)
        denominator = float(public["denominator"]) if sums.weight is None else sums.weight
        if not denominator > 0:
            raise EmptySumError("no client contributed anything: nothing to average")
        clients = (
            float(public["denominator"]) if self.noised or not total.count else float(total.count)
        )
        if sums.bit is not None:
            unclipped = sums.bit / clients + 0.5
            quantile, rate = self.settings.clip_quantile, self.settings.clip_rate
            self.state["clip"] = adapt_clip(
                clip, unclipped, quantile, rate, self.settings.clip_norm
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
