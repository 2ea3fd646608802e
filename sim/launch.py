"""Dependable ``flwr run`` on Ray: a SuperLink of our own, a neutral directory, an honest end.

What plain ``flwr run .`` leaves to the user (measured on flwr 1.41; its tests hold on 1.42 too) and
what is done about it here:

- the local SuperLink keeps the directory and environment of the first run for ever, and Ray workers
  import our generic package names from that directory: each run gets its own SuperLink, started in
  an empty directory with the right environment, on free loopback ports, and ended by its process id
  afterwards;
- every run installs the app's dependencies (for torch: gigabytes of CUDA): switched off, as are
  telemetry, the update check and Ray's usage statistics;
- the exit status is 0 for failed runs: the caller reads the run's own status file, and what this
  module returns.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from sim.settings import RuntimeSettings
from tasks.errors import FedappError

START_PATIENCE = 90.0  # seconds for the SuperLink to answer
STOP_PATIENCE = 3.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST = 40  # bytes of a folder that Ray adds 66 to, of 107 that a socket's path may have
NOT_OURS = ("RAY_ADDRESS", "RAY_TMPDIR")  # of the caller's: they belong to another Ray


class LaunchError(FedappError):
    """Flower itself could not be started, or ended without telling why."""


@dataclass(frozen=True)
class Ending:
    """End of ``flwr run``: its own (unreliable) exit status, and what Flower says of the run."""

    returncode: int
    run_id: str | None
    status: str
    details: str


def environment(home: Path, runtime: RuntimeSettings, ports: tuple[int, int]) -> dict[str, str]:
    """The environment a SuperLink must be *started* with; later shells cannot change it."""
    return {
        **quiet(home, runtime.threads),
        # its sockets lie below, and a path of theirs has at most 107 bytes
        "RAY_TMPDIR": _short_folder(),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(ports[0]),
        "FLWR_LOCAL_CONTROL_API_PORT": str(ports[1]),
    }


def quiet(home: Path, threads: int) -> dict[str, str]:
    """The environment of any process of Flower's: its files below ``home``, nothing installed,
    nothing told, loopback without a proxy."""
    bin_folder = str(Path(sys.executable).parent)
    caller = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    known = caller.get("no_proxy") or caller.get("NO_PROXY") or ""
    direct = ",".join(part for part in (known, *LOOPBACK) if part)
    return {
        **caller,
        # what Flower's own processes say to each other is on loopback, which no proxy knows
        "no_proxy": direct,
        "NO_PROXY": direct,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home / "flower"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
    }


def _short_folder() -> str:
    """A folder for Ray whose path is short, wherever the caller's temporary files go."""
    wanted = tempfile.gettempdir()
    return wanted if len(wanted) <= LONGEST else "/tmp"


def federation_config(runtime: RuntimeSettings) -> str:
    """The ``--federation-config`` that gives Ray the configured nodes and resources."""
    parts = [
        f"num-supernodes={runtime.nodes}",
        f"client-resources-num-cpus={runtime.cpus_per_actor}",
    ]
    if runtime.gpus_per_actor:
        parts.append(f"client-resources-num-gpus={runtime.gpus_per_actor}")
    return " ".join(parts)


def as_toml(run_config: Mapping[str, Any]) -> str:
    """A flat run config as TOML with dotted keys (JSON numbers, and JSON strings without escapes of
    surrogates, are TOML too; of control characters JSON leaves one as it is, which TOML does
    not)."""
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
        for key, value in run_config.items()
    )


