"""Attacks on neural fields, a ladder: render what the server holds, read its update out, match it
by simulation, tell members by their loss.

What is recovered is shown as it is and scored three ways: PSNR, PSNR after the best affine
intensity map over that of the best flat colour, correlation. ``floor`` is what knowing nothing but
the picture's mean colour gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedapp.attacks.stage import Row, Stage
from fedapp.store.runfolder import RunFolder
from privacy.attacks.inversion import invert_update
from privacy.attacks.matching import (
    DEFAULT,
    KNOWN,
    Search,
    Training,
    cap_guesses,
    drawn_samples,
    match_best,
)
from privacy.attacks.membership import auc, power_at
from privacy.attacks.render import best_affine, correlation, render_attack
from tasks.adaptation import constant_colour
from tasks.data.pictures import contact_sheet
from tasks.fitting import FieldTask
from tasks.metrics import psnr

FALSE_POSITIVES = 0.1
LADDER = ("render", "readout", "inversion", "inversion, batches known")
KNOWN_FOR = 2  # clients whose redrawn batches are used: an order of magnitude slower


class FieldAttacks(Stage):
    """The ladder, for tasks whose parameters are one field. ``search`` is how hard the inversion
    looks."""

    def __init__(self, folder: RunFolder, clients: int, search: Search = DEFAULT) -> None:
        super().__init__(folder, clients)
        assert isinstance(self.task, FieldTask), "attack_run sends no other here"
        self.fields: FieldTask = self.task
        self.search = search
        self.cohort = [self.task.client_data(client) for client in self.clients]
        self.others = self.fields.non_members(len(self.clients))

    def pictures(self, method: str, seed: int, names: list[str], keep: int) -> Iterator[Row]:
        """Every rung of the ladder on what the server holds under each release."""
        updates = self.updates(method, seed)
        bare = updates + self.corrections(method, seed)
        for release, held in self.views(updates):
            for attack in LADDER:
                if attack.split(",")[0] not in names or not self.applies(attack, release):
                    continue
                if "inversion" in attack and not self.pieces.learner(method).inverts:
                    row = {
                        "attack": attack,
                        "method": method,
                        "release": release,
                        "n": 0,
                        "metric": "psnr",
                    }
                    yield row | {
                        "value": None,
                        "floor": None,
                        "chance": None,
                    }  # trains as a whole: nothing to simulate
                    continue
                clients = self.clients[:KNOWN_FOR] if "known" in attack else self.clients
                known = attack != "render" and release == "plain"
                seen = bare.__getitem__ if known else held
                found = self._recover_all(attack, method, seed, clients, seen)
                yield from self._score(attack, method, seed, release, clients, held, found)
                self._show(
                    f"{method}-{attack.replace(', ', '-').replace(' ', '-')}",
                    release,
                    clients[:keep],
                    found,
                )

    def inverted(self, method: str, seed: int) -> list[tuple[float, float]]:
        """(PSNR of what matching recovers from a plain upload, that of the best flat colour) for
        each client."""
        updates = self.updates(method, seed) + self.corrections(method, seed)
        found = self._recover_all(
            "inversion", method, seed, self.clients, lambda client: updates[client]
        )
        truths = [data.truth for data in self.cohort]
        return [
            (psnr(image, truth), psnr(constant_colour(truth), truth))
            for image, truth in zip(found, truths, strict=True)
        ]

    def applies(self, attack: str, release: str) -> bool:
        """Whether a rung makes sense: reading out and matching need one signal whose samples are
        all of it, and redrawn batches one client's own update."""
        if attack == "render":
            return True
        single = all(len(data.signals) == 1 and data.signals[0].whole for data in self.cohort)
        return single and ("known" not in attack or release == "plain")

    def _recover_all(
        self, attack: str, method: str, seed: int, clients: list[int], held: Callable[[int], Tensor]
    ) -> list[Tensor]:
        """One picture a client; what is the same for all is recovered once."""
        found: list[Tensor] = []
        cache: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        for client in clients:
            update, data = held(client), self.cohort[client]
            key = (update.data_ptr(), data.truth.shape)
            if (
                attack == "render" or key not in cache
            ):  # what a rendering shows depends on where the client looked from
                cache[key] = self._recover(attack, method, seed, client, update, data)
            found.append(cache[key])
        return found

    def _recover(
        self, attack: str, method: str, seed: int, client: int, update: Tensor, data: Any
    ) -> Tensor:
        model = self.received(method, seed).model
        if attack == "render":
            return self.fields.render((model + update)[None], [data])[0]
        samples, field = data.signals[0].support, self.task.field  # type: ignore[attr-defined]
        if attack == "readout":
            found = invert_update(
                lambda params: field(params[None], samples.inputs[None])[0], model, update
            )
            return found.reshape(data.truth.shape)
        training, search = self.training(method, samples.inputs), self.search
        if "known" in attack:
            settings = self.experiment.learner
            keys = [("batches", seed, self.checkpoint.round + 1, client)]
            batches = drawn_samples(
                self.task, samples.inputs[None], keys, settings.outer_steps, training.learner.inner_steps,
                settings.batch_size,
            )  # fmt: skip
            training, search = self.training(method, samples.inputs, batches), KNOWN
        guesses = cap_guesses(training)
        matched = match_best(
            guesses,
            model,
            update[None],
            data.truth.shape[-1],
            grid=data.truth.shape[:-1],
            search=search,
        )
        return matched.values[0].reshape(data.truth.shape).float()

    def training(self, method: str, inputs: Tensor, batches: Tensor | None = None) -> Training:
        """What the server knows of the clients' training (what a rule adds to a step is not
        simulated)."""
        settings, learner = self.experiment.learner, copy(self.pieces.learner(method))
        if learner.noise_multiplier:
            learner.noise_multiplier = 0.0  # the noise itself is what nobody can simulate
        return Training(
            self.task.field.loss, learner, inputs[None], settings.outer_steps, settings.outer_clip,  # type: ignore[attr-defined]
            batches, self.task.derivatives,
        )  # fmt: skip

    def _score(
        self, attack: str, method: str, seed: int, release: str, clients: list[int], held: Callable[[int], Tensor],
        found: list[Tensor],
    ) -> Iterator[Row]:  # fmt: skip
        truths = [self.cohort[client].truth for client in clients]
        numbers = render_attack(found, truths)
        raw = [psnr(image, truth) for image, truth in zip(found, truths, strict=True)]
        strangers = [self.others[index % len(self.others)] for index in range(len(found))]
        shown = found
        if attack == "render":  # the same upload, seen as the stranger looks
            model = self.received(method, seed).model
            shown = [
                self.fields.render((model + held(client))[None], [other])[0]
                for client, other in zip(clients, strangers, strict=True)
            ]
        chance = [_best(image, other.truth) for image, other in zip(shown, strangers, strict=True)]
        base = {"attack": attack, "method": method, "release": release, "n": len(found)}
        floor = _mean(numbers["psnr_floor"])
        yield base | {
            "metric": "psnr",
            "value": _mean(raw),
            "floor": floor,
            "chance": _mean([c[2] for c in chance]),
        }
        yield base | {
            "metric": "psnr_best",
            "value": max(raw),
            "floor": floor,
            "chance": max(c[2] for c in chance),
        }
        yield base | {
            "metric": "psnr_over_flat_colour", "value": _mean(_over_floor(numbers)), "floor": 0.0,
            "chance": _mean([c[0] for c in chance]),
        }  # fmt: skip
        yield base | {
            "metric": "correlation", "value": _mean(numbers["correlation_p"]), "floor": 0.0,
            "chance": _mean([c[1] for c in chance]),
        }  # fmt: skip

    def _show(self, slug: str, release: str, clients: list[int], found: list[Tensor]) -> None:
        for client, image in zip(clients, found, strict=False):
            truth = self.cohort[client].truth
            self.folder.save_picture(f"private-{client:04d}", contact_sheet(truth))
            shown = contact_sheet(best_affine(image, truth).float())
            self.folder.save_picture(f"attack-{slug}-{release.split(' ')[0]}-{client:04d}", shown)

    def membership(self, method: str, seed: int) -> Iterator[Row]:
        """Loss of the shared model on members' pictures and on strangers', by chance that of the
        model before training.

        Two sets of pictures differ by themselves: what the start already tells apart, training did
        not give away.
        """
        total = self.experiment.clients.total
        members, others = (
            [self.task.client_data(client) for client in range(total)],
            self.fields.non_members(total),
        )

        def losses(model: Tensor, cohort: Sequence[Any]) -> np.ndarray:
            images = self.fields.render(model.expand(len(cohort), -1), cohort)
            return np.array(
                [
                    float((image - data.truth).square().mean())
                    for image, data in zip(images, cohort, strict=True)
                ]
            )

        after, before = (
            (losses(model, members), losses(model, others))
            for model in (
                self.judged(method, seed),
                self.task.init(seed).to(self.model(method, seed)),
            )
        )
        base = {
            "attack": "membership",
            "method": method,
            "release": self.experiment.release,
            "n": total + len(others),
        }
        yield base | {"metric": "auc", "value": auc(*after), "floor": 0.5, "chance": auc(*before)}
        yield base | {
            "metric": f"tpr@fpr={FALSE_POSITIVES:g}", "value": power_at(*after, FALSE_POSITIVES),
            "floor": FALSE_POSITIVES, "chance": power_at(*before, FALSE_POSITIVES),
        }  # fmt: skip


