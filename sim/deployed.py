"""A SuperLink and SuperNodes on loopback, each with a home of its own: Flower's deployment runtime
on one machine.

Flower starts a process for every message, and each imports torch; both sides poll every 3 s.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.launch import as_toml, await_health, end, environment, free_port, script
from sim.settings import RuntimeSettings

PATIENCE = 300.0  # seconds for a run


@dataclass(frozen=True)
class Town:
    """A running deployment.

    Attributes:
        place: its folder; ``link/log`` and ``node-<number>/log`` are what the processes said.
        address: of the SuperLink.
        env: environment of its processes.
    """

    place: Path
    address: str
    env: Mapping[str, str]

    def submit(
        self, app: Path, values: Mapping[str, Any], patience: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """``flwr run`` of the app in a folder, with settings (keys written whole), to its end.

        Raises:
            subprocess.TimeoutExpired: it took longer than ``patience`` seconds.
        """
        user = self.place / "user"
        user.mkdir(exist_ok=True)
        text = f'[superlink.here]\naddress = "{self.address}"\ninsecure = true\n'
        (user / "config.toml").write_text(text, encoding="utf-8")
        (user / "run.toml").write_text(as_toml(dict(values)), encoding="utf-8")
        command = [script("flwr"), "run", str(app), "here", "--stream"]
        return subprocess.run(
            [*command, "--run-config", str(user / "run.toml")],
            cwd=user,
            env={**self.env, "FLWR_HOME": str(user)},
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )


@contextmanager
def deployed(place: Path, nodes: Sequence[Mapping[str, Any]]) -> Iterator[Town]:
    """Start a SuperLink and a SuperNode for each node-config, and end them all afterwards."""
    ports = [free_port() for _ in range(len(nodes) + 1)]
    env = environment(place, RuntimeSettings(), (ports[0], ports[0]))
    address = f"127.0.0.1:{ports[0]}"
    link = [
        *(script("flower-superlink"), "--insecure", "--host", "127.0.0.1"),
        *("--port", str(ports[0]), "--database", str(place / "link.db")),
    ]
    with ExitStack() as running:
        server = running.enter_context(_started(link, place / "link", env))
        await_health(server, f"http://{address}/health", place / "link" / "log")
        for number, (node, port) in enumerate(zip(nodes, ports[1:], strict=True)):
            told = " ".join(
                f"{key}={value}" if isinstance(value, int) else f"{key}='{value}'"
                for key, value in node.items()
            )
            command = [
                *(script("flower-supernode"), "--insecure", "--superlink", address),
                *("--port", str(port), "--node-config", told),
            ]
            running.enter_context(_started(command, place / f"node-{number}", env))
        yield Town(place, address, env)


@contextmanager
def _started(
    command: list[str], home: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own home, ended with all it started."""
    (home / "neutral").mkdir(parents=True)
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=home / "neutral",
            env={**env, "FLWR_HOME": str(home / "flower")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            end(process)
