"""Recognising people in what an operator leaves of their pictures: a trained matcher and a gallery.

The matcher is a small network that puts pictures of one person close together, trained on people it
is not tried on (supervised contrastive loss, as face recognition does). Of a probe it names the
person of the gallery whose picture is nearest: *rank-1* is how often that is right. It is an
attacker of modest means, so what it fails at is "not recognised by this matcher" and no protection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from privacy.attacks.networks import drawn
from tasks.randomness import generator

WIDTHS = (32, 64, 96, 128)
CODE = 96  # numbers of an embedding
PEOPLE = 48  # of a batch, two pictures of each
TEMPERATURE = 0.1
RATE = 1e-3
SHIFT = 2  # pixels by which training pictures are moved


class Rate(NamedTuple):
    """A share with its interval at 95 % (Clopper-Pearson over people; where a person has several
    probes, those of one person are counted as one)."""

    value: float
    low: float
    high: float
    n: int


class Matcher:
    """Embeds pictures ``[N, C, H, W]`` as ``[N, CODE]`` of unit length.

    Args:
        channels: C.
        size: H and W.
        seed: of weights and draws.
    """

    def __init__(self, channels: int, size: int, seed: int) -> None:
        stream = generator("matcher", seed)
        layers: list[nn.Module] = []
        before, side = channels, size
        for width in WIDTHS:
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.GELU()]
            before, side = width, (side + 1) // 2
        layers += [nn.Flatten(), nn.Linear(before * side * side, CODE)]
        self.network = nn.Sequential(*layers)
        drawn(self.network, stream)
        self.stream = generator("matcher draws", seed)
        self.shift = torch.zeros(channels)
        self.scale = torch.ones(channels)

    def train(
        self,
        pictures: Tensor,
        steps: int,
        tell: Callable[[int], None] | None = None,
        checks: Sequence[int] = (),
        check: Callable[[], None] | None = None,
    ) -> None:
        """Learn people apart.

        Args:
            pictures: ``[P, V, C, H, W]``: V of each of P people.
            steps: of Adam.
            tell: is told how many are done.
            checks: after which steps ``check`` is called as well.
        """
        people, views = pictures.shape[:2]
        self.shift = pictures.mean((0, 1, 3, 4))
        self.scale = pictures.std((0, 1, 3, 4)).clamp(min=1e-6)
        optimiser = torch.optim.AdamW(self.network.parameters(), RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, max(steps, 2))
        count = min(PEOPLE, people)
        for step in range(steps):
            who = torch.randperm(people, generator=self.stream)[:count]
            pair = torch.rand(count, views, generator=self.stream).argsort(1)[:, :2]
            chosen = pictures[who[:, None], pair]  # [count, 2, C, H, W]
            code = self._embed(self._moved(chosen.flatten(0, 1))).view(count, 2, -1)
            likeness = code[:, 0] @ code[:, 1].T / TEMPERATURE
            right = torch.arange(count)
            loss = nn.functional.cross_entropy(likeness, right)
            loss = loss + nn.functional.cross_entropy(likeness.T, right)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if tell:
                tell(step + 1)
            if check and step + 1 in checks:
                check()

    def _moved(self, pictures: Tensor) -> Tensor:
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=self.stream).tolist()
        return pictures.roll((down, right), (2, 3))

    def _embed(self, pictures: Tensor) -> Tensor:
        code = self.network((pictures - self.shift[:, None, None]) / self.scale[:, None, None])
        return nn.functional.normalize(code, dim=1)

    @torch.no_grad()
    def embed(self, pictures: Tensor) -> Tensor:
        """``[..., C, H, W] -> [..., CODE]``."""
        flat = pictures.flatten(0, -4)
        found = torch.cat([self._embed(part) for part in flat.split(256)])
        return found.view(*pictures.shape[:-3], -1)


def one_picture(probes: Tensor, gallery: Tensor) -> Rate:
    """Rank-1 of single probes ``[P, V, D]`` against one picture of each person ``[P, D]``."""
    likeness = torch.einsum("pvd,gd->pvg", probes, gallery)
    right = likeness.argmax(2) == torch.arange(len(probes))[:, None]
    return rate(right.float().mean(1))


def all_pictures(probes: Tensor, gallery: Tensor) -> Rate:
    """Rank-1 of a person's probes taken together ``[P, V, D]`` against all gallery pictures ``[P,
    G, D]``: means of embeddings."""
    one = nn.functional.normalize(probes.mean(1), dim=1)
    other = nn.functional.normalize(gallery.mean(1), dim=1)
    right = (one @ other.T).argmax(1) == torch.arange(len(probes))
    return rate(right.float())


def rate(shares: Tensor) -> Rate:
    """The mean of ``shares [P]`` in [0, 1], one per person, with its interval."""
    from scipy.stats import beta

    n, value = len(shares), float(shares.mean())
    hits = value * n
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return Rate(value, low, high, n)
