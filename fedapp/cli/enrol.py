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
    from privacy.secagg.identity import Policy, Roster


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
    designs: Annotated[
        str,
        typer.Option(
            help="of split learning and uploads, what the device sends something in, by comma"
        ),
    ] = "sealed",
    operator: Annotated[
        str, typer.Option(help="what frontal pictures go through before they are uploaded")
    ] = "modulus=sobel",
    looks: Annotated[
        int, typer.Option(min=0, help="held-out views whose scores it tells in its life")
    ] = 0,
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
        limits = None if server else _limits(releases, epsilon_max, designs, operator, looks)
        public = public_bytes(load_identity(file, create=True)).hex()
        console.print(f"{file}: public key {public}", **PLAIN)
        if limits:
            console.print(_write(limits, folder), **PLAIN)
        write_json(target, {"key": str(file), "public": public})
        return
    found = _parse(what)
    found.write(roster)
    Roster.read(roster)
    console.print(f"{roster}: {len(found.members)} nodes", highlight=False)
    write_json(target, {"roster": str(roster), "members": sorted(found.members)})


def _limits(releases: str, epsilon_max: float, designs: str, operator: str, looks: int) -> Policy:
    """The device's limits; raises :class:`InputError` for names that are none."""
    from fedapp.config.designs import DESIGNS
    from fedapp.config.uploads import COLOUR, OBSCURED
    from privacy.operators import Chain
    from privacy.releases import RELEASES
    from privacy.secagg.identity import Policy
    from tasks.errors import nearest
    from tasks.registry import load

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
    chosen = tuple(part.strip() for part in designs.split(",") if part.strip())
    known = (*DESIGNS, OBSCURED, COLOUR)
    for name in chosen:
        if name not in known:
            raise InputError("--designs", name, "no such design", nearest(name, known))
    Chain.parsed(operator)
    return Policy(
        releases=names, epsilon_max=epsilon_max, designs=chosen, operator=operator, looks=looks
    )


def _write(limits: Policy, folder: Path) -> str:
    """Write the device's limits unless it has some; what they are, in a line."""
    from privacy.secagg.identity import POLICY_FILE, Policy

    file = folder / POLICY_FILE
    try:
        limits.write(file, new=True)
    except FileExistsError:
        Policy.read(file)
        return f"{file}: kept as it is"
    most = limits.epsilon_max
    limit = f"up to epsilon {most:g}" if most else "without a limit"
    allowed = ", ".join(limits.releases) or "any release"
    designs = ", ".join(limits.designs) or "no design"
    return (
        f"{file}: takes part in {allowed} {limit}; of split learning and uploads in {designs}, "
        f"scores of {limits.looks} views; edit it for other limits"
    )


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
