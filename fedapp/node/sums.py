"""A node's half of rounds of sums: train and answer with a sum, in the clear or under secure
aggregation."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import RecordDict

from fedapp.identity import fingerprint
from fedapp.node.device import Device, offered_folder, pieces_of
from fedapp.node.orders import pinned, refuse_order
from privacy.secagg.identity import KEY_FILE, POLICY_FILE, Policy, load_identity
from privacy.secagg.messages import RefusalError
from strategies.failures import describe
from tasks import TASKS
from tasks.errors import InputError

if TYPE_CHECKING:
    import torch

    from fedapp.config.experiment import Experiment
    from privacy.exact import Bounds
    from privacy.flower.node import SecureNode
    from privacy.node_secret import NodeSecret
    from privacy.releases.lattice import LatticeRelease
    from strategies.cohort import CohortResult, CohortTrainer
    from strategies.flower.wire import Order
    from strategies.types import Broadcast, Public

log = logging.getLogger("flwr")
SHAPES_FILE = "shapes.json"  # vector sizes of runs this node has trained in, by configuration


class SumsNode:
    """Answers to the legs of rounds of sums (a :class:`strategies.flower.workflow.NodeHalf`)."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def leg(self, name: str, content: RecordDict) -> RecordDict:
        """``train``, or a leg of a secure sum: ``advertise``, ``share``, ``masked``, ``confirm``,
        ``unmask``."""
        self._refuse_other_workflows()
        if name == "train":
            return self._train_round(content)
        node = self._secure_node(content)
        if name == "masked":
            order, received = self._order(content)
            release = self.device.release_type
            return node.masked(content, order, release, lambda: self._train(order, received))
        if name == "share":
            return node.share(content, self.device.experiment.release, self._release(content))
        legs = {"advertise": node.advertise, "confirm": node.confirm, "unmask": node.unmask}
        return legs[name](content)

    def _refuse_other_workflows(self) -> None:
        """Another workflow's check of what composes stands in for ours: none of it may reach these
        legs. (A task of ours has no workflow of its own, and is not imported to know that.)"""
        experiment = self.device.experiment
        workflow = experiment.workflow
        if not workflow and experiment.task not in TASKS:
            workflow = experiment.workflow_name
        if workflow not in ("", "sums"):
            raise RefusalError(f"workflow {workflow} has legs of its own")

    # ------------------------------------------------------------------ training
    def _train_round(self, content: RecordDict) -> RecordDict:
        """Train the ordered clients on this node's data and answer with their sum."""
        from strategies.flower.wire import pack_answer, pack_sum

        device = self.device
        release = device.release_type
        if release.masked:
            raise RefusalError(f"release {device.experiment.release} never leaves a node unmasked")
        device.obey_policy()
        order, received = self._order(content)  # what is refused costs nothing
        if release.placement != "none":
            node = self._secure_node(content, "order")
            node.see_ledger(content, device.pieces.noise_multiplier)
        result = self._train(order, received)
        if not release.private:
            return pack_answer(result, order)
        assert result.payload is not None, "a private release closes with a vector"
        return pack_sum(result.payload.vector, order)

    def _order(self, content: RecordDict) -> tuple[Order, Broadcast]:
        """The order of a message and the model to train from, if this node follows it."""
        from strategies.flower.wire import unpack_order

        order, received = unpack_order(content)
        refuse_order(self.device, order)
        self._be_missing(order.assignment.round)
        return order, received

    def _be_missing(self, number: int) -> None:
        """Raise :class:`RefusalError` where a simulation wants this node to be missing."""
        runtime = self.device.experiment.runtime
        if not runtime.miss_every:
            return
        if not self.device.simulated:
            raise RefusalError("runtime.miss-every is for simulations")
        turn, rest = divmod(number, runtime.miss_every)
        if not rest and self.device.partition == (turn - 1) % runtime.nodes:
            raise RefusalError("this node is missing: runtime.miss-every says so")

    def _train(self, order: Order, received: Broadcast) -> CohortResult:
        from strategies.types import Broadcast

        device = self.device
        device.obey_tasks()
        state_dir = device.state_dir(order.state_dir, order.run)
        config = json.dumps(pinned(device, order), sort_keys=True)
        clips = _clips_of(device.experiment, order.assignment.public)
        trainer, place = _trainer(
            config,
            order.method,
            order.assignment.seed,
            state_dir,
            order.inspect,
            device.simulated,
            self._secret(order),
            clips,
        )
        self._refuse_other_shapes(trainer, received)
        self._refuse_biting_clips(trainer, received, clips)
        extra = {name: tensor.to(place) for name, tensor in received.extra.items()}
        received = Broadcast(received.model.to(place), extra, received.round)
        pictures = order.pictures and device.simulated
        result = trainer.run(received, order.assignment, pictures=pictures)
        if trainer.release.private:
            # stays here: who failed, and why, is the client's own affair
            for client, reason in result.failures.items():
                log.warning("client %d abstains: %s", client, reason)
        return result

    def _refuse_biting_clips(
        self, trainer: CohortTrainer, received: Broadcast, clips: Bounds | None
    ) -> None:
        """In the provable mode, raise :class:`RefusalError` for a model at which a clip could act,
        before any data are read."""
        if clips is None:
            return
        from privacy.exact import ExactStep, objection

        assert isinstance(trainer.learner, ExactStep), "what steps is what was asked about"
        if reason := objection(trainer.task, received.model, trainer.learner, clips):
            raise RefusalError(reason)

    def _refuse_other_shapes(self, trainer: CohortTrainer, received: Broadcast) -> None:
        """Raise :class:`RefusalError` for a model that is not one vector of the task's numbers (of
        a matrix every client of a chunk would get a row of its own), or beside which something
        else is sent than the rule sends."""
        import torch

        wanted = (trainer.task.layout.size,)
        blank = torch.zeros(wanted)
        rule = trainer.rule
        extra = rule.broadcast(blank, rule.init(blank), received.round).extra
        told = [received.model, *received.extra.values()]
        if set(received.extra) != set(extra) or any(
            tuple(tensor.shape) != wanted or tensor.dtype != torch.float32 for tensor in told
        ):
            raise RefusalError(f"not a model of {wanted[0]} numbers as rule and task have it")

    def _secret(self, order: Order) -> NodeSecret | None:
        """Root of this node's draws: outside of ``plain`` its identity, so that no server
        can make them again; another run has others."""
        from privacy.node_secret import NodeSecret

        device = self.device
        if not device.release_type.private:
            return None
        identity = load_identity(device.key_folder(order.state_dir) / KEY_FILE)
        return NodeSecret.of(identity).apart("draws of sums", order.run)

    # ------------------------------------------------------------------ secure sums
    def _secure_node(self, content: RecordDict, offer: str = "at") -> SecureNode:
        """This node's keys, limits and protocol state. Simulated nodes find their folder in record
        ``offer`` of a message."""
        from privacy.flower.node import SecureNode

        device = self.device
        experiment = device.experiment
        folder = device.key_folder(offered_folder(content, offer))
        policy = device.policy
        if device.simulated:  # its folder is the server's to say, so its limits lie there too
            policy = Policy.read(folder / POLICY_FILE, needed=False)
        return SecureNode(
            folder,
            device.partition,
            device.roster_file(offered_folder(content, offer)),
            replace(policy, colluding=max(policy.colluding, experiment.privacy.colluding)),
            experiment.digest,
            device.hosts,
            _about(experiment),
        )

    def _release(self, content: RecordDict) -> LatticeRelease:
        """The release for what this run's rule contributes.

        How many numbers that is follows from task and rule, which need torch: looked up once per
        configuration and remembered on the node's own disk.
        """
        from fedapp.config.pieces import Pieces
        from fedapp.node.shapes import Shapes

        device = self.device
        if not device.release_type.masked:
            raise RefusalError(f"release {device.experiment.release} has no secure sum")
        folder = device.key_folder(offered_folder(content, "at"))
        shapes = Shapes(folder / SHAPES_FILE)
        # of this configuration as this code and its plug-ins read it
        key = sha256(f"{device.frozen} {fingerprint(device.config)}".encode()).hexdigest()
        known = shapes.get(key)
        if known is None:
            pieces = device.pieces
            size = pieces.rule.size(pieces.task.layout.size)
            known = shapes.put(key, size, pieces.rule.scalars)
        make = device.release_type
        privacy = Pieces(device.experiment).privacy
        return make(privacy, known.size, known.scalars)  # type: ignore[call-arg,return-value]


