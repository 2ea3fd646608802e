"""Recovery of private pictures from what a server holds: attempts, scores and exhibits.

What is recovered is shown as it is and scored three ways: PSNR, PSNR after the best affine
intensity map over that of the constant-colour baseline, correlation. ``floor`` is what knowing
nothing but the picture's mean colour gives, ``chance`` what the same recovery scores against a
non-member's picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedapp.attacks.base import ReleaseAttack
from fedapp.attacks.field_round import FieldRound
from fedapp.attacks.next_round import Held, NextRound, Row
from privacy.attacks.render import best_affine, correlation, render_attack
from tasks.data.pictures import contact_sheet
from tasks.metrics import psnr

SHOWN = 4  # clients whose pictures are kept


class Recovery(ReleaseAttack):
    """Base of attacks that recover pictures: one attempt per rung, scored and shown."""

    view: FieldRound
    rungs: tuple[str, ...] = ()  # names of the attempts, in rows and pictures
    own_view = False  # whether one picture depends on where its client looked from

    @classmethod
    def applies(cls, view: NextRound) -> bool:
        return isinstance(view, FieldRound)

    def recover(self, rung: str, method: str, seed: int, client: int, update: Tensor) -> Tensor:
        """The picture of a client, in the shape of its truth.

        Args:
            rung: one of ``rungs``.
            method: that trained the update.
            seed: of its arm.
            client: whose picture is looked for.
            update: ``[P]``, what the server holds.
        """
        raise NotImplementedError

    def fits(self, rung: str, release: str) -> bool:
        """Whether a rung makes sense on a release."""
        return self.view.whole

    def can_try(self, method: str) -> bool:
        """Whether updates of this method can be attacked at all."""
        return True

    def targets(self, rung: str) -> list[int]:
        """Clients whose pictures are looked for."""
        return self.view.clients

    def seen(self, method: str, seed: int, release: str, held: Held) -> Held:
        """The updates that are looked into: without the rule's own part where that is known.

        Args:
            method: that trained the updates.
            seed: of its arm.
            release: under which they are held.
            held: client -> the update ``[P]`` that the server holds.
        """
        return self.view.bare(method, seed).__getitem__ if release == "plain" else held

    def run_on(self, method: str, seed: int, release: str, held: Held) -> Iterator[Row]:
        for rung in self.rungs:
            if not self.fits(rung, release):
                continue
            if not self.can_try(method):
                row = {"attack": rung, "method": method, "release": release, "n": 0}
                yield row | {"metric": "psnr", "value": None, "floor": None, "chance": None}
                self.tell(f"{rung} on {release}: not computed")
                continue
            clients = self.targets(rung)
            seen = self.seen(method, seed, release, held)
            found = self.recover_all(rung, method, seed, clients, seen)
            for row in self.score(rung, method, seed, release, clients, held, found):
                if row["metric"] == "psnr":
                    value = row["value"]
                    shown = "not computed" if value is None else f"{value:.1f} dB"
                    self.tell(f"{rung} on {release}: {shown}")
                yield row
            self._show(f"{method}-{_slug(rung)}-{release.split(' ')[0]}", clients[:SHOWN], found)

    def recover_all(
        self, rung: str, method: str, seed: int, clients: list[int], held: Held
    ) -> list[Tensor]:
        """One picture per client; what is the same for all is recovered once.

        Args:
            rung: one of ``rungs``.
            method: that trained the updates.
            seed: of its arm.
            clients: whose pictures are looked for.
            held: client -> the update ``[P]`` to look into.
        """
        found: list[Tensor] = []
        cache: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        for client in clients:
            update = held(client)
            key = (update.data_ptr(), self.view.cohort[client].truth.shape)
            if self.own_view or key not in cache:
                cache[key] = self.recover(rung, method, seed, client, update)
            found.append(cache[key])
        return found

    def by_chance(
        self, method: str, seed: int, clients: list[int], held: Held, found: list[Tensor]
    ) -> list[tuple[Tensor, Any]]:
        """(recovery, non-member) pairs: the same recoveries beside data they do not come from.

        Args:
            method: that trained the updates.
            seed: of its arm.
            clients: whose pictures were looked for.
            held: client -> the update ``[P]`` that the server holds.
            found: the recoveries, one per client.
        """
        others = self.view.others
        return [(image, others[index % len(others)]) for index, image in enumerate(found)]

    def score(
        self,
        rung: str,
        method: str,
        seed: int,
        release: str,
        clients: list[int],
        held: Held,
        found: list[Tensor],
    ) -> Iterator[Row]:
        """Rows of one rung on one release.

        Args:
            rung: one of ``rungs``.
            method: that trained the updates.
            seed: of its arm.
            release: the label of the rows.
            clients: whose pictures were looked for.
            held: client -> the update ``[P]`` that the server holds.
            found: the recoveries, one per client.
        """
        truths = [self.view.cohort[client].truth for client in clients]
        numbers = render_attack(found, truths)
        raw = [psnr(image, truth) for image, truth in zip(found, truths, strict=True)]
        pairs = self.by_chance(method, seed, clients, held, found)
        chance = [_likeness(image, other.truth) for image, other in pairs]
        by_chance = [score[2] for score in chance]
        base = {"attack": rung, "method": method, "release": release, "n": len(found)}
        floor = _mean(numbers["psnr_floor"])
        yield base | {
            "metric": "psnr",
            "value": _mean(raw),
            "floor": floor,
            "chance": _mean(by_chance),
        }
        yield base | {
            "metric": "psnr_best",
            "value": max(raw),
            "floor": floor,
            "chance": max(by_chance),
        }
        yield base | {
            "metric": "psnr_over_constant_colour",
            "value": _mean(_over_floor(numbers)),
            "floor": 0.0,
            "chance": _mean([score[0] for score in chance]),
        }
        yield base | {
            "metric": "correlation",
            "value": _mean(numbers["correlation_p"]),
            "floor": 0.0,
            "chance": _mean([score[1] for score in chance]),
        }

    def _show(self, slug: str, clients: list[int], found: list[Tensor]) -> None:
        for client, image in zip(clients, found, strict=False):
            truth = self.view.cohort[client].truth
            shown = best_affine(image, truth).float()
            self.view.folder.save_picture(f"private-{client:04d}", contact_sheet(truth))
            self.view.folder.save_picture(f"attack-{slug}-{client:04d}", contact_sheet(shown))


def _slug(rung: str) -> str:
    return rung.replace(", ", "-").replace(" ", "-")


def _likeness(image: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Scores of a recovery against a non-member's picture: dB over the constant-colour baseline,
    correlation, PSNR."""
    if image.shape != truth.shape and image.dim() == 3:
        planes = truth.movedim(-1, 0)[None]
        resized = torch.nn.functional.interpolate(planes, image.shape[:2])
        truth = resized.squeeze(0).movedim(0, -1)
    numbers = render_attack([image], [truth])
    return _over_floor(numbers)[0], correlation(image, truth), psnr(image, truth)


def _over_floor(numbers: dict[str, list[float]]) -> list[float]:
    """PSNR after the best affine fit, over the constant-colour baseline (dB): what the shape alone
    tells."""
    pairs = zip(numbers["psnr_p_affine"], numbers["psnr_floor"], strict=True)
    return [value - floor for value, floor in pairs]


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return sum(known) / len(known) if len(known) == len(values) and known else None
