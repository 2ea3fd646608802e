"""The same secure sum by the installed flwr's own SecAgg+ functions, in the order of its mod
(client) and workflow (server).

Where that would take minutes, identical operations (masks of one pair, restoring one secret) are
timed a few times and multiplied; ``measured`` says which share was timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.bench.secagg_case import Case

PATIENCE = 4.0  # seconds of one kind of operation before the rest is multiplied


class Reference(NamedTuple):
    """Seconds of flwr's functions, and the share of them that was measured, not multiplied."""

    client: float
    server: float
    measured: float


def flwr_functions(case: Case) -> Reference:
    """The same work by flwr's functions, in the order of its mod (client) and workflow (server)."""
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation import quantization
    from flwr.common.secure_aggregation.crypto import shamir, symmetric_encryption
    from flwr.common.secure_aggregation.secaggplus_utils import (
        pseudo_rand_gen,
        share_keys_plaintext_concat,
    )
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_private_key,
        bytes_to_public_key,
        generate_key_pairs,
        private_key_to_bytes,
        public_key_to_bytes,
    )

    modulus = 2**32
    target = 2**22
    clipping = 8.0
    holders = case.degree + 1
    shape: list[tuple[int, ...]] = [(case.size,)]
    survivors = min(holders, holders - round(case.gone * holders / case.nodes))
    private = generate_key_pairs()[0]
    private_bytes = private_key_to_bytes(private)
    peer = public_key_to_bytes(generate_key_pairs()[1])
    measured = total = 0.0

    def repeat(step: Callable[[], Any], times: int) -> float:
        """Seconds of ``times`` calls, of which as many are made as patience allows (at least
        two)."""
        nonlocal measured, total
        made = 0
        started = time.perf_counter()
        while made < times and (made < 2 or time.perf_counter() - started < PATIENCE):
            step()
            made += 1
        spent = time.perf_counter() - started
        measured += spent
        total += spent * times / max(made, 1)
        return spent * times / max(made, 1)

    # client: two key pairs, shares of both secrets, a sealed box for each neighbour, and their
    # boxes opened
    seed = os.urandom(32)
    client = repeat(generate_key_pairs, 2)
    client += repeat(lambda: shamir.create_shares(seed, case.threshold, holders), 1)
    client += repeat(lambda: shamir.create_shares(private_bytes, case.threshold, holders), 1)
    shared = symmetric_encryption.generate_shared_key(private, bytes_to_public_key(peer))
    text = share_keys_plaintext_concat(1, 2, bytes(48), bytes(340))

    def agree() -> bytes:
        return symmetric_encryption.generate_shared_key(
            bytes_to_private_key(private_bytes), bytes_to_public_key(peer)
        )

    def box() -> None:
        symmetric_encryption.decrypt(shared, symmetric_encryption.encrypt(agree(), text) and sealed)

    sealed = symmetric_encryption.encrypt(shared, text)
    client += repeat(box, case.degree)
    values = [np.sin(np.arange(case.size, dtype=np.float64))]

    def quantise() -> list[NDArray[Any]]:
        scaled = arithmetic.parameters_multiply(values, 0.5)
        return arithmetic.factor_combine(
            target // 2, quantization.quantize(scaled, clipping, target)
        )

    client += repeat(quantise, 1)
    masked = [np.zeros(case.size, np.int64)]

    def pair_mask() -> None:
        mask = pseudo_rand_gen(agree(), modulus, shape)
        arithmetic.parameters_addition(masked, mask)

    def self_mask() -> None:
        arithmetic.parameters_addition(masked, pseudo_rand_gen(seed, modulus, shape))

    client += repeat(self_mask, 1) + repeat(pair_mask, case.degree)
    client += repeat(lambda: arithmetic.parameters_mod(masked, modulus), 1)

    # server: add the uploads, restore every secret, take the masks off
    server = repeat(lambda: arithmetic.parameters_addition(masked, masked), case.alive)
    seed_shares = shamir.create_shares(seed, case.threshold, holders)[:survivors]
    server += repeat(lambda: shamir.combine_shares(seed_shares), case.alive)
    server += repeat(self_mask, case.alive)
    if case.gone:
        key_shares = shamir.create_shares(private_bytes, case.threshold, holders)[:survivors]
        server += repeat(lambda: shamir.combine_shares(key_shares), case.gone)
        server += repeat(pair_mask, case.open_pairs)
    server += repeat(lambda: arithmetic.parameters_mod(masked, modulus), 1)
    server += repeat(lambda: quantization.dequantize(masked, clipping, target), 1)
    return Reference(client, server, measured / total)
