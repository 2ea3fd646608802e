"""A SuperNode that runs no code but what is installed on its device.

Flower's SuperNode runs the bundle its SuperLink sends. Its ``--trusted-entities`` asks for
signatures that only bundles from Flower's Hub carry: with it one submitted from a folder is
refused, without it whatever the server likes is run. Here every bundle is compared with the code
installed on this device, and one of the device's own takes its place (:mod:`sim.bundle`).

Run as ``python -m sim.pinned CODE ...``: ``CODE`` is :meth:`sim.bundle.Code.as_text`, the rest goes
to ``flower-supernode``.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil

from sim.bundle import Code, ForeignBundleError, is_setting

AGENT = "flwr-agentapp"  # Flower's other kind of task, which this device has no part in
APP = "flwr-clientapp"  # Flower's process for one message
PATIENCE = 120.0  # seconds without one, while an answer is waited for
WATCH = 2.0
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
    from flwr.common.serde import user_config_to_proto

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
        fused = get_fused_config_from_fab(own, run)
        if wrong := [key for key, value in fused.items() if not is_setting(key, value)]:
            raise ForeignBundleError(f"the run sets {wrong[0]!r} to {fused[wrong[0]]!r}")
        user_config_to_proto(fused)  # as Flower hands it to the app
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
    from flwr.supercore.fab import Fab
    from flwr.supercore.run import Run

    def pull_of_this_code(*, get_run: Any, get_fab: Any, trusted_entities: Any, **rest: Any) -> Any:
        runs: dict[int, Any] = {}

        def known(run_id: int) -> Any:
            if run_id not in runs:
                try:
                    runs[run_id] = get_run(run_id)
                except Exception as error:  # words that Flower cannot read
                    log.error("what the server says of run %d: %r", run_id, error)
                    runs[run_id] = Run.create_empty(run_id)
            return runs[run_id]

        def checked(fab_hash: str, run_id: int) -> Any:
            run = known(run_id)
            try:
                own = own_bundle(code, run, run_id, get_fab(fab_hash, run_id))
            except Exception as error:
                log.error("run %d is not taken part in: %s", run_id, error)
                return Fab(fab_hash, b"", {"valid_license": OTHER})
            run.fab_hash = hashlib.sha256(own).hexdigest()
            return Fab(run.fab_hash, own, {"valid_license": INSTALLED})

        return pull(get_run=known, get_fab=checked, trusted_entities={"installed": ""}, **rest)

    return pull_of_this_code


def watched(push: Callable[..., Any], patience: float = PATIENCE) -> Callable[..., Any]:
    """Flower's function that waits for the app's answer and sends it: the same, but that the device
    ends where nobody is left to give one. Flower itself waits for ever, and hears nothing more."""

    def push_or_end(**given: Any) -> Any:
        done = threading.Event()

        def watch() -> None:
            alone = time.monotonic()
            while not done.wait(WATCH):
                if _answering():
                    alone = time.monotonic()
                elif time.monotonic() - alone > patience:
                    log.error("the device ends: its app ended without an answer (start it again)")
                    end(1)

        threading.Thread(target=watch, daemon=True).start()
        try:
            return push(**given)
        finally:
            done.set()

    return push_or_end


def _answering() -> bool:
    """Whether a process of Flower's computes an answer."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE and APP in " ".join(child.cmdline()):
                return True
    return False


def end(status: int) -> NoReturn:
    """End this process and its helpers, whatever else happens meanwhile: Flower's threads outlive
    its main one, and a device that hears no messages would stay, with its lock."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            with contextlib.suppress(ValueError):  # only the main thread may
                signal.signal(number, signal.SIG_IGN)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(status)


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
    node._push_messages = watched(node._push_messages)
    node._verify_fab = verified
    sys.argv = ["flower-supernode", *arguments[1:]]
    status: Any = 1
    try:
        try:
            flower_supernode()
            status = 0
        except SystemExit as ending:
            status = ending.code or 0
        except KeyboardInterrupt:
            status = 130
        except BaseException as error:
            with contextlib.suppress(OSError, ValueError):  # nobody may read it any more
                traceback.print_exc()
                log.error("the device ends: %s (start it again)", error)
    finally:
        end(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
