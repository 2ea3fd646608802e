"""Attacked transcripts, on disk as each is done: a study that is cut goes on from them."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from fedapp.attacks.split_transcript import Case, Outcome
from fedapp.config.experiment import Experiment
from fedapp.identity import fingerprint
from fedapp.store.kept import Kept
from privacy.attacks.split import Score


class Parts:
    """A folder of outcomes, each under the digest of all it follows from: configuration, steps,
    case and code.

    Args:
        folder: made if it is not there.
        experiment: of the study.
        steps: of every transcript.
    """

    def __init__(self, folder: Path, experiment: Experiment, steps: int) -> None:
        self.kept = Kept(
            folder, experiment.digest, str(steps), fingerprint(experiment.to_run_config())
        )

    def write(self, outcome: Outcome) -> None:
        """Keep an outcome."""
        scores = {name: list(score) for name, score in outcome.scores.items()}
        told = {"psnr": outcome.psnr, "scores": scores, "signs": outcome.signs}
        self.kept.write(asdict(outcome.case), told, outcome.pictures)

    def read(self, case: Case) -> Outcome | None:
        """The outcome of a case, if there is one."""
        found = self.kept.read(asdict(case))
        if found is None:
            return None
        told, pictures = found
        scores = {name: Score(*map(_number, score)) for name, score in told["scores"].items()}
        return Outcome(case, _number(told["psnr"]), scores, pictures, told["signs"])


def _number(value: float | None) -> float:
    return math.nan if value is None else value
