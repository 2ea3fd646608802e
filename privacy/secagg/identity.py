"""Pinned identities of all participants, and a node's own limits.

Without pinned identities the server is the one who says whose key is whose, and could sit in every
pair. The roster is a file that every node and the server hold; a node's own limits
(:class:`Policy`) no server can change.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.secagg.graph import (
    COMPLETE_UP_TO,
    default_threshold,
    dropouts,
    harary,
    lowest_threshold,
)
from privacy.secagg.primitives import public_bytes
from tasks.errors import InputError

KEY_FILE = "identity.key"
ROSTER_FILE = "roster.json"
POLICY_FILE = "policy.json"


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
            content = json.loads(file.read_text())
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
        file.parent.mkdir(parents=True, exist_ok=True)
        members = {str(number): key.hex() for number, key in sorted(self.members.items())}
        file.write_text(
            json.dumps({"members": members, "server": self.server.hex()}, indent=1) + "\n"
        )


def load_identity(file: Path, create: bool = False) -> Ed25519PrivateKey:
    """The private key in ``file`` (32 raw bytes, mode 600); with ``create`` a new one where there
    is none."""
    if create and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(key.private_bytes_raw())
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


@dataclass(frozen=True)
class Policy:
    """A node's own limits, which no server can change.

    ``min_nodes`` vectors must be in a sum; ``colluding`` nodes are assumed hostile; up to
    ``complete_up_to`` nodes everybody masks with everybody; ``releases`` this node takes part in
    (empty: whatever a run says); ``min_noise`` the noise multiplier that nodes themselves add
    together (a server's promise to add some does not count). ``epsilon_max`` at ``delta`` is what
    the noised rounds this node takes part in may cost, by its own count (0: no limit): a server may
    keep more than one ledger, but no node is charged more than it allows.
    """

    min_nodes: int = 5
    colluding: int = 0
    max_length: int = 200_000_000
    complete_up_to: int = COMPLETE_UP_TO
    releases: tuple[str, ...] = ()
    min_noise: float = 0.0
    epsilon_max: float = 0.0
    delta: float = 1e-5

    @classmethod
    def read(cls, file: Path) -> Policy:
        """The limits in a JSON file beside the identity; the defaults where there is none."""
        if not file.exists():
            return cls()
        try:
            given = json.loads(file.read_text())
            return cls(**{**given, "releases": tuple(given.get("releases", ()))})
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                "policy", str(file), f"not a policy ({error})", "see docs/privacy.md"
            ) from error

    def forbids(self, release: str, own_noise: float) -> str:
        """Reason to take no part in a run with this release, whose nodes add noise of this
        multiplier; empty if there is none."""
        if self.releases and release not in self.releases:
            allowed = ", ".join(self.releases)
            return f"release {release} is not among those this node takes part in: {allowed}"
        if own_noise < self.min_noise:
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