def flwr_run(
    app_dir: Path,
    run_config: Mapping[str, Any],
    runtime: RuntimeSettings,
    log_file: Path,
    tick: Callable[[], None] = lambda: None,
    settled: Callable[[], bool] = lambda: False,
) -> Ending:
    """Run the app of ``app_dir`` through ``flwr run --stream``; ``tick`` is called twice a second
    meanwhile.

    Raises :class:`LaunchError` if no run could be started at all.

    Args:
        app_dir: folder of the app's ``pyproject.toml``.
        run_config: flat config; replaces the app's defaults key by key.
        runtime: nodes and resources.
        log_file: gets Flower's output, after what it holds.
        tick: called from this thread; what it raises ends the run.
        settled: whether the caller knows how the run ended; otherwise Flower is asked (seconds).
    """
    home = Path(tempfile.mkdtemp(prefix="fedapp-"))
    try:
        env = environment(home, runtime, (free_port(), free_port()))
        neutral = home / "neutral"
        neutral.mkdir()
        config_file = home / "run-config.toml"
        config_file.write_text(as_toml(run_config), encoding="utf-8")
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(log_file, "ab") as log, _superlink(home, neutral, env, log_file):
            command = [
                *(script("flwr"), "run", str(app_dir), "--stream"),
                *("--run-config", str(config_file)),
                *("--federation-config", federation_config(runtime)),
            ]
            offset = log_file.stat().st_size
            with subprocess.Popen(command, cwd=neutral, env=env, stdout=log, stderr=log) as process:
                _watch(process, tick)
            text = log_file.read_bytes()[offset:].decode(errors="replace")
            found = re.search(r"started run (\d+)", text)
            if found is None:
                raise LaunchError(
                    f"flwr run did not start (exit status {process.returncode}):\n{_tail(text)}"
                )
            status, details = (
                ("unasked", "") if settled() else _run_status(found.group(1), neutral, env)
            )
            return Ending(process.returncode, found.group(1), status, details)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _watch(process: subprocess.Popen[bytes], tick: Callable[[], None]) -> None:
    try:
        while process.poll() is None:
            tick()
            time.sleep(0.5)
        tick()
    except BaseException:
        process.terminate()
        raise


@contextmanager
def _superlink(home: Path, cwd: Path, env: Mapping[str, str], log_file: Path) -> Iterator[None]:
    """A SuperLink in simulation mode, ended (with all it started) on exit."""
    http_port = env["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"]
    control_port = env["FLWR_LOCAL_CONTROL_API_PORT"]
    command = [
        script("flower-superlink"),
        *("--insecure", "--simulation", "--isolation", "subprocess"),
        *("--host", "127.0.0.1", "--port", http_port),
        *("--control-api-address", f"127.0.0.1:{control_port}"),
        *("--database", str(home / "state.db"), "--disable-runtime-dependency-installation"),
    ]
    with open(home / "superlink.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            await_health(process, f"http://127.0.0.1:{http_port}/health", home / "superlink.log")
            yield
        finally:
            end(process)
            with open(log_file, "ab") as kept:
                _append(home / "superlink.log", kept)


def direct(url: str) -> contextlib.AbstractContextManager[Any]:
    """An answer of this machine itself, which no proxy is asked for."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer: contextlib.AbstractContextManager[Any] = opener.open(url, timeout=1)
    return answer


def await_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LaunchError(
                f"the SuperLink ended with status {process.returncode}:\n{_tail(_text(log))}"
            )
        try:
            with direct(url):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise LaunchError(
        f"the SuperLink did not answer within {START_PATIENCE:.0f} s:\n{_tail(_text(log))}"
    )


_await_health = await_health  # its name in earlier versions, which scripts outside know


def _text(log: Path) -> str:
    """A log of other programs, in whatever encoding they wrote it."""
    return log.read_bytes().decode("utf-8", errors="replace")


def end(process: subprocess.Popen[bytes]) -> None:
    """End the SuperLink and everything that descends from it, Ray included; kill what does not go
    by itself.

    Flower starts its helpers in sessions of their own and leaves a running simulation behind, so
    the tree is read before its root is ended.
    """
    try:
        root = psutil.Process(process.pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    for member in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(tree, timeout=STOP_PATIENCE)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=STOP_PATIENCE)
    process.wait()


def _run_status(run_id: str, cwd: Path, env: Mapping[str, str]) -> tuple[str, str]:
    command = [script("flwr"), "ls", "--run-id", run_id, "--format", "json"]
    listed = subprocess.run(
        command, cwd=cwd, env=dict(env), capture_output=True, text=True, check=False
    )
    try:
        run = json.loads(listed.stdout)["runs"][0]
        return str(run.get("status", "unknown")), str(
            run.get("details", run.get("status-details", ""))
        )
    except (ValueError, KeyError, IndexError):
        return "unknown", _tail(listed.stdout + listed.stderr)


def script(name: str) -> str:
    """A console script of the environment this Python belongs to."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LaunchError(
            f"{name} is not installed beside {sys.executable}: pip install 'flwr[simulation]'"
        )
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.splitlines()[-lines:])


def _append(source: Path, target: IO[bytes]) -> None:
    if source.exists():
        target.write(b"\n--- SuperLink ---\n" + source.read_bytes())
