"""What all private releases share: the joint vector on the integer lattice, and one Gaussian on its sum.

``masked`` says whether the sum is made under secure aggregation, ``placement`` who adds the noise: nobody, the
server to the sum, or every node a share that the server never sees apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import torch

from privacy.entropy import BLOCK, Entropy
from privacy.joint import CHECK, JointVector, adapt_clip
from privacy.ring import add_rounded, levels, to_real
from privacy.settings import PrivacySettings
from strategies.types import Aggregate, Contribution, Payload, Public

RHO_BIT, RHO_SCALAR = 0.1, 0.1  # shares of the sensitivity that the clip bit and each scalar take


class LatticeRelease:
    """Base of the private releases; ``size`` is V, the numbers a rule contributes."""

    private = True
    masked = False
    placement = "none"

    def __init__(self, settings: PrivacySettings, size: int) -> None:
        self.settings = settings
        ranges = {name: (float(low), float(high)) for name, (low, high) in json.loads(settings.metrics).items()}
        self.metric_ranges: Mapping[str, tuple[float, float]] = ranges
        self.joint = JointVector(
            size,
            rho_weight=0.0 if self.noised else 1.0,  # without noise the exact mean; with it a public denominator
            rho_bit=RHO_BIT if settings.adaptive_clip else 0.0,
            rho_scalar=RHO_SCALAR if ranges else 0.0,
            ranges={f"metric.{name}": bounds for name, bounds in ranges.items()},
            max_examples=settings.max_examples,
        )
        self.length = self.joint.length + CHECK
        self.state = {"clip": settings.clip_norm}

    @property
    def noised(self) -> bool:
        return self.placement != "none"

    @property
    def multiplier(self) -> float:
        """z, the noise deviation over the sensitivity S."""
        return self.settings.noise_multiplier if self.noised else 0.0

    # ------------------------------------------------------------------ one round
    def open(self, clients: int, expected: float, nodes: int, least: int) -> Public:
        """The public numbers of a round; ``honest`` of the ``least`` nodes in a sum are counted on for noise (h)."""
        honest = max(least - self.settings.colluding, 1)
        spread = self.multiplier * self.joint.sensitivity * math.sqrt(nodes / honest)
        return {
            "clip": self.state["clip"], "levels": levels(clients, spread if self.placement == "distributed" else 0.0),
            "clients": clients, "denominator": float(expected), "nodes": nodes, "honest": honest,
            "multiplier": self.multiplier, "placement": self.placement,
        }  # fmt: skip

    def objection(self, public: Public, least: int, colluding: int, min_noise: float) -> str:
        """Why a node refuses these public numbers (they come from the server); empty if it does not."""
        clients, nodes, honest = int(public["clients"]), int(public["nodes"]), int(public["honest"])
        multiplier, clip = float(public["multiplier"]), float(public["clip"])
        if not (math.isfinite(clip) and clip > 0 and clients >= 1 and nodes >= 1 and honest >= 1 and multiplier >= 0):
            return "a public number of the round is out of its range"
        if public["placement"] != self.placement or multiplier != self.multiplier:
            return f"{public['placement']} noise of multiplier {multiplier} is not what this node was configured for"
        if multiplier < min_noise:
            return f"noise multiplier {multiplier:g}, this node asks for {min_noise:g} or more"
        if self.placement == "distributed" and honest > max(least - colluding, 1):
            return f"noise counted on {honest} honest nodes, only {least - colluding} are certain"
        spread = multiplier * self.joint.sensitivity * math.sqrt(nodes / honest)
        if int(public["levels"]) > levels(clients, spread if self.placement == "distributed" else 0.0):
            return f"{public['levels']} levels could overflow"
        return ""

    def encode(self, contribution: Contribution, public: Public) -> Payload:
        """On the node: each client clipped and rounded on its own, then added. No check block yet."""
        total, count = np.zeros(self.joint.length, np.uint32), int(public["levels"])
        entropy = Entropy()
        for row in self.joint.pack(contribution, float(public["clip"])):
            norm = add_rounded(total, row, count, entropy)
            if norm > count * self.joint.sensitivity + math.sqrt(self.joint.length):
                raise ArithmeticError("a rounded contribution exceeds its bound")
        return Payload(torch.from_numpy(total.view(np.int32)), 0.0, {}, 0)

    def close(self, payload: Payload | None, public: Public) -> Payload | None:
        """The node's last word: its share of distributed noise, and the check block of zeros, which gets none."""
        vector = np.zeros(self.length, np.uint32)
        if payload is not None:
            vector[:-CHECK] = payload.vector.numpy().view(np.uint32)
        if self.placement == "distributed":
            deviation = self.multiplier * self.joint.sensitivity * int(public["levels"])
            add_noise(vector[:-CHECK], deviation / math.sqrt(int(public["honest"])))
        return Payload(torch.from_numpy(vector.view(np.int32)), 0.0, {}, 0)

    def decode(self, total: Payload, public: Public) -> Aggregate:
        """On the server: noise if it is central, then back to real numbers and the mean."""
        values = total.vector.numpy().view(np.uint32)
        if len(values) == self.length:
            values = values[:-CHECK]
        count, clip = int(public["levels"]), float(public["clip"])
        real = to_real(values, count)
        if self.placement == "central":
            deviation = self.multiplier * self.joint.sensitivity * count
            real += Entropy().integer_noise(len(real), deviation) / count
        sums = self.joint.unpack(real)
        denominator = float(public["denominator"]) if sums.weight is None else sums.weight
        if not denominator > 0:
            raise ValueError("no client contributed anything: nothing to average")
        if sums.bit is not None:
            unclipped = sums.bit / denominator + 0.5
            quantile, rate = self.settings.clip_quantile, self.settings.clip_rate
            self.state["clip"] = adapt_clip(clip, unclipped, quantile, rate, self.settings.clip_norm)
        mean = torch.from_numpy(sums.vector * (clip / denominator)).float()
        scalars = {
            name: self.joint.scalar_sum(name, value, float(public["denominator"]))
            for name, value in sums.scalars.items()
        }
        return Aggregate(mean, denominator, scalars, float(public["denominator"]))


def add_noise(vector: np.typing.NDArray[np.uint32], deviation: float) -> None:
    """Add rint(N(0, deviation^2)) to every coordinate modulo 2^32, from entropy of its own."""
    entropy = Entropy()
    for start in range(0, len(vector), BLOCK):
        block = vector[start : start + BLOCK]
        block += entropy.integer_noise(len(block), deviation).astype(np.uint32)
