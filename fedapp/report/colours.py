"""Colours of methods on a page."""

from __future__ import annotations

from strategies.local import LOCAL

COLOURS = {
    "fedmenf": "#0f766e",
    "fedmenf-published": "#be185d",
    "fedmenf-unbounded": "#7c3aed",
    "maml": "#dc2626",
    "fomaml": "#ea580c",
    "reptile": "#ca8a04",
    "erm": "#2563eb",
    "adapters": "#0f766e",
    LOCAL: "#64748b",
}
SPARE = ("#0891b2", "#be185d", "#4d7c0f", "#9333ea")


def colours_of(order: list[str]) -> dict[str, str]:
    """A colour for each method, in the order they are shown."""
    return {name: COLOURS.get(name, SPARE[index % len(SPARE)]) for index, name in enumerate(order)}
