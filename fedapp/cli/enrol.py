"""``fedapp enrol``: identity keys for nodes, and the roster everybody pins.

On each device ``fedapp enrol FOLDER`` makes ``identity.key`` and ``policy.json`` (the device's own
limits, which it does not take part without) and prints the key's public half. Whoever
runs the federation collects them, over a channel the server cannot change, into one roster:
``fedapp enrol --roster roster.json 0=KEY 1=KEY … server=KEY``. Every node gets that file. The
server's key is the one that signs its population's ledger: ``fedapp enrol --server
RUNS/populations/NAME``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedapp.cli.output import PLAIN, JsonOption, console, write_json
from tasks.errors import InputError

if TYPE_CHECKING:
    from privacy.secagg.identity import Roster


def enrol(
    what: Annotated[
        list[str],
        typer.Argument(help="a folder for a new key; with --roster: NUMBER=KEY … server=KEY"),
    ],
    roster: Annotated[
        Path | None, typer.Option(help="write these public keys into a roster file")
    ] = None,
    server: Annotated[
        bool, typer.Option(help="the folder is a population's: make the key of its ledger")
    ] = False,
    releases: Annotated[
        str, typer.Option(help="what the device takes part in, by comma; written into policy.json")
    ] = "distributed-dp",
    epsilon_max: Annotated[
        float,
        typer.Option(min=0, help="what all its rounds may cost, by its own count; 0: no limit"),
    ] = 8.0,
    target: JsonOption = "",
) -> None:
    """Make a node's identity key and limits, or a ledger's key, or write the roster of all public
    keys."""
    from privacy.budget.ledger import KEY_FILE as LEDGER_KEY
    from privacy.secagg.identity import KEY_FILE, Roster, load_identity
    from privacy.secagg.primitives import public_bytes

    if roster is None:
        if len(what) != 1:
            raise InputError(
                "enrol",
                " ".join(what),
                "one folder at a time",
                "or give --roster FILE NUMBER=KEY …",
            )
        folder = Path(what[0]).expanduser().resolve()
        file = folder / (LEDGER_KEY if server else KEY_FILE)
        policy = None if server else _policy(folder, releases, epsilon_max)
        public = public_bytes(load_identity(file, create=True)).hex()
        console.print(f"{file}: public key {public}", **PLAIN)
        if policy:
            console.print(policy, **PLAIN)
        write_json(target, {"key": str(file), "public": public})
        return
    found = _parse(what)
    found.write(roster)
    Roster.read(roster)
    console.print(f"{roster}: {len(found.members)} nodes", highlight=False)
    write_json(target, {"roster": str(roster), "members": sorted(found.members)})


def _policy(folder: Path, releases: str, epsilon_max: float) -> str:
    """Write the device's limits unless it has some; what they are, in a line."""
    from privacy.releases import RELEASES
    from privacy.secagg.identity import POLICY_FILE, Policy
    from tasks.registry import load

    file = folder / POLICY_FILE
    names = tuple(part.strip() for part in releases.split(",") if part.strip())
    for name in names:
        release = load("release", name, RELEASES, key="--releases")
        if epsilon_max and release.placement == "none":
            raise InputError(
                "--releases",
                name,
                "adds no noise, so its rounds cost infinitely much",
                "add --epsilon-max 0 if that is meant",
            )
    try:
        Policy(releases=names, epsilon_max=epsilon_max).write(file, new=True)
    except FileExistsError:
        Policy.read(file)
        return f"{file}: kept as it is"
    limit = f"up to epsilon {epsilon_max:g}" if epsilon_max else "without a limit"
    allowed = ", ".join(names) or "any release"
    return f"{file}: takes part in {allowed} {limit}; edit it for other limits"


def _parse(pairs: list[str]) -> Roster:
    from privacy.secagg.identity import Roster

    members: dict[int, bytes] = {}
    server = b""
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            key = bytes.fromhex(text)
            if len(key) != 32:
                raise ValueError(f"{len(key)} bytes")
            if name == "server":
                server = key
            else:
                members[int(name)] = key
        except ValueError as error:
            raise InputError(
                "roster", pair, f"not NUMBER=KEY ({error})", "for example 3=<64 hex digits>"
            ) from error
    if not server:
        raise InputError(
            "roster",
            " ".join(pairs),
            "lacks the server's key",
            "make it with `fedapp enrol --server`",
        )
    return Roster(members, server)
