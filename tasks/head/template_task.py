"""The task of a template of heads: devices fit their own person to their own pictures, and only
what a template needs of that is summed.

No picture leaves. A device fits a head to *all* its pictures, in colour, as ``full_rgb`` does,
and keeps it; its private data are the distances of that head on a coarse lattice
(:mod:`tasks.head.template`). Rounds of sums move the template, under any release; under ``plain``
an update *is* that lattice times a known factor, and a sum without noise is one linear system in
who is in it (``fedapp attack`` measures both). A newcomer starts from the template: coefficients
first, then the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.derivatives import Autograd
from tasks.errors import InputError
from tasks.fields.sdf import smoothed
from tasks.head import template
from tasks.head.fit import Budget, Fit
from tasks.head.mesh import Mesh, compare, surface
from tasks.head.remembered import remembered
from tasks.head.shading import clay
from tasks.head.stages import BASE, Stage, chosen
from tasks.head.task import SHOWN, VIEWS, HeadData, HeadTask, turntable
from tasks.params import Layout
from tasks.randomness import Key
from tasks.settings import EvaluationSettings, TaskSettings
from tasks.types import ClientData, Episode, Evaluation, Trainable

HELD_OUT = 5_000  # number of the first person that no client is
KEPT = 2_048  # fitted heads a process remembers
SETTLE = 40  # steps for colours alone at the start: untrained ones would push a template about


@dataclass(frozen=True)
class Shape(ClientData):
    """One client's head on the lattice (a :class:`tasks.types.ClientData`).

    Attributes:
        name: of the person.
        truth: distances ``[SIZE]``, as the device's own fit has them.
        examples: 1.
    """

    name: str
    truth: Tensor
    examples: int = 1


class Shapes(NamedTuple):
    """A batch: one shape per client, ``[C, SIZE]``."""

    distances: Tensor


class HeadTemplate(Trainable):
    """Mean and components of heads. ``template.shares = "mean"``: the mean alone travels."""

    family = "template"

    def __init__(self, settings: TaskSettings) -> None:
        if settings.head.field != "grid":
            raise InputError(
                "head.field", settings.head.field, "a template is made of lattices",
                "leave it at grid",
            )  # fmt: skip
        self.people = HeadTask(settings)
        self.settings = settings
        own = settings.template
        self.count = own.components if own.shares == "basis" else 0
        shapes: dict[str, tuple[int, ...]] = {"mean": (template.SIZE,)}
        if self.count:
            shapes["components"] = (self.count, template.SIZE)
        self.layout = Layout.of(shapes)
        self.derivatives = Autograd(self.loss)
        self.client_data = lru_cache(KEPT)(self._client_data)  # type: ignore[method-assign]
        self.newcomer = lru_cache(KEPT)(self._newcomer)

    def loss(self, params: Tensor, batch: Shapes) -> Tensor:
        """What the template leaves unsaid of each client's head, ``[C]``
        (:func:`tasks.head.template.loss`)."""
        return template.loss(*self.parts(params), batch.distances)

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``[C, N]`` and components ``[C, K, N]`` of ``params [C, P]``."""
        named = self.layout.unflatten(params)
        none = params.new_zeros(len(params), 0, template.SIZE)
        return named["mean"], named.get("components", none)

    def init(self, seed: int) -> Tensor:
        """The public template."""
        own = self.settings.template
        mean, components = template.public(own.people, own.style, own.components)
        values = {"mean": mean, "components": components}
        return self.layout.flatten({name: values[name] for name, _, _ in self.layout.entries})

    def _client_data(self, client: int) -> Shape:
        if self.settings.data.path:  # somebody's own: in memory alone
            return Shape(self.people.client_data(client).name, self._fitted(client))
        head = self.settings.head
        asked = [head.model_dump(), self.settings.data.size, client]
        return Shape(f"person {client}", remembered(asked, lambda: self._fitted(client)))

    def _fitted(self, client: int) -> Tensor:
        """A client's head on the lattice, fitted on its own device to all its views."""
        data = self.people.client_data(client)
        fit = Fit(data.in_colour, self.budget, 0, side=self.stages[0].grids[0])
        for stage in self.stages:
            fit.run(stage)
        return template.cut(distances_of(fit))

    @property
    def stages(self) -> list[Stage]:
        return chosen("full_rgb", self.settings.head)

    @property
    def budget(self) -> Budget:
        head = self.settings.head
        return Budget(head.rays, head.patches, head.patch)

    @property
    def newcomers(self) -> list[int]:
        """Numbers of people of the clients' population that no client is."""
        return list(range(HELD_OUT, HELD_OUT + self.settings.data.held_out))

    def held_out(self) -> list[Shape]:
        """The true shapes of newcomers."""
        style = self.settings.head.style
        return [
            Shape(f"person {n}", template.cut(template.of_person(n, style, template.LATTICE)))
            for n in self.newcomers
        ]

    def episodes(
        self,
        cohort: Sequence[Shape],
        keys: Sequence[Key],
        count: int,
        inner_steps: int,
        batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]:
        """A client has one shape: nothing is drawn."""
        batch = Shapes(torch.stack([data.truth for data in cohort]).to(device))
        return lambda step: Episode([batch] * inner_steps, batch)

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        return 4 * self.layout.size * (inner_steps + 4)

    # ------------------------------------------------------------------ judging
    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        """Of people nobody trained on: what the template leaves unsaid of their true shapes, and
        (at the end) their faces after ``template.local-steps`` of their own, from few views in
        colour."""
        mean, components = (part[0] for part in self.parts(model[None].cpu()))
        own = self.settings.template
        if not self.count:  # everybody has the public ones
            components = template.public(own.people, own.style, own.components)[1]
        true = torch.stack([shape.truth for shape in self.held_out()])
        above = template.counted()
        least = template.coefficients(
            mean.expand(len(true), -1), components.expand(len(true), -1, -1), true
        )
        rest = true - mean - least @ components
        metrics: dict[str, float | None] = {
            "mean_residual": 1e3 * float(((true - mean) * above).abs().mean() / above.mean()),
            "basis_residual": 1e3 * float((rest * above).abs().mean() / above.mean()),
        }
        pictures: dict[str, Tensor] = {}
        if tune:
            start = self.start_of(mean)
            faces, starts = [], []
            for number in self.newcomers:
                data = self.newcomer(number)
                mesh, before = self.adapted(data, start, components)
                assert data.truth is not None
                faces.append(compare(mesh, data.truth, samples=self.settings.head.samples))
                starts.append(compare(before, data.truth, samples=self.settings.head.samples))
                if not pictures:
                    pictures["0000-0"] = _shown([data.truth, before, mesh])
            for name in ("chamfer_face", "chamfer_head"):
                metrics[name] = 1e3 * sum(row[name] for row in faces) / len(faces)
                metrics[f"{name}_start"] = 1e3 * sum(row[name] for row in starts) / len(starts)
        return Evaluation(metrics, pictures)

    def start_of(self, mean: Tensor) -> Tensor:
        """A fit's start from a released mean (:func:`tasks.head.template.start`), smoothed if the
        settings say so."""
        if self.settings.template.smooth:
            mean = smoothed(mean.view((template.LATTICE,) * 3)).flatten()
        return template.start(mean, self.settings.head.grid)

    def adapted(self, data: HeadData, start: Tensor, components: Tensor) -> tuple[Mesh, Mesh]:
        """A newcomer's head after the local steps, and the mesh it began with: colours, then
        coefficients, then the grid."""
        steps = self.settings.template.local_steps
        fit = Fit(data.in_colour, self.budget, 0, start=start, basis=template.basis(components))
        fit.beta = torch.tensor(0.02)
        before = surface(fit.volume.lattice())
        losses = BASE | {"neutral": 1.0, "prior": 1e-3}
        sharp = self.settings.head.sharp
        stages = [
            Stage("colours", SETTLE, beta=(0.02, 0.02), losses=losses, warm=10, freeze="geometry"),
            Stage("coefficients", steps // 2, 0.1, (0.02, 0.01), losses, warm=10, freeze="grid"),
            Stage("grid", steps - steps // 2, 3e-3, (0.01, sharp), losses, warm=10),
        ]  # fmt: skip
        for stage in stages:
            fit.run(stage)
        return fit.surface(), before

    def _newcomer(self, number: int) -> HeadData:
        """A person with few frontal views and none from behind."""
        few = self.settings.head.model_copy(
            update={"sensitive_views": self.settings.template.views, "neutral_views": 0}
        )
        data = self.settings.data.model_copy(update={"path": "", "hosted": ""})
        made = self.settings.model_copy(update={"head": few, "data": data})
        return HeadTask(made).client_data(number)


def distances_of(fit: Fit) -> Tensor:
    """Distances ``[S, S, S]`` of a fitted head (a fit's values are none far from its surface).

    Raises:
        ValueError: it has no surface.
    """
    values = fit.volume.lattice().detach()
    return template.redistanced(fit.surface(), values, values.shape[-1])


def _shown(meshes: list[Mesh]) -> Tensor:
    cameras = turntable(8, SHOWN).some(torch.tensor(VIEWS))
    return torch.cat([torch.cat(list(clay(mesh, cameras)), 1) for mesh in meshes], 0)
