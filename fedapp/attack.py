"""``fedapp attack``: what a server could do with a run's updates, under each release, in numbers and pictures.

The clients' updates are made again from the run's last shared model, one round further, as the run would have; then
the server's view is taken of them: each update (plain), their sum (secure aggregation), the noised sum.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import build_learner, build_release, build_rule, build_task, pick_device
from fedapp.store.checkpoint import list_checkpoints, load_checkpoint
from fedapp.store.client_state import ClientState
from fedapp.store.runfolder import RunFolder
from privacy.attacks.inversion import invert_update
from privacy.attacks.membership import auc, power_at
from privacy.attacks.rehearsal import rehearse
from privacy.attacks.render import best_affine, correlation, render_attack
from privacy.attacks.transcript import LARGEST_Z, score_transcript
from privacy.releases.central import CentralDP
from privacy.releases.lattice import LatticeRelease
from privacy.releases.plain import Plain
from strategies.cohort import Assignment, CohortTrainer
from strategies.types import Broadcast, Contribution
from tasks.errors import InputError

Row = dict[str, Any]
ATTACKS = ("render", "inversion", "membership", "transcript")
FALSE_POSITIVES = 0.1


class Attacker:
    """A run's last model, and what its clients would send next."""

    def __init__(self, folder: RunFolder, clients: int) -> None:
        self.folder, self.experiment = folder, Experiment.from_run_config(folder.config)
        experiment = self.experiment
        self.task = build_task(experiment)
        if not hasattr(self.task, "field"):
            raise InputError("task", experiment.task, "these attacks invert fields", "run them on a field task")
        files = list_checkpoints(folder.checkpoints)
        if not files:
            raise InputError("run", str(folder.path), "has no checkpoint yet", "attack it after its first round")
        self.checkpoint = load_checkpoint(files[-1], {})
        self.clients = list(range(min(clients, experiment.clients.total)))
        self.rule = build_rule(experiment)
        self.device = pick_device("cpu")

    def model(self, method: str, seed: int) -> Tensor:
        """The shared model at the last checkpoint."""
        return self.checkpoint.tensors[f"{method}-{seed}/model"]

    def updates(self, method: str, seed: int) -> Tensor:
        """``[C, P]``: what each client would send in the round after the checkpoint, without protection."""
        experiment, number = self.experiment, self.checkpoint.round + 1
        state = {
            name.rsplit("/", 1)[1]: tensor
            for name, tensor in self.checkpoint.tensors.items()
            if name.startswith(f"{method}-{seed}/state/")
        }
        received: Broadcast = self.rule.broadcast(self.model(method, seed), state, number)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = CohortTrainer(
                self.task, build_learner(experiment, method), self.rule, Plain(), experiment.learner,
                store=ClientState(Path(scratch)) if self.rule.memory else None,
            )  # fmt: skip
            rows = []
            for client in self.clients:
                result = trainer.run(received, Assignment(number, seed, (client,), (0,)))
                if result.payload is None:
                    raise InputError("run", str(self.folder.path), f"client {client}: {result.failures}", "see its log")
                rows.append(result.payload.vector / result.payload.weight)
        return torch.stack(rows)[:, : self.task.layout.size]

    def noised(self, updates: Tensor) -> tuple[str, Tensor]:
        """The mean update as a noised release gives it: the run's own, or central noise at the config's z and C."""
        name, own = self.experiment.release, build_release(self.experiment, updates.shape[1])
        release: LatticeRelease
        if isinstance(own, LatticeRelease) and own.noised:
            release = own
        else:
            release, name = CentralDP(self.experiment.privacy, updates.shape[1]), "central-dp"
        count = len(updates)
        public = release.open(count, count, 1, 1)
        contribution = Contribution(updates, torch.ones(count))
        closed = release.close(release.encode(contribution, public), public)
        assert closed is not None, "a private release closes with a vector"
        label = f"{name} (z = {release.multiplier:g}, C = {float(public['clip']):g})"
        return label, release.decode(closed, public).mean

    def views(self, method: str, seed: int) -> Iterator[tuple[str, Callable[[int], Tensor]]]:
        """``(release, client -> the update the server would hold)``."""
        updates = self.updates(method, seed)
        yield "plain", lambda client: updates[client]
        mean = updates.mean(0)
        yield "secagg", lambda _: mean
        label, noisy = self.noised(updates)
        yield label, lambda _: noisy

    # ------------------------------------------------------------------ attacks
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
            return self.task.render((model + update)[None], [data])[0]
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
            images = self.task.render(model.expand(len(cohort), -1), cohort)
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

    def transcript(self, method: str, seed: int) -> Iterator[Row]:
        """A secure sum of the clients' real updates, and what its messages show by themselves."""
        rows = [update.double().numpy() for update in self.updates(method, seed)]
        uploads, inputs = rehearse(np.stack(rows), self.experiment.privacy.clip_norm)
        score = score_transcript(uploads, inputs)
        base = {"attack": "transcript", "method": method, "release": "secagg", "n": len(rows), "floor": LARGEST_Z}
        yield base | {"metric": "upload_input_z", "value": score.input_z, "chance": _expected_largest(len(rows))}
        pairs = len(rows) * (len(rows) - 1) // 2
        yield base | {"metric": "upload_pair_z", "value": score.pair_z, "chance": _expected_largest(pairs)}
        yield base | {"metric": "byte_uniformity_p", "value": score.bytes_p, "floor": 1e-6, "chance": 0.5}


def _expected_largest(count: int) -> float:
    """Median of the largest of ``count`` absolute standard normals."""
    from scipy.stats import norm

    return float(norm.ppf((1 + 0.5 ** (1 / max(count, 1))) / 2))


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


def attack_run(folder: RunFolder, names: list[str], clients: int, tell: Callable[[str], None]) -> list[Row]:
    """Run the named attacks on every trained method of a run's first seed; pictures go into its folder."""
    attacker = Attacker(folder, clients)
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
