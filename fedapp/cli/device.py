"""``fedapp device``: this device takes part in a federation, and runs no code but what is installed
on it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedapp.cli.output import PLAIN, console
from fedapp.place import PACKAGES, ROOT, __version__, threads
from tasks.errors import InputError, nearest

if TYPE_CHECKING:
    from privacy.secagg.identity import Policy

GIVEN = ("state-dir", "data-path", "clients", "partition-id")  # node-config keys with an option
SIMULATED = "num-partitions"  # a key of simulated nodes


def device(
    state: Annotated[
        Path, typer.Argument(help="the folder that `fedapp enrol` made: key, limits, what lasts")
    ],
    superlink: Annotated[str, typer.Option(help="HOST:PORT of the federation's SuperLink")],
    data: Annotated[
        str, typer.Option(help="folder of their data and nobody else's; bundled: to try it out")
    ],
    number: Annotated[
        int,
        typer.Option(
            min=0, max=1_000_000, help="of this device, different on each one (partition-id)"
        ),
    ],
    clients: Annotated[
        str, typer.Option(help="whose data it holds, by client number: 3, or 3,7; default: number")
    ] = "",
    root_certificates: Annotated[
        Path | None, typer.Option(help="PEM file that the server's certificate is checked with")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="no TLS: for loopback")] = False,
    auth_key: Annotated[
        Path | None, typer.Option(help="private key, if the SuperLink asks nodes to authenticate")
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("-o", help="key=value, another node-config key: layout, objects, front, …"),
    ] = None,
) -> None:
    """Take part in a federation until stopped (^C): start Flower's SuperNode with this device's
    data, key and limits. Bundles that differ from the code installed here are refused."""
    from privacy.secagg.identity import KEY_FILE, POLICY_FILE, Policy
    from sim.launch import as_toml, quiet
    from tasks.targets import whole

    state = state.expanduser().resolve()
    for name in (POLICY_FILE, KEY_FILE):
        if not (state / name).is_file():
            raise InputError(
                "device", str(state), f"holds no {name}", f"make it: fedapp enrol {state}"
            )
    policy = Policy.read(state / POLICY_FILE)
    told: dict[str, Any] = {"partition-id": number, "state-dir": str(state)}
    told["data-path"], files = _data(data, state)
    if clients:
        told["clients"] = clients
    told |= _others(more or [])
    _check_clients(told)
    _check_address(superlink)
    if (root_certificates is None) == (not insecure):
        raise InputError(
            "--root-certificates", "", "TLS is neither asked for nor given up, or both",
            "give --root-certificates FILE, or --insecure on loopback",
        )  # fmt: skip
    flags = ["--superlink", superlink, *(["--insecure"] if insecure else [])]
    if root_certificates is not None:
        flags += ["--root-certificates", str(_certificates(root_certificates))]
    if auth_key is not None:
        flags += ["--auth-supernode-private-key", str(_private_key(auth_key))]
    config, neutral = state / "node.toml", state / "neutral"
    try:
        _alone(state)
        # of another start: Flower starts what lies there, if its name fits
        shutil.rmtree(state / "flower", ignore_errors=True)
        neutral.mkdir(exist_ok=True)  # Flower's helpers import what lies where they are started
        os.chdir(neutral)
        with whole(config) as beside:
            beside.write_text(as_toml(told), encoding="utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            "device", ascii(told), "names that are not UTF-8 cannot be told to Flower", "rename it"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(
            "device", str(error.filename or state), f"cannot be written ({error.strerror})",
            "name a folder of yours",
        ) from error  # fmt: skip
    console.print(_summary(number, told, files, policy), **PLAIN)
    _start([*flags, "--node-config", str(config)], quiet(state, threads()))


def _alone(state: Path) -> None:
    """Hold the device's folder for as long as this process lives, whatever it becomes."""
    lock = os.open(state / "device.lock", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            "device", str(state), "is running already", "end it first, or give this one a folder"
        ) from error


