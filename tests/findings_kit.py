"""A method's row without remarks, and what a report says of it."""

from __future__ import annotations

from typing import Any

from fedapp.report.findings import findings

ROW: dict[str, Any] = {
    "outside_range": False,
    "objective_min": None,
    "rates_tuned": None,
    "psnr": None,
    "psnr_tuned": None,
    "psnr_p": {"mean": 10.0, "max": 11.0, "n": 4},
    "psnr_p_affine": {"mean": 14.0},
    "psnr_floor": {"mean": 12.0},
    "correlation_p": {"mean": 0.8},
}


def said(row: dict[str, Any], **result: Any) -> list[tuple[str, str]]:
    whole = {
        "methods": {"maml": row},
        "release": "plain",
        "population": 4,
        "epsilon": None,
        "delta": 1e-5,
    } | result
    return findings(whole, {"maml": "MAML"}, [])
