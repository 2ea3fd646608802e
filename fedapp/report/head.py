"""Talking heads in a report: scores beside their controls, videos, what adapters cost and give
away."""

from __future__ import annotations

from typing import Any

from fedapp.report.families import Sentences, Shown
from fedapp.report.findings import release_finding
from fedapp.report.head_page import HEAD_PAGE
from fedapp.report.media import Line, Media, Shot, moving, shots
from fedapp.report.table import Column, Table
from strategies.local import LOCAL

FIRST = 2  # people of the first screen


class Heads:
    """The family of talking heads."""

    template = HEAD_PAGE
    covers = frozenset(
        {
            "psnr",
            "psnr_static",
            "psnr_codec",
            "mouth_corr",
            "mouth_corr_shuffled",
            "mouth_error",
            "mouth_error_static",
            "jitter_error",
            "identity_similarity",
            "identity_top1",
            "personalised",
            "lpips",
            "frechet",
            "face_similarity",
            "sync_confidence",
            "outside_range",
        }
    )

    def tables(self, shown: Shown) -> list[Table | None]:
        steps = [str(step) for step in shown.experiment.evaluation.step_list]
        row = next(iter(shown.rows.values()))
        closed = row.get("mouth_error_reserved_static")
        still = "" if closed is None else f"; a mouth that stays shut scores {closed:.3f} on them"
        return [
            shown.table(
                "unseen people, before any adaptation",
                [
                    Column("mouth correlation ↑", ("mouth_corr",), 3),
                    Column("with wrong speech → 0", ("mouth_corr_shuffled",), 3),
                    Column("mouth error ↓", ("mouth_error",), 3),
                    Column("still reference", ("mouth_error_static",), 3),
                    Column("PSNR ↑", ("psnr", "0")),
                    Column("still reference", ("psnr_static",)),
                    Column("codec's limit", ("psnr_codec",)),
                    Column("|jitter − true| ↓", ("jitter_error",), 4),
                    Column("identity ↑", ("identity_similarity",), 3),
                    Column("top-1 ↑", ("identity_top1",)),
                ],
                "The mouth is judged by how dark its box is, frame by frame, in the generated and "
                "in the true video; errors are in units from closed (0) to wide open (1) where the "
                "true opening is known. Wrong speech: the same person driven with other people's "
                "sound; a model that ignores sound would score the same as with the right one. "
                "Identity is the cosine of coarse colour layouts, no face network, and saturates: "
                "the reference itself would be found.",
            ),
            shown.table(
                "after k steps on one's own clips",
                [Column(f"mouth error@{k} ↓", ("personalised", "mouth_error", k), 3) for k in steps]
                + [
                    Column(f"reserved@{k} ↓", ("personalised", "mouth_error_reserved", k), 3)
                    for k in steps
                ]
                + [Column(f"PSNR@{k} ↑", ("psnr", k)) for k in steps],
                "Reserved: people who open their mouth 40 % as far, which no reference picture "
                f"shows{still}. Only the personal adapter moves here.",
            ),
            shown.table(
                "judged by somebody's network",
                [
                    Column("LPIPS", ("lpips",), 3),
                    Column("Fréchet distance", ("frechet",), 3),
                    Column("face similarity", ("face_similarity",), 3),
                    Column("sync confidence", ("sync_confidence",), 3),
                ],
                "A Fréchet distance needs more frames than the network gives features; with fewer "
                "it would be meaningless.",
            ),
        ]

    def findings(self, shown: Shown) -> Sentences:
        return head_findings(shown.result, shown.titles, shown.experiment)

    def exhibits(self, shown: Shown, events: list[dict[str, Any]], media: Media) -> dict[str, Any]:
        from fedapp.report import figures
        from fedapp.report.colours import colours_of

        order, titles, colours = shown.order, shown.titles, colours_of(shown.order)
        seed = shown.experiment.seed_list[0]
        people = sorted({index for m in order for index in media.indices(f"{m}-{seed}-adapted")})
        found = [
            {
                "number": int(index),
                "strips": {m: media(f"{m}-{seed}-adapted-{index}") for m in order},
                "videos": {m: media.video(f"{m}-{seed}-{index}") for m in order},
            }
            for index in people
        ]
        return {
            "strip": _strip(shown, found, colours),
            "moving": moving,
            "last": str(shown.experiment.evaluation.step_list[-1]),
            "people": found,
            "judges": any(
                row.get(name) is not None
                for row in shown.rows.values()
                for name in ("lpips", "frechet", "face_similarity", "sync_confidence")
            ),
            "curve_mouth": figures.over_rounds(
                events,
                shown.trained,
                titles,
                colours,
                ("mouth_corr",),
                "mouth correlation on unseen people",
            ),
            "curve_personal": figures.personalisation(shown.result, order, titles, colours),
            "cost": adapter_cost(shown),
        }


def _strip(shown: Shown, people: list[dict[str, Any]], colours: dict[str, str]) -> list[Line]:
    """Two people nobody trained on, each method's film of them beside the others'."""
    steps = shown.experiment.evaluation.step_list[-1]
    played = [
        Shot(f"person {person['number']}, {shot.caption}", shot.colour, shot.shown)
        for person in people[:FIRST]
        for shot in shots(shown.order, person["videos"], shown.titles, colours, "a person speaks")
    ]
    title = (
        "People nobody trained on, from one still picture and speech. In each film: the truth, the "
        f"shared model at once, after {steps} steps on the person's own clips."
    )
    return [Line(title, played, 380)]


def adapter_cost(shown: Shown) -> dict[str, Any]:
    """Bytes of what a client sends per round, beside what the whole denoiser would be."""
    import torch

    task = shown.pieces.task
    unet = task.model(torch.device("cpu")).backbone.unet
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
        wrong = row.get("mouth_corr_shuffled")
        still = row.get("psnr_static")
        psnr = (row["psnr"] or {}).get("0")
        text = (
            "On people nobody trained on, the mouth follows the speech with correlation "
            f"{row['mouth_corr']:.2f}"
        )
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
                (
                    "good" if share <= 0.4 else "warning",
                    f"Speakers whose style no reference shows: {last} steps on their own clips "
                    "bring the mouth error from "
                    f"{curve['0']:.3f} to {curve[last]:.3f} ({share:.0%} of before).",
                )
            )
    return sentences + _protection(result, experiment)


def _protection(result: dict[str, Any], experiment: Any) -> list[tuple[str, str]]:
    if experiment.release != "plain":
        return release_finding(result)
    return [
        (
            "warning",
            "Release plain: the server sees every client's shared adapter, and an adapter tells "
            "whose it is (`fedapp attack` measures how surely). Personal adapters never "
            "leave under "
            "any release.",
        )
    ]
