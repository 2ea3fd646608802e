"""A SuperNode that runs no code but what is installed on its device.

Flower's SuperNode runs the bundle its SuperLink sends. Its ``--trusted-entities`` asks for
signatures that only bundles from Flower's Hub carry: with it one submitted from a folder is
refused, without it whatever the server likes is run. Here every bundle is compared with the code
installed on this device, and one of the device's own takes its place (:mod:`sim.bundle`).

Run as ``python -m sim.pinned CODE ...``: ``CODE`` is :meth:`sim.bundle.Code.as_text`, the rest goes
to ``flower-supernode``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from sim.bundle import Code, ForeignBundleError

AGENT = "flwr-agentapp"  # Flower's other kind of task, which this device has no part in
INSTALLED, OTHER = "the code installed here", "other code"  # never what a server says
log = logging.getLogger("flwr")


def own_bundle(code: Code, run: Any, run_id: int, fab: Any) -> bytes:
    """The device's own bundle for Flower's ``run``, installed; raises :class:`ForeignBundleError`
    unless the run starts this code.

    Flower looks for what it installed under ``fab_id``, ``fab_version`` and ``fab_hash`` of the
    run, which the server chooses freely (``..`` included), and falls over settings that do not go
    together.
    """
    from flwr.common.config import get_fused_config_from_fab, get_project_dir

    try:
        if run.run_id != run_id:
            raise ForeignBundleError(f"run {run.run_id} was told where {run_id} was asked for")
        if {run.fab_hash, fab.hash_str} != {hashlib.sha256(fab.content).hexdigest()}:
            raise ForeignBundleError("the bundle has another hash than its run says")
        if (run.fab_id, run.fab_version) != (code.app, code.version):
            raise ForeignBundleError(
                f"a run of {run.fab_id!r} {run.fab_version!r}, installed here is {code.app} "
                f"{code.version}"
            )
        if run.primary_task_type == AGENT:
            raise ForeignBundleError("a run of an agent")
        own = code.bundle(code.settings_of(fab.content))
        get_fused_config_from_fab(own, run)
        digest = hashlib.sha256(own).hexdigest()
        code.install(get_project_dir(code.app, code.version, digest))
        return own
    except ForeignBundleError:
        raise
    except Exception as error:  # a server's words must not end the device
        raise ForeignBundleError(f"the run cannot be read: {error!r}") from error


def guarded(pull: Callable[..., Any], code: Code) -> Callable[..., Any]:
    """Flower's function that takes a message in, which fetches and stores the bundle of a new run:
    the same, for runs of this code alone. Others' messages are answered with Flower's own error for
    bundles without a trusted signature."""

    def pull_of_this_code(*, get_run: Any, get_fab: Any, trusted_entities: Any, **rest: Any) -> Any:
        runs: dict[int, Any] = {}

        def known(run_id: int) -> Any:
            if run_id not in runs:
                runs[run_id] = get_run(run_id)
            return runs[run_id]

        def checked(fab_hash: str, run_id: int) -> Any:
            fab, run = get_fab(fab_hash, run_id), known(run_id)
            try:
                fab.content = own_bundle(code, run, run_id, fab)
            except ForeignBundleError as error:
                log.error("run %d is not taken part in: %s", run_id, error)
                fab.content, fab.verifications = b"", {"valid_license": OTHER}
                return fab
            run.fab_hash = fab.hash_str = hashlib.sha256(fab.content).hexdigest()
            fab.verifications = {"valid_license": INSTALLED}
            return fab

        return pull(get_run=known, get_fab=checked, trusted_entities={"installed": ""}, **rest)

    return pull_of_this_code


def verified(fab: Any, trusted_entities: Any) -> bool:
    """In place of Flower's look at signatures: whether ``guarded`` put the device's own bundle
    there."""
    return bool(fab.verifications.get("valid_license") == INSTALLED)


def main(arguments: list[str]) -> None:
    """Start a SuperNode with the guard in place; the process ends with it."""
    code = Code.read(arguments[0])
    if not Path(__file__).resolve().is_relative_to(Path(code.root).resolve()):
        raise SystemExit(f"{__file__} does not lie in {code.root}")
    from flwr.supernode import start_client_internal as node
    from flwr.supernode.cli.flower_supernode import flower_supernode

    node._pull_and_store_message = guarded(node._pull_and_store_message, code)
    node._verify_fab = verified
    sys.argv = ["flower-supernode", *arguments[1:]]
    status: Any = 0
    try:
        flower_supernode()
    except SystemExit as ending:
        status = ending.code
    except KeyboardInterrupt:
        status = 130
    except BaseException as error:
        traceback.print_exc()
        log.error("the device ends: %s (start it again)", error)
        status = 1
    # Flower's threads outlive its main one: a device that hears no messages would stay, with its
    # lock, and nobody would start it again
    for child in psutil.Process().children(recursive=True):
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
