"""Visemes: what a mouth looks like while it makes a sound, as face units.

The fifteen of the usual set for English (silence and fourteen shapes, named by a sound each). Which
units move follows from how the sounds are made: lips that touch (PP), teeth on the lower lip (FF),
tongue between the teeth (TH), rounded lips (oh, ou, CH, RR), spread ones (E, ih, SS). How far they
move is ours, looked at on the contact sheet (``fedapp portraits OUT --visemes``).
"""

from __future__ import annotations

from collections.abc import Mapping

VISEMES: dict[str, dict[str, float]] = {
    "sil": {},
    "PP": {"mouthPressLeft": 0.7, "mouthPressRight": 0.7, "mouthRollLower": 0.4,
           "mouthRollUpper": 0.4},
    "FF": {"jawOpen": 0.08, "mouthRollLower": 0.75, "mouthUpperUpLeft": 0.4,
           "mouthUpperUpRight": 0.4},
    "TH": {"jawOpen": 0.22, "tongueOut": 0.45},
    "DD": {"jawOpen": 0.18, "mouthLowerDownLeft": 0.25, "mouthLowerDownRight": 0.25},
    "kk": {"jawOpen": 0.25, "mouthStretchLeft": 0.15, "mouthStretchRight": 0.15},
    "CH": {"jawOpen": 0.15, "mouthFunnel": 0.7},
    "SS": {"jawOpen": 0.06, "mouthStretchLeft": 0.4, "mouthStretchRight": 0.4,
           "mouthLowerDownLeft": 0.3, "mouthLowerDownRight": 0.3},
    "nn": {"jawOpen": 0.14, "mouthUpperUpLeft": 0.15, "mouthUpperUpRight": 0.15},
    "RR": {"jawOpen": 0.16, "mouthFunnel": 0.4, "mouthPucker": 0.25},
    "aa": {"jawOpen": 0.65},
    "E": {"jawOpen": 0.35, "mouthStretchLeft": 0.45, "mouthStretchRight": 0.45},
    "ih": {"jawOpen": 0.2, "mouthSmileLeft": 0.35, "mouthSmileRight": 0.35,
           "mouthStretchLeft": 0.2, "mouthStretchRight": 0.2},
    "oh": {"jawOpen": 0.5, "mouthFunnel": 0.5},
    "ou": {"jawOpen": 0.15, "mouthPucker": 0.85},
}  # fmt: skip


def blended(shares: Mapping[str, float]) -> dict[str, float]:
    """Face units of a mixture of visemes, as between two sounds; each unit at most 1.

    Args:
        shares: of visemes, 0 or more.

    Raises:
        KeyError: no such viseme.
    """
    found: dict[str, float] = {}
    for viseme, share in shares.items():
        for unit, weight in VISEMES[viseme].items():
            found[unit] = found.get(unit, 0.0) + share * weight
    return {unit: min(weight, 1.0) for unit, weight in found.items()}
