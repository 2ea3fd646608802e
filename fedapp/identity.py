"""Is the other side running the same code? A fingerprint of our source travels with every message.

In simulation Ray workers may import ``tasks``, ``sim``, ... from the directory in which the SuperLink was started
rather than from the submitted bundle; in a deployment versions can differ. Either would silently mix code.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from fedapp import PACKAGES, ROOT
from tasks.errors import FedappError


class ForeignCodeError(FedappError):
    """This process runs other code than the server."""


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """SHA-256 over the paths and contents of all our Python files, as imported by this process."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
            digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def refuse_foreign(server_fingerprint: str, server_root: str) -> None:
    """Raise unless this process runs the server's code."""
    if server_fingerprint != fingerprint():
        raise ForeignCodeError(
            f"the ClientApp runs code from {ROOT}, the ServerApp from {server_root}, and they differ. "
            "Start the local SuperLink from an empty directory (`fedapp run` does), or install the same version."
        )
