"""A run's meta-learner adapted to data of one's own, as a field to look at, keep and take away.

What a meta-learner is for: a start from which few steps fit *my* picture, clip or object. Nothing
of it leaves this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import Pieces
from fedapp.store.checkpoint import list_checkpoints, load_checkpoint
from fedapp.store.runfolder import RunFolder
from tasks.adaptation import adapt
from tasks.data.cameras import PixelRays, orbit
from tasks.errors import InputError
from tasks.fields.siren import Siren
from tasks.fitting import FieldTask
from tasks.metrics import psnr
from tasks.nerf import FIELD_OF_VIEW, NerfTask
from tasks.optimise import Adam
from tasks.own import Own
from tasks.randomness import generator
from tasks.signals import Lattice, Signal
from tasks.targets import whole
from tasks.types import Batch
from tasks.video import VideoTask

FORMAT = "fedapp field 1"
TASKS = ("image", "video", "nerf")  # ours: a file from elsewhere names no code
KEPT = ("task", "data.size", "data.channels", "data.frames", "data.shape")  # and no path
TURN = 48  # frames of a turntable
CLOSE = 2.0  # dB
WHOLE = 1 << 14  # samples up to which a step sees all of them
DRAWN = 4096  # that it sees of more
MOST = 4096  # pixels per side of a rendering
SGD, ADAM = "sgd", "adam"
OPTIMISERS = (SGD, ADAM)
ADAM_RATES = (0.0005, 0.001, 0.002, 0.004)


class Steps(NamedTuple):
    """A way to take steps: of gradient descent, as meta-learners were trained for, or of Adam."""

    optimiser: str
    rate: float


@dataclass(frozen=True)
class Start:
    """A run's shared model: where adaptation begins."""

    experiment: Experiment
    task: FieldTask
    model: Tensor
    arm: str

    @classmethod
    def of(cls, folder: RunFolder, method: str = "", seed: int = -1) -> Start:
        """Of a run's last checkpoint.

        Raises:
            InputError: it trains no field, has no checkpoint, or no such method and seed.
        """
        pieces = Pieces.of(folder)
        experiment = pieces.experiment
        if not issubclass(pieces.task_type, FieldTask):
            raise InputError(
                "run", str(folder.path), f"task {experiment.task} has no field to adapt",
                "name a run of task image, video or nerf",
            )  # fmt: skip
        files = list_checkpoints(folder.checkpoints)
        if not files:
            raise InputError(
                "run", str(folder.path), "has no checkpoint yet", "come back after its first round"
            )
        checkpoint = load_checkpoint(files[-1], {})
        method = method or experiment.trained_methods[0]
        arm = f"{method}-{experiment.seed_list[0] if seed < 0 else seed}"
        if arm not in checkpoint.arms:
            raise InputError(
                "--method", arm, "the run has no such method and seed",
                f"it trained {', '.join(checkpoint.arms)}",
            )  # fmt: skip
        model = checkpoint.federation(arm, pieces.rule).result
        return cls(experiment, pieces.task, model, arm)

    def adapt(
        self,
        own: Own,
        steps: Sequence[int],
        rate: float | None = None,
        optimiser: str = "",
    ) -> Adapted:
        """The field after the last of ``steps`` on own data.

        Args:
            own: what it is fitted to.
            steps: numbers of steps that PSNR is told after.
            rate: step size, of gradient descent unless ``optimiser`` says otherwise; ``None``: of
                those in ``evaluation.rates`` and Adam's the one that fits best among those that
                cost no more than ``CLOSE`` on samples they did not see: a random half of a
                picture's or clip's, the judged views of an object. (What fits seen samples best
                of all draws wrinkles between them.)
            optimiser: ``sgd`` or ``adam``; empty: whichever serves the data better.
        """
        signal, wanted = own.signal, sorted({0, *steps})
        chosen = self._chosen(signal, wanted[-1], self._candidates(rate, optimiser))
        reached = self._fitted(signal, [chosen], wanted)
        scores = {step: self._psnr(params, 0, signal) for step, params in reached.items()}
        return Adapted(
            self.task,
            reached[wanted[-1]][0].clone(),
            {
                "format": FORMAT, "task": self.experiment.task, "method": self.arm,
                "steps": wanted[-1], **chosen._asdict(), "shape": list(signal.shape),
                "psnr": {str(step): scores[step] for step in wanted},
                "config": {
                    key: value
                    for key, value in self.experiment.to_run_config().items()
                    if key in KEPT or key.startswith("field.")
                },
                "radius": own.radius, "limits": own.limits and list(own.limits),
                "space": _space_of(self.task),
                **_siren_facts(self.task),
            },
        )  # fmt: skip

    def _candidates(self, rate: float | None, optimiser: str) -> list[Steps]:
        """The ways to take steps that are tried; one, where the caller has named it."""
        settings = self.experiment.evaluation
        if rate is not None:
            return [Steps(optimiser or SGD, rate)]
        rates = {SGD: sorted({settings.rate, *settings.rate_list}), ADAM: ADAM_RATES}
        return [
            Steps(name, one)
            for name in OPTIMISERS
            if optimiser in ("", name)
            for one in rates[name]
        ]

    def _chosen(self, signal: Signal, steps: int, rates: Sequence[Steps]) -> Steps:
        """Of several ways the one that :meth:`adapt` says."""
        if len(rates) == 1:
            return rates[0]
        rows = range(len(rates))
        parts = signal.halved() if signal.whole else signal
        params = self._fitted(parts, rates, [steps])[steps]
        unseen = [self._psnr(params, row, parts) for row in rows]
        close = [row for row in rows if unseen[row] >= max(unseen) - CLOSE]
        if len(close) == 1 or not signal.whole:
            return rates[max(rows, key=unseen.__getitem__)]
        params = self._fitted(signal, [rates[row] for row in close], [steps])[steps]
        fits = [self._psnr(params, row, signal) for row in range(len(close))]
        return rates[close[max(range(len(close)), key=fits.__getitem__)]]

    def _fitted(
        self, signal: Signal, rates: Sequence[Steps], steps: Sequence[int]
    ) -> dict[int, Tensor]:
        """Parameters ``[rates, P]`` after each of ``steps``; ``rates`` are sorted by optimiser."""
        parts = []
        for name in OPTIMISERS:
            column = self.model.new_tensor([[one.rate] for one in rates if one.optimiser == name])
            if not len(column):
                continue
            start = self.model.expand(len(column), -1).contiguous()
            batches = self._batches(signal, len(column))
            limit = self.experiment.evaluation.clip
            moments = Adam(1.0) if name == ADAM else None
            parts.append(
                dict(adapt(self.task.derivatives, start, batches, column, steps, limit, moments))
            )
        return {step: torch.cat([part[step] for part in parts]) for step in steps}

    def _batches(self, signal: Signal, count: int) -> Callable[[int], Batch]:
        """Samples of each step: all of a small picture, draws of what is larger."""
        size = self.experiment.evaluation.batch_size
        if not size and len(signal.support) <= WHOLE:
            whole = Batch(
                signal.support.inputs.to(self.model).expand(count, -1, -1),
                signal.support.values.to(self.model).expand(count, -1, -1),
            )
            return lambda step: whole
        size = size or DRAWN
        stream = generator("own data", signal.name)

        def drawn(step: int) -> Batch:
            places, colours = signal.support.at(
                torch.randint(len(signal.support), (size,), generator=stream)
            )
            if self.task.jitter:
                places = torch.cat([places, torch.rand(size, 1, generator=stream)], -1)
            return Batch(
                places.to(self.model).expand(count, -1, -1),
                colours.to(self.model).expand(count, -1, -1),
            )

        return drawn

    def _psnr(self, params: Tensor, row: int, signal: Signal) -> float:
        shown = self.task.predict(params[row : row + 1], signal.query.inputs[None].to(params))
        visible = shown[0].cpu().view(signal.shape).clamp(0, 1).nan_to_num(0.0)  # as it is rendered
        return psnr(visible, signal.truth)


