"""Attacks on the transcript of a whole run: what a server that remembers all its sums makes of
them (``fedapp attack RUN --name rounds``).

Every row stands beside a control: the same attack where it is known to succeed (public draws,
members that change, clips that act, norms that overflow), made of the run's own models and
pictures. A row that fails beside a control that succeeds says "not recovered by this attack", and
no more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedapp.attacks import rounds_crafted as lying
from fedapp.attacks.rounds_controls import Controls
from fedapp.attacks.rounds_subject import Subject, subjects
from fedapp.config.pieces import Pieces
from fedapp.store.runfolder import RunFolder
from privacy.attacks import many_rounds as attacks
from privacy.attacks.many_rounds import NotApplicableError, Sum, Training
from privacy.attacks.membership import auc
from privacy.exact import HIDES, PROVES
from tasks.atomic import write_json
from tasks.errors import InputError
from tasks.image import ImageTask
from tasks.metrics import psnr

Row = dict[str, Any]
FILE = "attack-rounds.json"
SHEET = "attack-rounds"  # pictures of a run: what was found, a row each
JOINT = 24  # sums that named batches are solved from: more do not help
UNKNOWNS = 6000  # of named batches: a matrix of 288 MB
SMALL = 8  # side of the pictures that joint inversion and crafted models are tried at
STEPS = 60  # of joint inversion, at most
STARTS = 2  # of joint inversion
BLOCKS = 4  # means of sums that joint inversion fits where draws are secret
NOISE = 0.05  # of its start, beside the mean picture
OTHERS = 60  # non-members that membership is judged against
NULLS = 39  # sums that hold none of those judged: one in forty is above all by chance
NO_CONTROL: Row = {"control": None, "note": "no time left for its control"}
CLEAR = 3.0  # dB above the floor: recovered
ATTACKS = (  # in this order at a run's end, where there is little time
    "attendance", "membership", "joint inversion", "active clip", "overflow", "named batches",
    "single draws",
)  # fmt: skip


def end_with_attacks(folder: RunFolder, tell: Callable[[str], None]) -> None:
    """The end of a run of exact sums of pictures: the attacks that apply to its own transcript,
    for ``report.attack-seconds`` at most; of any other run, nothing."""
    experiment = folder.experiment
    seconds = experiment.report.attack_seconds
    pieces = Pieces.of(folder)
    deployed = any(event.get("deployed") for event in folder.events() if event["event"] == "start")
    heard = (folder.path / "transcript").is_dir()
    if not (seconds and heard and pieces.release_type.exact()) or deployed:
        return
    if not isinstance(pieces.task, ImageTask):
        tell("its sums are not attacked: these attacks are on pictures")
        return
    try:
        attack_rounds(folder, tell, seconds=seconds)
    except InputError as error:
        tell(f"its sums are not attacked: {error.reason}")


def attack_rounds(
    folder: RunFolder,
    tell: Callable[[str], None],
    method: str = "",
    only: str = "",
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Try all attacks on a run's transcript; the outcome is kept in the run's folder.

    Args:
        folder: of a run of pictures under a masked release, with its transcript.
        tell: shows progress.
        method: of the run; empty: all that were trained.
        only: one of ``ATTACKS``; empty: all.
        seconds: after so many no further attack is begun, and a search ends.

    Raises:
        InputError: the run has no transcript, or is of something else.
    """
    until = time.monotonic() + seconds
    rows: list[Row] = []
    sheets: dict[str, list[str]] = {}
    for subject in subjects(folder, method):
        tell(f"{subject.method}: {len(subject.sums)} sums of {subject.clients} clients")
        study = Study(subject, tell, until)
        rows += study.rows(only)
        folder.save_picture(f"{SHEET}-{subject.method}", torch.cat(list(study.shots.values()), 0))
        sheets[subject.method] = list(study.shots)
    experiment = folder.experiment
    found = {
        "run": str(folder.path),
        "release": experiment.release,
        "rounds": experiment.rounds,
        "exact": experiment.privacy.exact,
        "says": _says(Pieces.of(folder)),
        "sheets": sheets,
        "rows": rows,
    }
    write_json(folder.path / FILE, found)
    return found


def _says(pieces: Pieces) -> str:
    """The promise of a run's release, in a sentence."""
    if pieces.experiment.privacy.exact:
        return f"Provable mode: a run {PROVES}."
    if pieces.release_type.exact():
        return f"A sum that the server sees exactly {HIDES}."
    return "Noise of the nodes protects what is here, as far as its epsilon says."


