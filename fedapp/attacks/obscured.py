"""``fedapp attack`` on obscured uploads: whom an operator's pictures name, and what can be seen in
them again, beside what they are good for.

For every operator a matcher and an inverter are trained on strangers *under that operator*, tried
on people they never saw: whoever runs the server may do as much. An operator is worth something
where recognition is near chance *and* the fitted face is much nearer to the truth than without the
views it hides (:func:`frontier`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedapp.attacks import obscured_geometry as geometry
from fedapp.attacks.obscured_people import OTHER, SAME, STRANGERS, Album, album
from fedapp.config.experiment import Experiment
from fedapp.identity import fingerprint
from fedapp.store.kept import Kept
from fedapp.studies.side_by_side import side_by_side
from privacy.attacks.recognition import Matcher, all_pictures, one_picture
from privacy.attacks.uncolouring import Inverter, descended, likeness
from privacy.node_secret import NodeSecret
from privacy.operators import Chain

COLOURS = ""  # no operator: frontal colours leave
OPERATORS = (
    COLOURS,
    "modulus=sobel",
    "smaller=4,modulus=sobel",
    "modulus=sobel,levels=4",
    "modulus=sobel,noise=0.1",
    "modulus=sobel,erase=3",
    "tone=0.5,modulus=sobel,erase=3",
    "tone=0.5,modulus=sobel,erase=3,noise=0.2",
    "smaller=2,tone=1,modulus=sobel,erase=3,noise=0.4,levels=2",
)
TRAINING = 160  # strangers
DRAWS = 2  # of an operator's random parts, per picture that attackers learn from
PARTS = (0.25, 0.5, 1.0)  # of the training, after which recognition is measured
DESCENDED = 8  # pictures that are made again by descent
SHEET = 6  # people on the sheet
SINGLE = "one picture, another day"
NEAR_CHANCE, USEFUL = 2.0, 0.6  # times chance; of stage 1's distance


@dataclass(frozen=True)
class Study:
    """Subject and size of a study.

    Attributes:
        experiment: whose operator, views and sizes are attacked.
        place: folder of its parts.
        people: of the gallery, of whom each is also a probe.
        steps: of every matcher and inverter.
        fitted: people whose heads are fitted under every operator.
        strangers: whom attackers learn from.
        compared: operators; the configuration's own is added.
        workers: processes; 0: as many as there are processors.
    """

    experiment: Experiment
    place: Path
    people: int
    steps: int
    fitted: int
    strangers: int = TRAINING
    compared: tuple[str, ...] = OPERATORS
    workers: int = 0

    @property
    def kept(self) -> Kept:
        about = [self.people, self.steps, self.strangers, *self.operators]
        return Kept(
            self.place,
            self.experiment.digest,
            fingerprint(self.experiment.to_run_config()),
            *map(str, about),
        )

    def album(self, side: str, strangers: bool, tell: Callable[[str], None]) -> Album:
        """Pictures of the people the study is about, or of strangers."""
        first, count = (STRANGERS, self.strangers) if strangers else (0, self.people)
        numbers = range(first, first + count)
        return album(self.experiment, numbers, side, self.kept, tell, self.workers)

    @property
    def operators(self) -> list[str]:
        """Those that are compared, the configuration's own among them."""
        return list(dict.fromkeys([*self.compared, self.experiment.head.operator]))


def study(asked: Study, tell: Callable[[str], None]) -> dict[str, Any]:
    """Rows, the frontier, and pictures; parts that are done are not done again."""
    kept = asked.kept
    for side in ("front", "rear"):
        for strangers in (False, True):
            asked.album(side, strangers, tell)
    jobs: list[tuple[str, Any]] = [("pictures", operator) for operator in asked.operators]
    jobs.append(("rear", geometry.REAR))
    jobs += [("fits", client) for client in range(asked.fitted)]
    waiting = [job for job in jobs if kept.read(job) is None]
    if len(waiting) < len(jobs):
        tell(f"{len(jobs) - len(waiting)} of {len(jobs)} parts are on disk")
    parts = side_by_side(
        _worked,
        waiting,
        lambda job: (asked, *job),
        tell,
        lambda job: f"{job[0]} {_told(job[1])}",
        asked.workers,
    )
    for _ in parts:  # each part writes its own result
        pass
    rows: list[dict[str, Any]] = []
    for operator in asked.operators:
        rows += [{"operator": _told(operator), **row} for row in _read(kept, "pictures", operator)]
    rows += [{"operator": geometry.REAR, **row} for row in _read(kept, "rear", geometry.REAR)]
    fits = [_read(kept, "fits", client) for client in range(asked.fitted)]
    rows += geometry.rows(fits, asked.operators, asked.people, _told)
    rows = [{"method": "", "release": row["operator"], **row} for row in rows]
    return {"chance": 1 / asked.people, "rows": rows, "frontier": frontier(rows, 1 / asked.people)}