def _space_of(task: FieldTask) -> list[float] | None:
    if not isinstance(task, NerfTask):
        return None
    return [task.space.near, task.space.far, task.space.background]


def _siren_facts(task: FieldTask) -> dict[str, Any]:
    """Facts that a few lines of torch need to read a SIREN."""
    if not isinstance(task.field, Siren):
        return {}
    return {"omega": task.field.omega, "widths": list(task.field.widths)}


@dataclass(frozen=True)
class Adapted:
    """A field fitted to somebody's own data.

    Attributes:
        task: which renders it.
        params: ``[P]``.
        about: how it was made: ``steps``, ``rate``, ``psnr`` (dB by step; of unseen views for
            objects), ``shape`` of the data, the run's configuration.
    """

    task: FieldTask
    params: Tensor
    about: Mapping[str, Any] = field(repr=False)

    @property
    def psnr(self) -> dict[int, float]:
        """dB by number of steps."""
        return {int(step): value for step, value in self.about["psnr"].items()}

    def render(self, size: int, frames: int = 0) -> Tensor:
        """A picture ``[H, W, channels]``, a clip ``[frames, H, W, channels]`` or a turntable
        ``[frames, size, size, 3]``, in [0, 1].

        Args:
            size: pixels of the longer side; the other one follows from what was fitted.
            frames: of a clip (0: as many as it was fitted to) or turntable (0: 48).

        Raises:
            InputError: a size or number of frames that cannot be.
        """
        if not 1 <= size <= MOST or frames < 0:
            raise InputError("--size", size, f"sides are 1 to {MOST} pixels", "correct it")
        if isinstance(self.task, NerfTask):
            return self._turned(size, frames or TURN)
        high, wide = (int(side) for side in self.about["shape"][-3:-1])
        sides = (round(size * high / max(high, wide)), round(size * wide / max(high, wide)))
        shape: tuple[int, ...] = (max(1, sides[0]), max(1, sides[1]))
        if isinstance(self.task, VideoTask):
            shape = (frames or int(self.about["shape"][0]), *shape)
        elif frames:
            raise InputError("--frames", frames, "a picture has none", "leave it out")
        lattice = Lattice(shape)
        places = lattice[torch.arange(len(lattice))]
        values = self.task.predict(self.params[None], places[None].to(self.params))[0]
        return values.view(*shape, -1).clamp(0, 1).nan_to_num(0.0).cpu()

    def _turned(self, size: int, frames: int) -> Tensor:
        rays = PixelRays(
            orbit(frames, float(self.about["radius"])), size / FIELD_OF_VIEW, size, size
        )
        limits = self.about.get("limits")
        if limits:  # beyond them the field was never fitted
            rays = replace(rays, reach=torch.tensor(limits).expand(len(rays), 2))
        found = [
            self.task.predict(self.params[None], rays[index][None].to(self.params))[0]
            for index in torch.arange(len(rays)).view(frames, -1)
        ]
        return torch.stack(found).view(frames, size, size, 3).clamp(0, 1).cpu()

    def save(self, path: Path | str) -> None:
        """Write a safetensors file: the network's layers by name, and ``about`` as its metadata."""
        from safetensors.torch import save

        if not Path(path).resolve().parent.is_dir():
            raise InputError(
                "path", str(path), "no such folder", "name a file in one that is there"
            )
        named = {
            name: part.clone().contiguous()
            for name, part in self.task.layout.unflatten(self.params.cpu()).items()
        }
        with whole(Path(path)) as beside:
            beside.write_bytes(save(named, {"about": json.dumps(self.about)}))

    @classmethod
    def load(cls, path: Path | str) -> Adapted:
        """Inverse of :meth:`save`; no run and none of its data are needed.

        Raises:
            InputError: no such file, or another kind of file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(
                "field", str(path), f"cannot be read ({error})",
                "name a file that fedapp adapt wrote",
            ) from error  # fmt: skip
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise InputError(
                "field",
                str(path),
                "is no field of this program",
                "name one that fedapp adapt wrote",
            )
        task = _renderer(about, str(path))
        shapes = {name: list(shape) for name, shape, _ in task.layout.entries}
        if {name: list(part.shape) for name, part in named.items()} != shapes:
            raise InputError("field", str(path), "holds other layers than it says", "make it anew")
        return cls(task, task.layout.flatten(named), about)


def _renderer(about: Mapping[str, Any], path: str) -> FieldTask:
    """A task without the run's data: with bundled ones, of which nothing is read."""
    told = about.get("config")
    kept = {
        key: value
        for key, value in (told.items() if isinstance(told, dict) else ())
        if key in KEPT or key.startswith("field.")
    }
    if kept.get("task") not in TASKS:
        raise InputError("field", path, "says not what it is a field of", "make it anew")
    task = Pieces(Experiment.from_run_config(known_keys() | kept)).task
    assert isinstance(task, FieldTask)
    if about.get("space"):
        assert isinstance(task, NerfTask)
        task.in_space(*about["space"])
    return task
