"""``fedapp bench secagg``: time of a client and of the server, and bytes, against the installed
flwr's own SecAgg+ functions.

Ours (``secagg_ours.py``) is the real protocol; flwr's side (``secagg_flwr.py``) calls its functions
for the same n, graph, threshold, dropouts and d; the limit (``secagg_limit.py``) is keystream,
public-key operations and reading, at rates taken right before and after ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.bench import plain
from sim.bench.rows import Limit, Row, at_most, row
from sim.bench.secagg_case import QUICK_SIZES, SIZES, Case, Cost, cases
from sim.bench.secagg_flwr import flwr_functions
from sim.bench.secagg_limit import client_limit, rates, server_limit
from sim.bench.secagg_ours import ours, server_memory

CLIENT_TARGET = 6.0
COMPLETE_TARGET = 25.0  # of the server, every node a neighbour of every other
REGULAR_TARGET = 12.0  # of the server, k-regular graph
MOST_BYTES = 4.1  # up, per number
MOST_MEMORY = 1.25  # of the server, over the vector


def measure(quick: bool) -> Iterator[Row]:
    """Client, server, bytes and memory for every case; then sums in the clear, and the price of a
    DP release."""
    for case in cases(quick):
        yield from _of(case)
    size = max(QUICK_SIZES if quick else SIZES)
    yield at_most(
        f"server memory over the vector, d = {size:.0e}, blocks streamed",
        "×",
        server_memory(size),
        MOST_MEMORY,
    )
    yield from plain.measure(quick)


def _of(case: Case) -> Iterator[Row]:
    mine, client_needs, server_needs = _beside_limits(case)
    theirs = flwr_functions(case)
    target = (COMPLETE_TARGET if case.complete else REGULAR_TARGET) if case.gone else None
    rows = [row(f"server, {case.name}", "s", mine.server, theirs.server, target, server_needs)]
    if case.complete or case.gone:
        name = f"client, {case.name}"
        rows = [row(name, "s", mine.client, theirs.client, CLIENT_TARGET, client_needs), *rows]
    for found in rows:
        found["measured"] = round(theirs.measured, 4)
        yield found
    yield at_most(f"bytes up per coordinate, {case.name}", "B", mine.up / case.size, MOST_BYTES)
    yield row(f"bytes down beside the model, {case.name}", "B", float(mine.down), None, None)


def _beside_limits(case: Case) -> tuple[Cost, Limit, Limit]:
    """Our cost, and the client's and the server's limit at the better rates of before and after: a
    busy neighbour can only make a limit look nearer than it is."""
    before = rates(case)
    mine = ours(case)
    best = before.better(rates(case))
    return mine, client_limit(case, best), server_limit(case, best)
