"""fedapp from Python. Everything here is what the command line does, under the same names.

>>> import fedapp
>>> outcome = fedapp.run("quickstart", methods="maml", rounds=2)
>>> field = fedapp.load(outcome.path).adapt("me.png")
>>> picture = field.render(512)          # [512, 512, 3] in [0, 1]
>>> field.save("me.safetensors")
>>> fedapp.compare([outcome.path, "runs/another"], out="compared.html")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError
from tasks.targets import new_file, whole

if TYPE_CHECKING:
    from fedapp.adapted import Adapted

STEPS = 64


@dataclass(frozen=True)
class Outcome:
    """A run that has ended: its folder, and its numbers as ``--json`` has them."""

    path: Path
    result: dict[str, Any]

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """Numbers by method."""
        found: dict[str, dict[str, Any]] = self.result["methods"]
        return found

    def load(self, method: str = "", seed: int = -1) -> Learned:
        """As :func:`load`."""
        return load(self.path, method, seed)


class Learned:
    """The shared model of a run: a start for one's own data."""

    def __init__(self, path: Path, method: str, seed: int) -> None:
        from fedapp.adapted import Start
        from fedapp.store.runfolder import RunFolder

        self._start = Start.of(RunFolder.open(path.expanduser().resolve()), method, seed)

    def adapt(
        self,
        data: Path | str,
        steps: int = STEPS,
        rate: float | None = None,
        pixels: int = 0,
        optimiser: str = "",
    ) -> Adapted:
        """A field fitted to a picture, clip or object of one's own.

        Args:
            data: a file or folder, as ``fedapp adapt`` takes it.
            steps: of test-time optimisation.
            rate: step size; ``None``: the one that serves the data best
                (:meth:`fedapp.adapted.Start.adapt`).
            pixels: per side of what is fitted; 0: the run's.
            optimiser: ``sgd`` or ``adam``; empty: whichever serves the data better.
        """
        from fedapp.adapted import OPTIMISERS
        from tasks.own import own

        if steps < 1 or (rate is not None and not 0 < rate < 1e6) or pixels < 0 or pixels == 1:
            asked = f"steps {steps}, rate {rate}, pixels {pixels}"
            raise InputError("adapt", asked, "out of range", "steps from 1, a rate above 0")
        if optimiser and optimiser not in OPTIMISERS:
            raise InputError("optimiser", optimiser, "no such one", "sgd or adam")
        settings = self._start.experiment.data
        if pixels:
            settings = settings.model_copy(update={"size": pixels})
        mine = own(self._start.task, settings, Path(data))
        return self._start.adapt(mine, [steps], rate, optimiser)

    def __repr__(self) -> str:
        return f"Learned({self._start.arm}, task {self._start.experiment.task})"


def load(path: Path | str, method: str = "", seed: int = -1) -> Learned:
    """A run's shared model.

    Args:
        path: of the run.
        method: name; empty: the first one trained.
        seed: -1: the first.

    Raises:
        InputError: no such run, method or seed, or a run that trains no fields.
    """
    return Learned(Path(path), method, seed)


def run(
    recipe: str, *, runtime: str = "in-process", folder: Path | str = "runs", **overrides: Any
) -> Outcome:
    """A run from start to end.

    Args:
        recipe: name, or path of a ``.toml``.
        runtime: ``in-process``, or ``ray`` (Flower's simulation).
        folder: runs lie in.
        overrides: config keys, with ``__`` for dots and ``_`` for dashes:
            ``clients__total=24``, ``learner__outer_rate=0.01``.

    Raises:
        InputError: something that cannot be run, by key.
    """
    from rich.console import Console

    from fedapp.cli import runs
    from fedapp.config.recipes import written

    given = [f"{key_of(name)}={written(value)}" for name, value in overrides.items()]
    experiment, place = runs.prepare(recipe, given, Path(folder), runtime)
    result = runs.execute(experiment, place, runtime, Console(quiet=True))
    return Outcome(place.path, result)


def key_of(name: str) -> str:
    """Config key of a keyword: ``clients__per_round`` is ``clients.per-round``."""
    return ".".join(part.replace("_", "-") for part in name.split("__"))


def field(path: Path | str) -> Adapted:
    """A field that ``fedapp adapt`` or :meth:`Adapted.save` wrote; its run is not needed."""
    from fedapp.adapted import Adapted

    return Adapted.load(path)


def compare(runs: Sequence[Path | str], out: Path | str = "") -> list[dict[str, Any]]:
    """Rows of several runs, one a method, and (``out``) one page with their curves over each
    other."""
    from fedapp.compared import page_of, rows_of
    from fedapp.store.runfolder import RunFolder

    page = new_file("out", out, force=True) if out else Path()
    folders = [RunFolder.open(Path(path).expanduser().resolve()) for path in runs]
    rows = rows_of(folders)
    if out:
        with whole(page) as beside:
            beside.write_text(page_of(folders, rows), encoding="utf-8", errors="replace")
    return rows
