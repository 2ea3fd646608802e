"""Outer step sizes, one for each method, chosen on clients that no run judges.

The rule, the same for every method:

1. A candidate trains on the tuning population (``data.skip`` passes over all clients of the recipe:
   other objects, other crops of the bundled photographs; or a folder of others' data) as the
   recipe says, with one step size.
2. Its score is the number that papers report: the mean PSNR of held-out signals after the last
   test-time step at ``evaluation.rate``.
3. The largest score wins among candidates that adapt: those whose PSNR of *unseen* pixels (at the
   cross-fitted test-time step size) is within ``CLOSE`` of that method's best.

By the score alone an unbounded objective picks a step size that learns pixels by heart and is lost
between them; by unseen pixels alone one at which it is hardly another method.

A subtracted loss and the outer step size interact: one step size for all methods judges the method
that it was found for.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import Pieces
from fedapp.config.recipes import read_overrides, read_recipe
from fedapp.place import cores
from fedapp.results import summarise
from fedapp.studies.kept_run import QUIET, kept_run
from strategies.learner import Learner
from tasks.errors import InputError, StoppedError

RATES = (0.0003, 0.0007, 0.0015, 0.003, 0.006, 0.012)
CLOSE = 1.0  # dB, as where a report says that a method does not adapt


class Candidate(NamedTuple):
    """A method at a step size, and what became of it (dB; ``None``: not computed)."""

    method: str
    rate: float
    psnr: float | None = None
    unseen: float | None = None
    psnr_p: float | None = None


def chosen(candidates: Sequence[Candidate]) -> Candidate | None:
    """The rule's choice among those of one method; ``None`` where none has a score."""
    known = [one for one in candidates if one.psnr is not None and one.unseen is not None]
    if not known:
        return None
    best = max(one.unseen for one in known if one.unseen is not None)
    adapting = [one for one in known if one.unseen is not None and one.unseen >= best - CLOSE]
    return max(adapting, key=lambda one: (one.psnr or 0.0, -one.rate))


def rates_of(choices: Sequence[Candidate]) -> str:
    """Choices as ``learner.outer-rates`` takes them."""
    return ",".join(f"{one.method}={one.rate:g}" for one in choices)


def tune(
    recipe: str,
    overrides: Sequence[str],
    rates: Sequence[float],
    folder: Path,
    others: bool = False,
) -> Iterator[Candidate]:
    """Every candidate as it is done, as many side by side as there are cores; finished ones in
    ``folder`` are not run again. ``others``: ``data.path`` is a folder of a tuning population.

    Raises:
        InputError: the recipe has no tuning population, or no method with a step size.
    """
    own = read_overrides(list(overrides))
    experiment = Experiment.from_run_config(known_keys() | read_recipe(recipe) | own)
    if experiment.data.path and not others:
        raise InputError(
            "data.path", experiment.data.path, "a folder has no clients beside those of the run",
            "give a folder of other people's data, and --others",
        )  # fmt: skip
    if others and not experiment.data.path:
        raise InputError("--others", True, "there is no data.path", "leave it out")
    population = own if others else own | {"data.skip": experiment.clients.total}
    pieces = Pieces(experiment)
    if not pieces.trains_sums or pieces.task_type.family != "field":
        raise InputError("recipe", recipe, "no outer steps are taken on fields there",
                         "choose a recipe of task image, video or nerf")  # fmt: skip
    methods = [
        name
        for name in experiment.trained_methods
        if issubclass(pieces.learner_type(name), Learner)
    ]
    if not methods:
        raise InputError("methods", experiment.methods, "none of them has an outer step size",
                         "add maml or fedmenf-published")  # fmt: skip
    jobs = [(method, rate) for method in methods for rate in rates]
    workers = max(1, min(len(jobs), cores()))
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(tried, recipe, population, job, folder) for job in jobs]
        for future in as_completed(futures):
            if future.exception():
                pool.shutdown(cancel_futures=True)  # what is done is kept
            yield future.result()


def tried(recipe: str, changes: dict[str, Any], job: tuple[str, float], folder: Path) -> Candidate:
    """One candidate, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    method, rate = job
    wanted = changes | {"methods": method, "learner.outer-rates": f"{method}={rate:g}"} | QUIET
    slug = "".join(c if c.isalnum() else "-" for c in f"{recipe}-{method}-{rate:g}")
    try:
        place = kept_run(recipe, wanted, folder / slug)
    except StoppedError:  # no round counted: a step size that blew up, and not a candidate
        return Candidate(method, rate)
    return scored(summarise(place)["methods"][method], method, rate)


def scored(row: dict[str, Any], method: str, rate: float) -> Candidate:
    """A candidate from its row of results."""
    last = max(row["psnr"], key=int)
    judged = row["psnr_unseen_tuned"] or row["psnr_tuned"] or {}
    return Candidate(
        method, rate, row["psnr"].get(last), judged.get(last), (row["psnr_p"] or {}).get("mean")
    )
