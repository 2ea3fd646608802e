"""Attacked transcripts, on disk as each is done: a study that is cut goes on from them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file

from fedapp.attacks.split_transcript import Case, Outcome
from fedapp.config.experiment import Experiment
from fedapp.identity import fingerprint
from privacy.attacks.split import Score
from tasks.atomic import write_json


class Parts:
    """A folder of outcomes, each under the digest of all it follows from: configuration, steps,
    case and code.

    Args:
        folder: made if it is not there.
        experiment: of the study.
        steps: of every transcript.
    """

    def __init__(self, folder: Path, experiment: Experiment, steps: int) -> None:
        self.folder = folder
        self.about = [experiment.digest, str(steps), fingerprint()]
        folder.mkdir(parents=True, exist_ok=True)

    def _stem(self, case: Case) -> Path:
        text = json.dumps([*self.about, asdict(case)], sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def write(self, outcome: Outcome) -> None:
        """Keep an outcome."""
        stem = self._stem(outcome.case)
        pictures = {name: picture.contiguous() for name, picture in outcome.pictures.items()}
        save_file(pictures, stem.with_suffix(".safetensors"))
        scores = {name: list(score) for name, score in outcome.scores.items()}
        told = {"psnr": outcome.psnr, "scores": scores, "signs": outcome.signs}
        write_json(stem.with_suffix(".json"), finite(told))  # last: what it names is there

    def read(self, case: Case) -> Outcome | None:
        """The outcome of a case, if there is one."""
        stem = self._stem(case)
        file = stem.with_suffix(".json")
        if not file.exists():
            return None
        told = json.loads(file.read_text(encoding="utf-8"))
        scores = {name: Score(*map(_number, score)) for name, score in told["scores"].items()}
        return Outcome(
            case,
            _number(told["psnr"]),
            scores,
            load_file(stem.with_suffix(".safetensors")),
            told["signs"],
        )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def finite(value: object) -> object:
    """The same with ``None`` for numbers that are none (JSON has no other word for them)."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