def _best(image: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """What the same recovery scores against a stranger's picture: dB over the flat colour,
    correlation, PSNR."""
    if image.shape != truth.shape and image.dim() == 3:
        truth = (
            torch.nn.functional.interpolate(truth.movedim(-1, 0)[None], image.shape[:2])
            .squeeze(0)
            .movedim(0, -1)
        )
    numbers = render_attack([image], [truth])
    return _over_floor(numbers)[0], correlation(image, truth), psnr(image, truth)


def _over_floor(numbers: dict[str, list[float]]) -> list[float]:
    """PSNR after the best affine fit, over that of the best constant colour (dB): what the shape
    alone tells."""
    return [
        value - floor
        for value, floor in zip(numbers["psnr_p_affine"], numbers["psnr_floor"], strict=True)
    ]


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return sum(known) / len(known) if len(known) == len(values) and known else None


def attack_fields(
    folder: RunFolder,
    names: list[str],
    clients: int,
    methods: list[str],
    tell: Callable[[str], None],
) -> list[Row]:
    """The named attacks on ``methods`` at the first seed."""
    attacker = FieldAttacks(folder, clients)
    seed, rows = attacker.experiment.seed_list[0], []
    for method in methods:
        tell(f"attacking {method}: {len(attacker.clients)} clients")
        if set(names) & {rung.split(",")[0] for rung in LADDER}:
            for row in attacker.pictures(method, seed, names, keep=4):
                if row["metric"] == "psnr":
                    shown = "not computed" if row["value"] is None else f"{row['value']:.1f} dB"
                    tell(f"{row['attack']} on {row['release']}: {shown}")
                rows.append(row)
        if "membership" in names:
            rows += attacker.membership(method, seed)
        if "transcript" in names:
            rows += attacker.transcript(method, seed)
    return rows
