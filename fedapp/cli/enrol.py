"""``fedapp enrol``: identity keys for nodes, and the roster everybody pins.

On each device ``fedapp enrol FOLDER`` makes ``identity.key`` and prints its public half. Whoever
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
    target: JsonOption = "",
) -> None:
    """Make a node's identity key or a ledger's, or write the roster of all public keys."""
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
        public = public_bytes(load_identity(file, create=True)).hex()
        console.print(f"{file}: public key {public}", **PLAIN)
        write_json(target, {"key": str(file), "public": public})
        return
    found = _parse(what)
    found.write(roster)
    Roster.read(roster)
    console.print(f"{roster}: {len(found.members)} nodes", highlight=False)
    write_json(target, {"roster": str(roster), "members": sorted(found.members)})


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
