"""A link of somebody's own for operators: everything brighter."""

from __future__ import annotations

from privacy.entropy import Entropy
from privacy.operators import Link, Pictures


def brighten(text: str) -> Link:
    """Adds a number to all values, and nothing else."""

    def link(pictures: Pictures, draws: Entropy) -> Pictures:
        return Pictures(
            pictures.values + float(text), pictures.valid, pictures.cover, pictures.kernel
        )

    return link