def frontier(rows: list[dict[str, Any]], chance: float) -> list[dict[str, Any]]:
    """A point per operator: the rank-1 of the attack that does best, and how far the fitted face is
    from the truth, in distances of stage 1. ``worth`` it: recognised at most twice as often as by
    chance (by the upper end of the interval: 60 people are too few to show it; a few hundred are
    not), and at most 0.6 times as far. (The rear views, which leave in colour with every
    operator, are a row of their own: what they give away is given away whatever it does.)"""
    found: list[dict[str, Any]] = []
    for operator in dict.fromkeys(row["operator"] for row in rows):
        own = [row for row in rows if row["operator"] == operator]
        ranks = [row for row in own if row["metric"] == "rank-1"]
        ratio = next((row["value"] for row in own if row["metric"] == "face ratio"), None)
        if not ranks or ratio is None:
            continue
        best = max(ranks, key=lambda row: row["value"])
        single = [row["value"] for row in ranks if row["attack"] == SINGLE]
        worth = best["high"] <= NEAR_CHANCE * chance and ratio <= USEFUL
        found.append(
            {"operator": operator, "rank1": best["value"], "low": best["low"],
             "high": best["high"], "attack": best["attack"],
             "one_picture": single[0] if single else None, "face_ratio": ratio, "worth": worth}
        )  # fmt: skip
    return found


def pictures(asked: Study) -> Tensor:
    """A sheet: people, what leaves under each operator, and what a trained network makes of it."""
    rows = []
    for operator in asked.operators:
        found = asked.kept.read(("pictures", operator))
        assert found is not None
        rows.append(found[1]["sheet"].float() / 255)
    return torch.cat(rows, 0)


def _told(what: Any) -> Any:
    return "colours (no operator)" if what == COLOURS else what


def _read(kept: Kept, kind: str, what: Any) -> Any:
    found = kept.read((kind, what))
    assert found is not None
    return found[0]["rows"]


# ---------------------------------------------------------------------- in a process of its own
def _worked(asked: Study, kind: str, what: Any) -> None:
    if kind == "fits":
        found = geometry.fitted(asked.experiment, what, asked.operators, asked.people)
        asked.kept.write((kind, what), {"rows": found})
        return
    side = "rear" if kind == "rear" else "front"
    people, strangers = (asked.album(side, other, _silent) for other in (False, True))
    operator = COLOURS if kind == "rear" else what
    rows, sheet = Pictures(operator, people, strangers, asked.steps).attacked()
    asked.kept.write((kind, what), {"rows": list(rows)}, {"sheet": sheet})


def _silent(_: str) -> None:
    return


