"""Pinned identities of all participants, and a node's own limits.

Without pinned identities the server is the one who says whose key is whose, and could sit in every
pair. The roster is a file that every node and the server hold; a node's own limits
(:class:`Policy`) no server can change.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.secagg.graph import (
    COMPLETE_UP_TO,
    default_threshold,
    dropouts,
    harary,
    lowest_threshold,
)
from privacy.secagg.primitives import canonical, public_bytes
from tasks.atomic import PRIVATE, make_folder, sync_folder, write_json
from tasks.errors import InputError

KEY_FILE = "identity.key"
ROSTER_FILE = "roster.json"
POLICY_FILE = "policy.json"
LEAST_HONEST = 3  # members of an exact sum that do not work with the server


@dataclass(frozen=True)
class Roster:
    """Ed25519 public keys: of each member by number, and of the server (which signs the budget
    ledger)."""

    members: dict[int, bytes]
    server: bytes

    @classmethod
    def read(cls, file: Path) -> Roster:
        """Raises :class:`InputError` if the file is missing or is not a roster."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            members = {
                int(number): bytes.fromhex(key) for number, key in content["members"].items()
            }
            roster = cls(members, bytes.fromhex(content["server"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "privacy.roster",
                str(file),
                f"not a roster ({type(error).__name__}: {error})",
                "write it with `fedapp enrol` and give every node and the server the same file",
            ) from error
        keys = list(members.values())
        if len(set(keys)) < len(keys) or any(len(key) != 32 for key in keys):
            raise InputError(
                "privacy.roster", str(file), "a key is repeated or not 32 bytes", "one key a member"
            )
        return roster

    def write(self, file: Path) -> None:
        members = {str(number): key.hex() for number, key in sorted(self.members.items())}
        write_json(file, {"members": members, "server": self.server.hex()})


def load_identity(file: Path, create: bool = False) -> Ed25519PrivateKey:
    """The private key in ``file`` (32 raw bytes, mode 600); with ``create`` a new one where there
    is none."""
    if create and not file.exists():
        make_folder(file.parent, PRIVATE)
        key = Ed25519PrivateKey.generate()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(file, flags, PRIVATE), "wb") as handle:
            handle.write(key.private_bytes_raw())
            handle.flush()
            os.fsync(handle.fileno())
        sync_folder(file.parent)
        return key
    try:
        return Ed25519PrivateKey.from_private_bytes(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            "identity", str(file), f"no private key ({error})", "make one with `fedapp enrol`"
        ) from error


def enrol_simulated(folder: Path, nodes: list[int], server: bytes) -> Roster:
    """Keys for nodes that only exist in a simulation, all on this machine. A real node makes its
    own."""
    keys = {
        number: load_identity(folder / f"node-{number:04d}" / KEY_FILE, create=True)
        for number in nodes
    }
    roster = Roster({number: public_bytes(key) for number, key in keys.items()}, server)
    roster.write(folder / ROSTER_FILE)
    return roster


def greeting_text(challenge: str, node_id: int, partition: int, hosts: str) -> bytes:
    """The text that a node signs when it is greeted."""
    return canonical(["fedapp greeting 1", challenge, node_id, partition, hosts])


NUMBERS: dict[str, Any] = {
    "min_nodes": int,
    "colluding": int,
    "max_length": int,
    "complete_up_to": int,
    "min_noise": (int, float),
    "epsilon_max": (int, float),
    "looks": int,
    "pixels": int,
    "delta": (int, float),
}


LISTS = ("releases", "designs", "plugins", "tasks")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table, if no key is said twice: of two limits the later one would silently hold."""
    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{repeated[0]} is said twice")
    return dict(pairs)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _names(values: object) -> tuple[str, ...]:
    """A list of texts (a single text would be taken letter by letter)."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"expected a list of texts, got {values!r}")
    return tuple(values)


HEADS = ("head", "head-template")


@dataclass(frozen=True)
class Policy:
    """A node's own limits, which no server can change.

    Attributes:
        min_nodes: vectors that must be in a sum.
        colluding: nodes assumed hostile.
        max_length: numbers in a vector, at most.
        complete_up_to: so many nodes all mask with each other.
        releases: this node takes part in; empty: whatever a run says.
        min_noise: noise multiplier that nodes themselves add together (a server's promise to add
            some does not count).
        epsilon_max: at ``delta``, what the rounds this node takes part in may cost, by its own
            count (0: no limit): a server may keep more than one ledger, but no node is charged more
            than it allows. Rounds without noise cost infinitely much.
        delta: of that epsilon.
        designs: of split learning that this node sends something in (those that send nothing are
            always allowed); pictures that were trained in another one have no guarantee left.
        operator: what frontal pictures go through before they are uploaded, exactly as written
            (``head.operator``): a server names another one for nothing.
        pixels: side of uploaded pictures, at most: how well people are recognised depends on it.
        tasks: what the data here may be used for; empty: anything, but where uploads of heads are
            among ``designs``, heads alone (another task would read the same pictures without an
            operator).
        looks: held-out views whose scores may be told, over all runs of this node's life.
        exact: of rounds of sums, without enough noise of the nodes' own (``min_noise``, or 1 where
            that is 0) and an ``epsilon_max``, this node takes part in the provable mode alone
            (:mod:`privacy.exact`). (Split learning and uploads are by ``designs``.)
        plugins: ``"package.module:Name"`` references that a run may have this node import, beside
            what fedapp brings and what is installed with entry points.
    """

    min_nodes: int = 5
    colluding: int = 0
    max_length: int = 200_000_000
    complete_up_to: int = COMPLETE_UP_TO
    releases: tuple[str, ...] = ()
    min_noise: float = 0.0
    epsilon_max: float = 0.0
    delta: float = 1e-5
    designs: tuple[str, ...] = ("sealed",)
    operator: str = "modulus=sobel"
    pixels: int = 64
    tasks: tuple[str, ...] = ()
    looks: int = 0
    exact: bool = False
    plugins: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: Path, needed: bool = True) -> Policy:
        """The limits in a JSON file beside the identity.

        Where there is none, a real node stops (``needed``): under a misspelt name its limits would
        silently be gone. Simulated ones take the defaults.
        """
        if not needed and not file.exists():
            return cls()
        try:
            given = json.loads(
                file.read_text(encoding="utf-8"),
                object_pairs_hook=_without_repeats,
                parse_constant=_no_number,
            )
            lists = {name: _names(given[name]) for name in LISTS if name in given}
            policy = cls(**{**given, **lists})
            limits = asdict(policy)
            for name, kind in NUMBERS.items():
                value = limits[name]
                if isinstance(value, bool) or not isinstance(value, kind) or not value >= 0:
                    raise ValueError(f"{name} = {value!r}")
            if not isinstance(policy.operator, str):
                raise ValueError(f"operator = {policy.operator!r}")
            if not isinstance(policy.exact, bool):
                raise ValueError(f"exact = {policy.exact!r}")
            return policy
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                "policy",
                str(file),
                f"not a policy ({error})",
                "`fedapp enrol` writes one; docs/privacy.md says what its keys mean",
            ) from error

    def write(self, file: Path, new: bool = False) -> None:
        """Write all limits down, so that their owner sees what can be set; ``new``:
        ``FileExistsError`` where some are."""
        write_json(file, asdict(self), PRIVATE, new)

    def forbids_task(self, task: str) -> str:
        """Reason not to use this node's data for a task; empty if there is none."""
        allowed = self.tasks or (HEADS if {"obscured", "full-rgb"} & set(self.designs) else ())
        if allowed and task not in allowed:
            return (
                f"task {task} is not among those the data here are for: {', '.join(allowed)} "
                "(tasks in its policy)"
            )
        return ""

    def forbids(self, release: str, own_noise: float, noised: bool, provable: bool = False) -> str:
        """Reason to take no part in a run; empty if there is none.

        Args:
            release: its name.
            own_noise: multiplier of the noise that nodes add.
            noised: anybody adds noise, so that rounds cost a finite epsilon.
            provable: it is in the provable mode.
        """
        if self.releases and release not in self.releases:
            allowed = ", ".join(self.releases)
            return f"release {release} is not among those this node takes part in: {allowed}"
        enough = own_noise >= (self.min_noise or 1.0) and self.epsilon_max > 0
        if self.exact and not provable and not enough:
            return (
                f"release {release} with noise of multiplier {own_noise:g} from the nodes; without "
                f"{self.min_noise or 1.0:g}, and a limit of its own to what that costs "
                "(epsilon_max), this node takes part in the provable mode alone"
            )
        if self.epsilon_max and not noised:
            return (
                f"release {release} adds no noise, so its rounds cost infinitely much; this node "
                f"allows an epsilon of {self.epsilon_max:g}"
            )
        if not own_noise >= self.min_noise:  # NaN is no noise
            return (
                f"nodes add noise of multiplier {own_noise:g}, "
                f"this node asks for {self.min_noise:g}"
            )
        return ""

    def objection(self, nodes: int, threshold: int, degree: int, length: int) -> str:
        """Reason to refuse the terms of a sum; empty if there is none.

        Args:
            nodes: members of the sum.
            threshold: holders of shares that restore a secret, the owner among them.
            degree: neighbours of each member; ``nodes - 1`` is the complete graph.
            length: numbers in a vector, check block included.
        """
        holders = degree + 1
        if degree < nodes - 1:
            return self._objection_to_graph(nodes, threshold, degree, length)
        if nodes < self.min_nodes:
            return f"{nodes} nodes, this node takes part with {self.min_nodes} or more"
        if threshold > holders:
            return f"threshold {threshold} of {holders} holders cannot be met"
        # Each honest holder gives one kind of share, a hostile one both: t of each kind must not
        # be there
        if 2 * threshold <= holders + self.colluding:
            return (
                f"threshold {threshold} of {holders} holders lets a server get both secrets of "
                "a node"
            )
        least = default_threshold(nodes)
        if threshold < least:
            return f"threshold {threshold} of {nodes} nodes, this node asks for {least}"
        return self._objection_to_length(length)

    def _objection_to_graph(self, nodes: int, threshold: int, degree: int, length: int) -> str:
        """The same for a k-regular graph: k is this node's own, or larger, and t what that k needs,
        or larger."""
        if nodes <= self.complete_up_to:
            return (
                f"{degree} neighbours among {nodes} nodes, up to {self.complete_up_to} everybody "
                "masks with everybody"
            )
        hostile = max(self.colluding, 1)
        try:
            own_degree, _ = harary(nodes, hostile, dropouts(nodes))
        except ValueError as error:
            return str(error)
        least = max(
            lowest_threshold(nodes, degree, hostile), (degree + 1 + self.colluding) // 2 + 1
        )
        if degree < own_degree or not least <= threshold <= degree + 1:
            return (
                f"{degree} neighbours and threshold {threshold}, this node asks for {own_degree} "
                f"neighbours and, among {degree}, for a threshold of {least}"
            )
        return self._objection_to_length(length)

    def _objection_to_length(self, length: int) -> str:
        return "" if 0 < length <= self.max_length else f"a vector of {length} numbers"
