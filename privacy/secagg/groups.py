"""Fixed groups: sums without noise are always of the same members.

Two exact sums that differ by one member differ by what that member added: over rounds in which
members change, a server that only remembers its sums takes them apart into everybody's picture. So
a node enters exact sums with the same others only, all of them or none, in every run of its life;
and it answers a round once. *Securing Secure Aggregation: Mitigating Multi-Round Privacy Leakage in
Federated Learning*, J. So, R. E. Ali, B. Güler, J. Jiao, A. S. Avestimehr, AAAI 2023,
https://arxiv.org/abs/2106.03328, proposes whole groups for the same reason; there the server keeps
to them, here the nodes do.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from privacy.secagg.messages import RefusalError
from tasks.atomic import PRIVATE, make_folder, write_json

log = logging.getLogger("fedapp.groups")

FILE = "exact-sums.json"
Group = dict[str, list[int]]  # clients of each member, by its number


def group_of(clients: Mapping[str, Sequence[int]]) -> Group:
    """The members of a sum and whose data each adds, in one order."""
    return {member: sorted(clients[member]) for member in sorted(clients, key=int)}


def groups(members: Sequence[int], size: int) -> list[list[int]]:
    """Members cut into groups of ``size`` or more, as equal as can be; 0: all are one."""
    members = sorted(members)
    count = max(1, len(members) // size) if size else 1
    each, more = divmod(len(members), count)
    ends = [index * each + min(index, more) for index in range(count + 1)]
    return [members[start:end] for start, end in pairwise(ends)]


class GroupPin:
    """A node's memory of whom it enters exact sums with, and which rounds it has answered.

    Args:
        folder: the node's own. Whoever deletes ``FILE`` in it starts a new group: the difference
            between old sums and new ones is then for a server to see.
        keys: public keys of the roster's members: another device under a member's number is
            another member.
    """

    def __init__(self, folder: Path, keys: Mapping[int, bytes] | None = None) -> None:
        self.file = folder / FILE
        self.keys = keys or {}

    def objection(self, group: Group, about: str = "") -> str:
        """Reason not to enter a sum of this group; empty if there is none.

        Args:
            group: whose sum it is.
            about: what it is about, where that matters: then always the same.
        """
        said = self._read()
        pinned, known = said.get("group"), said.get("about", "")
        if about and known and about != known:
            return f"this node's sums without noise are about {known}, this one is about {about}"
        if pinned in (None, group):
            own, keys = self._keys(group), said.get("keys")
            if keys not in (None, own):
                return "a member of this node's sums without noise has another key than before"
            return ""
        gone, new = sorted(pinned.keys() - group.keys()), sorted(group.keys() - pinned.keys())
        what = f"without {', '.join(gone)}" if gone else f"with {', '.join(new)}" if new else ""
        return (
            "this node enters sums without noise with the same members and clients only; this one "
            f"is {'node ' + what if what else 'of other clients'}"
        )

    def enter(self, group: Group, arm: str, round: int, about: str = "") -> None:
        """Write down that a round is answered, before it is. Of two at once one is refused.

        Args:
            group: of the sum.
            arm: run, method and seed.
            round: of the arm; they only grow.
            about: as in :meth:`objection`.

        Raises:
            RefusalError: another group, or the round was answered before.
        """
        make_folder(self.file.parent, PRIVATE)
        with self._locked():
            if objection := self.objection(group, about):
                raise RefusalError(objection)
            said = self._read()
            rounds = said.get("rounds", {})
            if rounds.get(arm, 0) >= round:
                raise RefusalError(
                    f"round {round} without noise was answered before; this node answers it once"
                )
            said |= {"group": group, "about": about or said.get("about", "")}
            said["keys"] = self._keys(group)
            write_json(self.file, {**said, "rounds": {**rounds, arm: round}}, PRIVATE)

    def same_pictures(self, digests: Mapping[int, str]) -> None:
        """Hold the pictures of this node's clients to those that its first provable sum was of: a
        sum of old pictures and one of new ones differ by the member that changed.

        Args:
            digests: of what each client adds, by client.

        Raises:
            RefusalError: some client's picture is another one.
        """
        with self._locked():
            said = self._read()
            known = said.get("pictures", {})
            told = {str(client): digest for client, digest in digests.items()}
            if changed := [int(c) for c in told if known.get(c, told[c]) != told[c]]:
                log.warning("the pictures of clients %s are not those of earlier sums", changed)
                raise RefusalError(  # whose is for the node's own log
                    "the pictures here are not those that this node's provable sums are of: the "
                    "difference of two sums would be of those that changed"
                )
            write_json(self.file, {**said, "pictures": {**known, **told}}, PRIVATE)

    def _keys(self, group: Group) -> str:
        """Digest of the members' keys."""
        named = [f"{member} {self.keys.get(int(member), b'').hex()}" for member in group]
        return sha256("\n".join(named).encode()).hexdigest()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self) -> dict[str, Any]:
        try:
            said: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return said