def _start(flags: list[str], env: dict[str, str]) -> None:
    """Become the SuperNode: signals, exit status and log are its own."""
    from sim.bundle import Code
    from sim.launch import free_port

    code = Code(str(ROOT), PACKAGES, "fedapp.client_app:app", "fedapp/fedapp", __version__)
    # whoever is started there imports the same code, and from no relative path
    env = {**env, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sim.pinned", code.as_text(), *flags]
    sys.stdout.flush()
    os.execve(sys.executable, [*command, "--port", str(free_port())], env)


def _data(path: str, state: Path) -> tuple[str, int]:
    """The folder of the data, and its number of files."""
    from fedapp.config.places import BUNDLED
    from fedapp.identity import own_files

    if path == BUNDLED:
        return path, 0
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise InputError("--data", path, "no such folder", f"or {BUNDLED}, to try it out")
    if state.is_relative_to(folder):
        raise InputError(
            "--data", path, f"holds {state}, which would count as data", "keep them apart"
        )
    if not (files := own_files(str(folder))):
        raise InputError("--data", path, "holds no file", "name the folder of the clients' data")
    return str(folder), len(files)


def _others(more: list[str]) -> dict[str, str]:
    """Node-config keys without an option of their own."""
    from fedapp.config.places import OF_NODE
    from fedapp.node.device import NODE_KEYS

    free = [key for key in NODE_KEYS if key not in (*GIVEN, SIMULATED)]
    told = {}
    for pair in more:
        key, _, value = pair.partition("=")
        if key not in free:
            raise InputError("-o", pair, "no such key of a device", nearest(key, free))
        if not value.strip():
            raise InputError("-o", pair, "says nothing", f"for example {key}=…")
        if key in OF_NODE.values():
            path = Path(value).expanduser().resolve()
            if not path.exists():
                raise InputError("-o", pair, "no such file or folder", "see docs/deployment.md")
            value = str(path)
        told[key] = value
    return told


def _check_clients(told: dict[str, Any]) -> None:
    """Read what the node would read, before a server is asked for anything."""
    for key in ("clients", "objects"):
        given = str(told.get(key, 0))
        parts = given.split(",") if key == "clients" else [given]
        if not all(part.strip().isdecimal() and part.strip().isascii() for part in parts):
            raise InputError(f"--{key}" if key == "clients" else f"-o {key}", given,
                             "must be whole numbers", "for example 3, or 3,7")  # fmt: skip


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not (host and "/" not in host and port.isascii() and port.isdecimal() and int(port) < 65536):
        raise InputError(
            "--superlink", address, "is no HOST:PORT", "for example server.example:8000"
        )


def _certificates(path: Path) -> Path:
    """A file of certificates, read as TLS will read it."""
    file = _file("--root-certificates", path)
    try:
        ssl.create_default_context(cafile=str(file))
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise InputError(
            "--root-certificates", str(path), f"holds no certificate ({error})",
            "ask whoever runs the server for its PEM file",
        ) from error  # fmt: skip
    return file


def _private_key(path: Path) -> Path:
    """A key as Flower asks for."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    file = _file("--auth-key", path)
    try:
        if isinstance(load_ssh_private_key(file.read_bytes(), None), EllipticCurvePrivateKey):
            return file
        reason = "another kind of key"
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        reason = str(error)
    raise InputError(
        "--auth-key", str(path), f"no elliptic-curve key of OpenSSH ({reason})",
        "ssh-keygen -t ecdsa -b 384 makes one",
    )  # fmt: skip


def _file(option: str, path: Path) -> Path:
    file = path.expanduser().resolve()
    if not file.is_file():
        raise InputError(option, str(path), "no such file", "ask whoever runs the server for it")
    return file


def _summary(number: int, told: dict[str, Any], files: int, policy: Policy) -> str:
    limit = f"up to epsilon {policy.epsilon_max:g}" if policy.epsilon_max else "without a limit"
    what = f"{files} files in {told['data-path']}" if files else "the bundled data"
    return (
        f"device {number} holds client {told.get('clients', number)}: {what}\n"
        f"takes part in {', '.join(policy.releases) or 'any release'} {limit} "
        f"({told['state-dir']}/policy.json), in the code of {ROOT} and no other; ^C ends it"
    )
