"""What a report of talking heads shows: scores beside their controls, videos, what adapters cost
and give away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedapp.report import figures
from fedapp.report.findings import USEFUL
from strategies.local import LOCAL

if TYPE_CHECKING:
    from fedapp.report.content import Media

JUDGED = {
    "lpips": "LPIPS", "frechet": "Fréchet distance", "face_similarity": "face similarity",
    "sync_confidence": "sync confidence",
}  # fmt: skip


def head_view(shared: dict[str, Any], events: list[dict[str, Any]], media: Media) -> dict[str, Any]:
    """The blocks of ``head_page``."""
    experiment, result, order = shared["experiment"], shared["result"], shared["order"]
    titles, colours, seed = shared["titles"], shared["colours"], shared["experiment"].seed_list[0]
    people = sorted({index for m in order for index in media.indices(f"{m}-{seed}-adapted")})
    judged = [
        {**e, "mouth": {"corr": (e.get("own") or {}).get("mouth_corr")}}
        for e in events
        if e["event"] == "evaluation"
    ]
    return {
        "page": "head",
        "last": str(shared["steps"][-1]),
        "findings": head_findings(result, titles, experiment),
        "people": [
            {
                "number": int(index),
                "strips": {m: media(f"{m}-{seed}-adapted-{index}") for m in order},
                "videos": {m: media.video(f"{m}-{seed}-{index}") for m in order},
            }
            for index in people
        ],
        "judged": {
            label: {m: result["methods"][m].get(key) for m in order} for key, label in JUDGED.items()
        },
        "curve_mouth": figures.over_rounds(
            judged, [m for m in order if m != LOCAL], titles, colours, "mouth", "corr",
            "mouth correlation on unseen people",
        ),
        "curve_personal": figures.personalisation(result, order, titles, colours),
        "cost": adapter_cost(experiment),
    }  # fmt: skip


def adapter_cost(experiment: Any) -> dict[str, Any]:
    """Bytes of what a client sends a round, beside what the whole denoiser would be."""
    import torch

    from fedapp.config.pieces import build_task

    task = build_task(experiment)
    unet = task.model(torch.device("cpu")).backbone.unet  # type: ignore[attr-defined]
    full = sum(p.numel() for name, p in unet.named_parameters() if "lora_" not in name)
    shared = task.layout.size
    return {
        "shared": shared,
        "bytes": 4 * shared,
        "full": full,
        "full_bytes": 4 * full,
        "share": shared / full,
    }


def head_findings(
    result: dict[str, Any], titles: dict[str, str], experiment: Any
) -> list[tuple[str, str]]:
    """Sentences a reader should not have to dig for, only where they hold."""
    sentences: list[tuple[str, str]] = []
    local = result["methods"].get(LOCAL) or {}
    for name, row in result["methods"].items():
        if name == LOCAL or row.get("mouth_corr") is None:
            continue
        wrong, still, psnr = (
            row.get("mouth_corr_shuffled"),
            row.get("psnr_static"),
            (row["psnr"] or {}).get("0"),
        )
        text = f"On people nobody trained on, the mouth follows the speech with correlation {row['mouth_corr']:.2f}"
        text += f" (wrong speech: {wrong:.2f})" if wrong is not None else ""
        if local.get("mouth_corr") is not None:
            text += f"; the backbone alone, without federation, reaches {local['mouth_corr']:.2f}"
        if psnr is not None and still is not None:
            text += (
                f". PSNR {psnr:.1f} dB; holding the reference picture still gives {still:.1f} dB"
            )
        sentences.append(
            ("good" if wrong is None or row["mouth_corr"] > wrong + 0.3 else "warning", text + ".")
        )
        curve = (row.get("personalised") or {}).get("mouth_error_reserved") or {}
        if len(curve) > 1 and curve.get("0"):
            last = list(curve)[-1]
            share = curve[last] / curve["0"]
            sentences.append(
                ("good" if share <= 0.4 else "warning",
                 f"Speakers whose style no reference shows: {last} steps on their own clips bring the mouth error from "
                 f"{curve['0']:.3f} to {curve[last]:.3f} ({share:.0%} of before).")
            )  # fmt: skip
    return sentences + _protection(result, experiment)


def _protection(result: dict[str, Any], experiment: Any) -> list[tuple[str, str]]:
    if experiment.release == "plain":
        return [
            ("warning", "Release plain: the server sees every client's shared adapter, and an adapter tells whose it "
             "is (`fedapp attack` measures how surely). Personal adapters never leave under any release.")
        ]  # fmt: skip
    if result["epsilon"] is None:
        return [
            ("plain", f"Release {experiment.release}: the server saw only sums over the nodes, without noise. One "
             "sum hides who sent what, not whether somebody took part; sums of many rounds hide less. No epsilon is "
             "claimed.")
        ]  # fmt: skip
    useful = result["epsilon"] <= USEFUL
    text = (
        f"Release {experiment.release}: epsilon {result['epsilon']:.2f} at delta {result['delta']:g}, cohorts known. "
        + (
            ""
            if useful
            else f"Above {USEFUL:g} that promises next to nothing: this run is not called private."
        )
    )
    return [("good" if useful else "warning", text)]
