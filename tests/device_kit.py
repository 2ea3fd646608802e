"""Real nodes in memory: each with a state folder, a key, a roster and limits of its own."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from privacy.budget.ledger import KEY_FILE as LEDGER_KEY
from privacy.releases import RELEASES
from privacy.secagg.identity import KEY_FILE, POLICY_FILE, Policy, Roster, load_identity
from privacy.secagg.primitives import public_bytes
from sim.inprocess import InProcessGrid
from tasks.registry import load

POPULATION = "town"


class Town:
    """``nodes`` real nodes with a client each, and the server they believe.

    ``changes`` is what a run's configuration must hold for them; ``grid`` makes the network, and is
    handed to the ``run`` fixture.
    """

    def __init__(self, folder: Path, nodes: int, policy: Policy | None = None) -> None:
        self.folder = folder
        self.nodes = nodes
        server = load_identity(folder / "populations" / POPULATION / LEDGER_KEY, create=True)
        keys = {
            number: load_identity(self.home(number) / KEY_FILE, create=True)
            for number in range(nodes)
        }
        members = {number: public_bytes(key) for number, key in keys.items()}
        self.roster = folder / "roster.json"
        Roster(members, public_bytes(server)).write(self.roster)
        self.limit(policy or Policy())

    def home(self, number: int) -> Path:
        return self.folder / f"home-{number}"

    def limit(self, policy: Policy) -> None:
        """Give every node these limits."""
        for number in range(self.nodes):
            policy.write(self.home(number) / POLICY_FILE)

    def told(self, number: int) -> dict[str, Any]:
        """The node-config a device is started with."""
        return {
            "partition-id": number,
            "clients": str(number),
            "data-path": "bundled",
            "state-dir": str(self.home(number)),
            "roster": str(self.roster),
        }

    def changes(self, release: str) -> dict[str, Any]:
        """Config changes for a run among these nodes."""
        changes = {
            "run-dir": str(self.folder / "run"),
            "release": release,
            "clients.total": self.nodes,
            "clients.min": 1,
            "runtime.nodes": self.nodes,
        }
        if not load("release", release, RELEASES).private:
            return changes
        return changes | {
            "privacy.population": POPULATION,
            "privacy.roster": str(self.roster),
            "privacy.epsilon-max": 1e9,
        }

    def grid(self, base: type[InProcessGrid] = InProcessGrid) -> Callable[..., InProcessGrid]:
        """The network of these nodes."""

        def make(client_app: Any, nodes: int, values: Any) -> InProcessGrid:
            grid = base(client_app, nodes, values, simulated=False)
            for number, context in enumerate(grid.contexts.values()):
                context.node_config.clear()
                context.node_config.update(self.told(number))
            return grid

        return make


def certify(place: Path) -> None:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "town")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    for file in ("ca.pem", "server.pem"):
        (place / file).write_bytes(pem)
    (place / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