class Pictures:
    """Attacks on what one operator leaves of pictures.

    Args:
        operator: the chain; empty: colours.
        people: who are recognised.
        strangers: whom attackers learn from.
        steps: of matchers and inverters.
    """

    def __init__(self, operator: str, people: Album, strangers: Album, steps: int) -> None:
        self.operator = operator
        self.people, self.strangers = people, strangers
        self.steps = steps
        self.chain = Chain.parsed(operator) if operator else None

    def attacked(self) -> tuple[list[dict[str, Any]], Tensor]:
        """Rows of the table, and a row of the sheet in 8 bits."""
        probes = slice(0, self.people.probes)
        everything = torch.stack([self.left(self.strangers, slice(None), n) for n in range(DRAWS)])
        training = everything.transpose(0, 1).flatten(1, 2)  # [P, DRAWS * V, C, H, W]
        found = list(self._recognised(training, self.left(self.people, probes, "upload")))
        if self.chain is None:
            return found, self._sheet(None)
        rows, inverted = self._inverted(everything[0], probes)
        return found + rows, self._sheet(inverted)

    def left(self, people: Album, views: slice, draw: object) -> Tensor:
        """Everybody's pictures as they leave ``[P, V, C, H, W]``: values and where they are valid,
        or colours. Draws are per person: ``"upload"`` are the device's, others an attacker's."""
        images, covers = people.images(views), people.cover[:, views].float() / 255
        if self.chain is None:
            return images.permute(0, 1, 4, 2, 3)
        found = []
        for number, (own, cover) in enumerate(zip(images, covers, strict=True)):
            draws = NodeSecret.simulated("attack study", draw, len(people), number).draws(
                "operator"
            )
            part = self.chain(own, cover, draws)
            found.append(torch.stack([part.values[..., 0], part.valid.float()], 1))
        return torch.stack(found)

    # ------------------------------------------------------------------ who it is
    def _recognised(self, training: Tensor, probes: Tensor) -> Iterator[dict[str, Any]]:
        first = self.people.probes
        days = {
            "same day": self.left(self.people, slice(first, first + SAME), "gallery"),
            "another day": self.left(self.people, slice(first + SAME, None), "gallery"),
        }
        assert days["another day"].shape[1] == OTHER
        matcher = Matcher(training.shape[2], training.shape[-1], 0)
        checks = [max(1, round(part * self.steps)) for part in PARTS]
        seen: list[dict[str, Any]] = []

        def look() -> None:
            codes = matcher.embed(probes)
            for day, views in days.items():
                gallery = matcher.embed(views)
                front = gallery[:, gallery.shape[1] // 2]
                for attack, rate in (
                    ("one picture", one_picture(codes, front)),
                    ("all pictures", all_pictures(codes, gallery)),
                ):
                    seen.append({"attack": f"{attack}, {day}", **rate._asdict()})

        matcher.train(training, self.steps, checks=checks, check=look)
        count = len(seen) // len(checks)
        for index in range(count):
            course = seen[index::count]
            # the attacker keeps its best: what it gains by choosing on the people themselves
            # only makes the operator look worse
            best = max(course, key=lambda entry: entry["value"])
            yield {
                **best,
                "metric": "rank-1",
                "chance": 1 / len(self.people),
                "floor": None,
                "course": [entry["value"] for entry in course],
            }

    # ------------------------------------------------------------------ what it looked like
    def _inverted(self, known: Tensor, probes: slice) -> tuple[list[dict[str, Any]], Tensor]:
        size = self.people.colours.shape[2]
        wanted = self.strangers.images().permute(0, 1, 4, 2, 3)
        true = self.people.images(probes).permute(0, 1, 4, 2, 3).flatten(0, 1)
        cover = self.people.cover[:, probes].flatten(0, 1).float() / 255
        inverter = Inverter(known.shape[2], 0)
        inverter.fit(_fitting(known.flatten(0, 1), size), wanted.flatten(0, 1), self.steps)
        left = self.left(self.people, probes, "upload")
        found = inverter.invert(_fitting(left.flatten(0, 1), size))
        # what an attacker knows without the upload: strangers in the same pose, on average
        mean = wanted[:, probes].mean(0)  # [V, 3, S, S]
        floor = likeness(mean.repeat(len(self.people), 1, 1, 1), true, cover)
        rows = self._like("learned inversion", likeness(found, true, cover), floor, len(true))
        chosen = torch.arange(0, len(true), max(1, len(true) // DESCENDED))[:DESCENDED]
        values, valid = left.flatten(0, 1)[chosen].unbind(1)
        assert self.chain is not None
        factor = size // (values.shape[-1] + 2)
        kernel = "central" if "modulus=central" in self.operator else "sobel"
        for name, start in (
            ("mean picture", mean[chosen % len(mean)]),
            ("inversion", found[chosen]),
        ):
            again = descended(start, values, valid, kernel, factor)
            score = likeness(again, true[chosen], cover[chosen])
            base = likeness(mean[chosen % len(mean)], true[chosen], cover[chosen])
            rows += self._like(f"descent from the {name}", score, base, len(chosen))
        return rows, found

    @staticmethod
    def _like(attack: str, score: Any, floor: Any, n: int) -> list[dict[str, Any]]:
        return [
            {"attack": attack, "metric": metric, "value": getattr(score, name), "low": None,
             "high": None, "n": n, "chance": None, "floor": getattr(floor, name)}
            for name, metric in (("psnr", "PSNR (dB)"), ("luminance", "luminance correlation"))
        ]  # fmt: skip

    def _sheet(self, inverted: Tensor | None) -> Tensor:
        """True picture, what leaves and what is made of it, for a few people."""
        view = self.people.probes // 2
        true = self.people.images(slice(view, view + 1))[:, 0]
        size = true.shape[1]
        left = self.left(self.people, slice(view, view + 1), "upload")[:, 0]
        if inverted is None:
            shown = made = true
        else:
            grey = _fitting(left, size)[:, :1].permute(0, 2, 3, 1)
            shown = (grey / grey.amax((1, 2, 3), True).clamp(min=1e-6)).clamp(0, 1)
            shown = shown.expand(-1, -1, -1, 3)
            made = inverted.view(len(true), -1, 3, size, size)[:, view].permute(0, 2, 3, 1)
        count = min(SHEET, len(true))
        row = torch.cat([torch.cat([true[i], shown[i], made[i]], 1) for i in range(count)], 1)
        return (row.clamp(0, 1) * 255).round().to(torch.uint8)


def _fitting(values: Tensor, size: int) -> Tensor:
    """``[N, C, H, W]`` as ``[N, C, size, size]``: the border that the modulus took is empty."""
    padded = torch.nn.functional.pad(values, (1, 1, 1, 1))
    if padded.shape[-1] == size:
        return padded
    return torch.nn.functional.interpolate(padded, size=(size, size))