class Study:
    """All attacks on one method of a run."""

    def __init__(
        self, subject: Subject, tell: Callable[[str], None], until: float = math.inf
    ) -> None:
        self.subject = subject
        self.tell = tell
        self.until = until
        self.controls = Controls(
            subject.pieces, subject.sums, subject.truth, subject.shape, subject.method
        )
        self.shots: dict[str, Tensor] = {"private pictures": self._shown(subject.truth)}

    def _shown(self, pictures: Tensor) -> Tensor:
        """Pictures ``[K, M]`` of any size in a row ``[64, 64 K, channels]``."""
        channels = self.subject.shape[-1]
        side = math.isqrt(pictures.shape[1] // channels)
        images = pictures.view(-1, side, side, channels).clamp(0, 1).permute(0, 3, 1, 2)
        large = torch.nn.functional.interpolate(images, size=(64, 64), mode="nearest")
        return large.permute(2, 0, 3, 1).reshape(64, -1, channels).float()

    def _show(self, name: str, own: Tensor, control: Tensor) -> None:
        """Keep what an attack found, and what its control did, to be looked at."""
        self.shots[name] = self._shown(own)
        self.shots[f"{name}, control"] = self._shown(control)

    def rows(self, only: str = "") -> list[Row]:
        """A row of every attack, or of ``only`` one."""
        found = []
        for name in ATTACKS:
            if only in ("", name):
                self.tell(f"{self.subject.method}: {name}")
                make: Callable[[], Row] = getattr(self, name.replace(" ", "_"))
                found.append(self._row(name, self._tried(make)))
        return found

    def _tried(self, make: Callable[[], Row]) -> Row:
        """Findings of an attack; of one that has no place for this field, that it was not tried."""
        if self.subject.pieces.experiment.learner.steps_by_examples:
            return {"note": "not tried: learner.steps-by-examples"}
        if self._late():
            return {"note": "not tried: no time left (report.attack-seconds; `fedapp attack`)"}
        try:
            return make()
        except NotApplicableError as error:
            return {"note": f"not tried: {error}"}

    def _late(self) -> bool:
        return time.monotonic() > self.until

    def _row(self, name: str, own: Row) -> Row:
        subject = self.subject
        base: Row = {
            "attack": name, "method": subject.method, "sums": len(subject.sums),
            "clients": subject.clients, "psnr": None, "floor": subject.floor,
            "right_client": None, "chance": 1.0, "auc": None, "bound": None, "control": None,
            "note": "",
        }  # fmt: skip
        row = base | own
        if row["psnr"] is not None:
            clear = row["psnr"] > row["floor"] + CLEAR
            row["verdict"] = "recovered" if clear else "not recovered by this attack"
        elif row["auc"] is not None:
            told = row["auc"] > row["most_by_chance"]
            row["verdict"] = "members are told apart" if told else "not told apart by this attack"
        else:
            row["verdict"] = "not tried"
        return row

    # ------------------------------------------------------------------ attacks by name
    def _score(self, found: Tensor, truth: Tensor | None = None) -> Row:
        return attacks.scored(found, self.subject.truth if truth is None else truth, psnr)

    def named_batches(self) -> Row:
        """Draws named by the run's seed."""
        subject = self.subject
        if subject.truth.numel() > UNKNOWNS:
            raise NotApplicableError(
                f"a system of {subject.truth.numel()} unknowns, {UNKNOWNS} at most"
            )
        key = self.controls.public_key
        found = attacks.named_batches(
            subject.training, subject.sums[:JOINT], subject.clients, key, self.tell
        )
        row = self._score(found)
        if self._late():
            return row | NO_CONTROL
        training, sums = self.controls.public_draws(2 * JOINT)
        control = attacks.named_batches(training, sums, subject.clients, key, self.tell)
        self._show("named batches", found, control)
        return row | {"control": self._score(control)}

    def attendance(self) -> Row:
        """Regression on who was there."""
        subject = self.subject
        found = attacks.attendance(subject.training, subject.sums, subject.clients)
        row = self._score(found)
        if self._late() or (math.isfinite(self.until) and subject.truth.numel() > UNKNOWNS):
            return row | NO_CONTROL
        training, sums = self.controls.changing_members(5 * subject.clients)
        control = attacks.attendance(training, sums, subject.clients)
        self._show("attendance", found, control)
        return row | {"control": self._score(control)}

    def single_draws(self) -> Row:
        """Pixels that one client alone drew: a set of values without names, matched to the truth
        pixel by pixel for scoring (which flatters it: so is the floor's)."""
        subject = self.subject
        found = attacks.singles(subject.training, subject.sums, subject.clients)
        training, sums = self.controls.sparse_draws(60)
        control = attacks.singles(training, sums, subject.clients)
        stream = torch.Generator().manual_seed(0)
        floor = self._nearest(
            subject.truth[:, torch.randperm(subject.truth.shape[1], generator=stream)]
        )
        return {
            "psnr": self._nearest(found), "floor": floor,
            "control": {"psnr": self._nearest(control)},
            "note": "values matched to the nearest, pixel by pixel; the floor is another pixel's",
        }  # fmt: skip

    def _nearest(self, values: Tensor) -> float:
        truth = self.subject.truth
        near = (truth[:, None] - values).abs().argmin(1)
        picked = values.gather(0, near)
        return float(np.mean([psnr(picked[k], truth[k]) for k in range(len(truth))]))

    def joint_inversion(self) -> Row:
        """Damped Gauss-Newton from the mean picture: the set, without names."""
        small = self.controls.at(SMALL)
        own = small.training(self.subject.method)
        whole = not own.settings.batch_size
        if self.subject.shape[0] == SMALL:
            sums = self.subject.sums[:2] if whole else self._blocks(self.subject.sums)
        else:
            sums = small.sums(own, 2 if whole else 48, noised=True)
            sums = sums if whole else self._blocks(sums)
        found, pictures = self._inverted(own, sums, small.truth)
        if self._late():
            return found | NO_CONTROL
        control = small.training("maml", **{"outer_steps": 1, "batch_size": 0})
        right, others = self._inverted(control, small.sums(control, 1), small.truth)
        self._show("joint inversion", pictures, others)
        return found | {
            "control": {"psnr": right["psnr"]},
            "note": f"pictures of {SMALL} x {SMALL}, a set without names; {len(sums)} sums"
            + ("" if whole else f", means of {len(self.subject.sums)} with secret draws"),
        }  # fmt: skip

    def _blocks(self, sums: Sequence[Sum]) -> list[Sum]:
        """Means of consecutive sums: secret draws average out, the model hardly moves."""
        whole = [one for one in sums if len(one.clients) == self.subject.clients]
        size = max(1, len(whole) // BLOCKS)
        found = []
        for start in range(0, size * (len(whole) // size), size):
            part = whole[start : start + size]
            model = torch.stack([one.model.double() for one in part]).mean(0)
            total = torch.stack([one.total for one in part]).mean(0)
            found.append(Sum(part[0].number, model, total, part[0].clients))
        return found

    def _inverted(
        self, training: Training, sums: Sequence[Sum], truth: Tensor
    ) -> tuple[Row, Tensor]:
        clients = len(truth)
        mean = self._mean(training, sums, truth)
        best: attacks.Inverted | None = None
        for number in range(STARTS):
            stream = torch.Generator().manual_seed(number)
            start = mean + NOISE * torch.randn(truth.shape, generator=stream, dtype=torch.float64)
            if best is not None and self._late():
                break
            found = attacks.joint_inversion(
                training, sums, clients, start, STEPS, self.tell, self._late
            )
            if best is None or found.misfit < best.misfit:
                best = found
        assert best is not None, "there is a start"
        flat = truth.mean(1, keepdim=True).expand_as(truth)
        floors = [flat, truth.mean(0).expand_as(truth)]
        pictures = attacks.matched(best.pictures, truth)
        floor = max(self._score(one, truth)["psnr"] for one in floors)
        return {"psnr": self._score(pictures, truth)["psnr"], "floor": floor}, pictures

    def _mean(self, training: Training, sums: Sequence[Sum], truth: Tensor) -> Tensor:
        """The mean picture as the first sum tells it by the linear attack, kept in range."""
        found, values = attacks.residuals(training, sums[0])
        each = attacks.draws_of_a_sample(training, len(values))
        return (found / each / len(truth) + values).clamp(0, 1)

    # ------------------------------------------------------------------ a server that lies
    def active_clip(self) -> Row:
        """Crafted models and a clip that acts."""
        return lying.active_clip(self.subject.pieces, self.controls.at(SMALL), CLEAR)

    def overflow(self) -> Row:
        """Crafted models, and norms that overflow in single precision."""
        return lying.overflow(self.subject.pieces, self.controls.at(SMALL), CLEAR)

    # ------------------------------------------------------------------ membership
    def membership(self) -> Row:
        """Likelihood ratio of a picture being in the first sum, beside sums that hold none of those
        who are judged: what sets members apart there is their looks, and the draw of noise."""
        subject, training, heard = self.subject, self.subject.training, self.subject.sums[0]
        members = list(heard.clients)
        held = subject.pieces.task.non_members(2 * OTHERS)
        others = torch.stack([one.signals[0].support.values.flatten().double() for one in held])
        half = len(others) // 2
        known, judged = others[:half], others[half:]
        if half < len(members) + 8:
            return {"note": f"not computed: {len(others)} non-members are too few"}

        def told(total: Tensor, public: Tensor) -> float:
            found, values = attacks.residuals(training, heard._replace(total=total))
            each = attacks.draws_of_a_sample(training, len(values))
            pictures = found / each + len(members) * values
            inside, outside = (
                attacks.likelihood_ratio(pictures, one, public, len(members)).numpy()
                for one in (subject.truth[members], judged)
            )
            return float(auc(-inside, -outside))

        nulls = []
        for number in range(5 if math.isfinite(self.until) else NULLS):
            order = torch.randperm(half, generator=torch.Generator().manual_seed(number))
            summed, public = known[order[: len(members)]], known[order[len(members) :]]
            nulls.append(told(self.controls.of_others(heard, summed, number), public))
        noise = subject.pieces.release.own_noise
        return {
            # of any test on one sum of a Gaussian mechanism with multiplier z: Phi(1 / (z sqrt 2))
            "bound": (1 + math.erf(0.5 / noise)) / 2 if noise else None,
            "auc": told(heard.total, known[len(members) :]),
            "chance": sum(nulls) / len(nulls),
            "most_by_chance": max(nulls),
            "note": f"{len(members)} members, {len(judged)} others; by chance: {len(nulls)} sums "
            f"that hold neither, up to {max(nulls):.2f}",
        }
