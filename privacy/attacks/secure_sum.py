"""Simulation of one secure sum, to look at its messages: real keys, shares and masks, among nodes
that only exist for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from privacy.entropy import Entropy
from privacy.joint import CHECK
from privacy.ring import add_rounded, levels
from privacy.secagg.client import SecAggClient
from privacy.secagg.graph import default_threshold
from privacy.secagg.identity import Policy, Roster
from privacy.secagg.messages import Terms
from privacy.secagg.primitives import public_bytes
from privacy.secagg.server import SecAggServer
from privacy.secagg.vault import Vault


def simulate_secure_sum(
    vectors: NDArray[np.float64], clip: float
) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    """Masked uploads ``[n, d]`` of the vectors ``[n, d]``, and the clipped inputs they hide (n of
    at least 3)."""
    count, size = vectors.shape
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    inputs = vectors * np.minimum(1.0, clip / np.maximum(norms, 1e-300)) / clip
    keys = [Ed25519PrivateKey.generate() for _ in range(count)]
    roster = Roster({index: public_bytes(key) for index, key in enumerate(keys)}, bytes(32))
    uploads = np.zeros((count, size), np.uint32)
    with tempfile.TemporaryDirectory() as folder:
        nodes = []
        for index, key in enumerate(keys):
            vault = Vault(Path(folder) / f"{index}.vault", key)
            nodes.append(SecAggClient(index, key, roster, Policy(min_nodes=2), vault))
        terms = Terms(
            epoch=1,
            number=1,
            prekeys=tuple(node.advertise(1)[0] for node in nodes),
            threshold=default_threshold(count),
            degree=count - 1,
            least=2,
            length=size + CHECK,
            public="{}",
            work="{}",
            model=bytes(32),
        )
        server = SecAggServer(terms, roster.members)
        for node in nodes:
            server.shared(node.member, node.share(terms))
        server.close_sharing()
        for node in nodes:
            vector = np.zeros(size + CHECK, np.uint32)
            add_rounded(vector[:-CHECK], inputs[node.member], levels(count, 0.0), Entropy())
            node.mask(terms.session, terms.model, server.inbox(node.member), vector)
            uploads[node.member] = vector[:-CHECK]
    return uploads, inputs