def _about(experiment: Experiment) -> str:
    """What exact sums in the provable mode are about; empty in others."""
    data = experiment.data
    if not experiment.privacy.exact:
        return ""
    return f"task {experiment.task}, pictures of {data.size}, {data.channels} channels"


def _clips_of(experiment: Experiment, public: Public) -> Bounds | None:
    """Clips in force on a client of a sum in the provable mode; ``None`` in any other."""
    if not experiment.privacy.exact:
        return None
    from privacy.exact import Bounds

    return Bounds.of_sum(experiment.learner.outer_clip, public)


@lru_cache(maxsize=64)
def _trainer(
    config: str,
    method: str,
    seed: int,
    state_dir: str,
    inspect: bool,
    simulated: bool,
    secret: NodeSecret | None,
    clips: Bounds | None,
) -> tuple[CohortTrainer, torch.device]:
    """The trainer of one method at one seed, kept from round to round (of sums of one size)."""
    import torch

    from fedapp.store.client_state import ClientState
    from privacy.attacks.render import render_attack
    from strategies.cohort import CohortTrainer
    from strategies.memory import remembered

    pieces = pieces_of(config)
    runtime = pieces.experiment.runtime
    torch.set_num_threads(runtime.threads)
    torch.set_float32_matmul_precision(runtime.matmul_precision)
    learner = pieces.learner(method)
    memory = remembered(pieces.task, learner, pieces.rule)
    if memory and not state_dir:
        raise InputError(
            "state-dir",
            "",
            f"clients keep their {' and '.join(memory)} on the node",
            'start it with --node-config "state-dir=…"',
        )
    release = pieces.release_of(pieces.rule.size(pieces.task.layout.size))
    if release.provable:
        from privacy.exact import ExactStep

        assert clips is not None, "privacy.exact makes releases provable"
        learner = ExactStep(learner.outer_rate, clips)
    trainer = CohortTrainer(
        pieces.task,
        learner,
        pieces.rule,
        release,
        pieces.experiment.learner,
        store=ClientState(Path(state_dir) / f"{method}-{seed}") if memory else None,
        secret=secret,
        inspect=render_attack if inspect else None,
        chunk=runtime.chunk,
        # a private release sends no failures at all: its node may say all in its own log
        tell=describe if simulated or release.private else Device.tell_little,
    )
    return trainer, pieces.device
