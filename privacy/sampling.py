"""Sampling of the clients of a round, in ways an accountant has a name for.

*fixed*: so many per round, drawn from the run's seed; nothing is amplified. *poisson*: every client
by a coin of its own from the operating system's entropy (repeating a run draws others).
*round-robin*: in turns, so that between two participations of a client lie all the others: a
minimum separation of ceil(N/m) rounds.
"""

from __future__ import annotations

import math

from privacy.entropy import Entropy
from strategies.federation import in_turns, participants


class Sampler:
    """``draw(round)`` gives clients in increasing order; ``expected`` is their mean number,
    ``rate`` q or 0."""

    def __init__(self, name: str, seed: int, population: int, per_round: int) -> None:
        self.name = name
        self.seed = seed
        self.population = population
        self.per_round = per_round or population

    @property
    def rate(self) -> float:
        """q, the probability of each client in each round, if rounds are independent; else 0."""
        return self.per_round / self.population if self.name == "poisson" else 0.0

    @property
    def expected(self) -> float:
        """Clients per round on average: public, and what sums are divided by."""
        return (
            self.population / self.separation
            if self.name == "round-robin"
            else float(self.per_round)
        )

    @property
    def smallest(self) -> int:
        """The fewest clients a round can have (0 for coins)."""
        if self.name == "poisson":
            return 0
        return self.population // self.separation if self.name == "round-robin" else self.per_round

    @property
    def separation(self) -> int:
        """b: a client takes part at most once in so many consecutive rounds."""
        return math.ceil(self.population / self.per_round) if self.name == "round-robin" else 1

    def most(self, rounds: int) -> int:
        """k_max, the largest number of rounds of ``rounds`` any one client can be in."""
        return math.ceil(rounds / self.separation)

    def likely_most(self, rounds: int) -> int:
        """The same with coins: what no client exceeds but for a chance of 5 %."""
        if self.name != "poisson":
            return self.most(rounds)
        from scipy.stats import binom

        return int(binom.ppf(1 - 0.05 / self.population, rounds, self.rate))

    def draw(self, round: int) -> list[int]:
        """The clients of ``round`` (counted from 1)."""
        if self.name == "poisson":
            entropy = Entropy()
            return [client for client in range(self.population) if entropy.chance(self.rate)]
        if self.name == "round-robin":
            return in_turns(self.seed, round, self.population, self.per_round)
        return participants(
            self.seed,
            round,
            self.population,
            0 if self.per_round == self.population else self.per_round,
        )
