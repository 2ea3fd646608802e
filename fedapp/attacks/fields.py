"""Attacks on neural fields: render what the server holds, invert it, tell members by their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedapp.attacks.stage import Row, Stage
from fedapp.store.runfolder import RunFolder
from privacy.attacks.inversion import invert_update
from privacy.attacks.membership import auc, power_at
from privacy.attacks.render import best_affine, correlation, render_attack
from tasks.errors import InputError
from tasks.types import Rendering

FALSE_POSITIVES = 0.1


class FieldAttacks(Stage):
    """Rendering, inverting and telling members, for tasks whose parameters are one field."""

    def __init__(self, folder: RunFolder, clients: int) -> None:
        super().__init__(folder, clients)
        if not (hasattr(self.task, "field") and isinstance(self.task, Rendering)):
            raise InputError("task", self.experiment.task, "these attacks invert fields", "run them on a field task")
        self.fields: Rendering = self.task

    def pictures(self, method: str, seed: int, keep: int) -> Iterator[Row]:
        """Rendering and inverting what the server holds under each release."""
        model = self.model(method, seed)
        cohort = [self.task.client_data(client) for client in self.clients]
        others = [self.task.client_data(client) for client in self.outsiders()]
        for release, held in self.views(method, seed):
            for attack in ("render", "inversion"):
                found = [self._recover(attack, model, held(client), cohort[client]) for client in self.clients]
                truths = [data.truth for data in cohort]
                numbers = render_attack(found, truths)
                chance = [_best(found[index], others[index % len(others)].truth) for index in range(len(found))]
                slug = release.split(" ")[0]
                for client in self.clients[:keep]:
                    self.folder.save_picture(f"private-{client:04d}", truths[client])
                    shown = best_affine(found[client], truths[client]).float()
                    self.folder.save_picture(f"attack-{method}-{attack}-{slug}-{client:04d}", shown)
                base = {"attack": attack, "method": method, "release": release, "n": len(found)}
                yield base | {
                    "metric": "psnr_over_flat_colour", "value": _mean(_over_floor(numbers)), "floor": 0.0,
                    "chance": _mean([pair[0] for pair in chance]),
                }  # fmt: skip
                yield base | {
                    "metric": "correlation", "value": _mean(numbers["correlation_p"]), "floor": 0.0,
                    "chance": _mean([pair[1] for pair in chance]),
                }  # fmt: skip

    def _recover(self, attack: str, model: Tensor, update: Tensor, data: Any) -> Tensor:
        if attack == "render":
            return self.fields.render((model + update)[None], [data])[0]
        coordinates, field = data.coordinates, self.task.field  # type: ignore[attr-defined]
        found = invert_update(lambda params: field(params[None], coordinates[None])[0], model, update)
        return found.reshape(data.truth.shape)

    def outsiders(self) -> list[int]:
        """Clients of the same kind that are not in the run."""
        total = self.experiment.clients.total
        return [total + index for index in range(len(self.clients))]

    def membership(self, method: str, seed: int) -> Iterator[Row]:
        """Loss of the shared model on members' pictures and on outsiders'."""
        model = self.model(method, seed)

        def losses(clients: list[int]) -> np.ndarray:
            cohort = [self.task.client_data(client) for client in clients]
            images = self.fields.render(model.expand(len(cohort), -1), cohort)
            return np.array(
                [float((image - data.truth).square().mean()) for image, data in zip(images, cohort, strict=True)]
            )

        members, others = losses(list(range(self.experiment.clients.total))), losses(self._all_outsiders())
        base = {"attack": "membership", "method": method, "release": self.experiment.release, "n": len(members)}
        yield base | {"metric": "auc", "value": auc(members, others), "floor": 0.5, "chance": 0.5}
        yield base | {
            "metric": f"tpr@fpr={FALSE_POSITIVES:g}", "value": power_at(members, others, FALSE_POSITIVES),
            "floor": FALSE_POSITIVES, "chance": FALSE_POSITIVES,
        }  # fmt: skip

    def _all_outsiders(self) -> list[int]:
        total = self.experiment.clients.total
        return list(range(total, 2 * total))


def _best(image: Tensor, truth: Tensor) -> tuple[float, float]:
    """What the same recovery scores against a stranger's picture: dB over the flat colour, correlation."""
    if image.shape != truth.shape:
        truth = torch.nn.functional.interpolate(truth.movedim(-1, 0)[None], image.shape[:2]).squeeze(0).movedim(0, -1)
    numbers = render_attack([image], [truth])
    return _over_floor(numbers)[0], correlation(image, truth)


def _over_floor(numbers: dict[str, list[float]]) -> list[float]:
    """PSNR after the best affine fit, over that of the best constant colour (dB): what the shape alone tells."""
    return [value - floor for value, floor in zip(numbers["psnr_p_affine"], numbers["psnr_floor"], strict=True)]


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return sum(known) / len(known) if len(known) == len(values) and known else None


def attack_fields(folder: RunFolder, names: list[str], clients: int, tell: Callable[[str], None]) -> list[Row]:
    """The named attacks on every trained method of the first seed."""
    attacker = FieldAttacks(folder, clients)
    seed, rows = attacker.experiment.seed_list[0], []
    for method in attacker.experiment.trained_methods:
        tell(f"attacking {method}: {len(attacker.clients)} clients")
        if "render" in names or "inversion" in names:
            rows += [row for row in attacker.pictures(method, seed, keep=4) if row["attack"] in names]
        if "membership" in names:
            rows += attacker.membership(method, seed)
        if "transcript" in names:
            rows += attacker.transcript(method, seed)
    return rows
