"""Split radiance fields in a report: renderings of held-out views beside what the client pays, and
what attackers make of the traffic."""

from __future__ import annotations

from typing import Any

from fedapp.config.designs import DESIGNS
from fedapp.report.families import Sentences, Shown
from fedapp.report.media import Line, Media, moving, shots
from fedapp.report.split_page import SPLIT_PAGE
from fedapp.report.table import Column, Table

ALONE = ("private-grid", "private-fourier")  # what a client reaches without any server
CLOSE = 1.0  # dB: of the field that is not split


class Split:
    """The family of split radiance fields."""

    template = SPLIT_PAGE
    covers = frozenset(
        {
            "psnr",
            "ssim",
            "views",
            "exchanges",
            "client_parameters",
            "client_multiply_adds",
            "client_activation_bytes",
            "bytes_up_per_step",
            "bytes_down_per_step",
            "outside_range",
        }
    )

    def tables(self, shown: Shown) -> list[Table | None]:
        clients = sorted(
            {name for row in shown.rows.values() for name in row.get("views") or {}}, key=int
        )
        return [
            shown.table(
                "held-out views",
                [
                    Column("PSNR ↑", ("psnr",)),
                    Column("SSIM ↑", ("ssim",), 3),
                    *(Column(f"client {c}", ("views", c)) for c in clients),
                ],
                "Means over the views that were not trained on; not computed unless clients "
                "release metrics (split.metrics). Rows without a server send nothing at all: what "
                "a design has to beat.",
            ),
            shown.table(
                "what the client pays",
                [
                    Column("parameters", ("client_parameters",), 0),
                    Column("multiply-adds per sample", ("client_multiply_adds",), 0),
                    Column("activations (bytes)", ("client_activation_bytes",), 0),
                    Column("bytes up per step", ("bytes_up_per_step",), 0),
                    Column("bytes down per step", ("bytes_down_per_step",), 0),
                ],
                "Bytes are counted from the serialised messages; those of a sealed table include "
                "what the second holder is sent and sends.",
            ),
        ]

    def findings(self, shown: Shown) -> Sentences:
        return split_findings(shown.result["methods"], shown.titles)

    def exhibits(self, shown: Shown, events: list[dict[str, Any]], media: Media) -> dict[str, Any]:
        from fedapp.report import figures, split_figures
        from fedapp.report.colours import colours_of

        order, titles, colours = shown.order, shown.titles, colours_of(shown.order)
        attacks = media.folder.read("attack.json")
        rows = grouped(attacks.get("rows", []))
        seed = shown.experiment.seed_list[0]
        views = sorted({index for m in order for index in media.indices(f"{m}-{seed}-adapted")})
        first = {m: media(f"{m}-{seed}-adapted-{view}") for view in views[:1] for m in order}
        film = media.video(f"{order[0]}-{seed}-tour")
        return {
            "strip": [
                Line(
                    "A view that was not trained on: the truth, the client's rendering, its depth.",
                    shots(order, first, titles, colours, "truth, rendering, depth"),
                    340,
                ),
            ],
            "moving": moving,
            "about_designs": {name: DESIGNS[name].about for name in order if name in DESIGNS},
            "views": [
                {"name": view, "pictures": {m: media(f"{m}-{seed}-adapted-{view}") for m in order}}
                for view in views
            ],
            "film": film,
            "sheet": media("attack-sheet"),
            "grouped": rows,
            "one_holder": told_of(attacks["one_holder"]) if "one_holder" in attacks else "",
            "signs": attacks.get("signs_found") or {},
            "frontier": split_figures.leak_frontier(rows, attacks.get("baselines", {})),
            "curve": figures.over_rounds(
                events, order, titles, colours, ("psnr",), "PSNR of held-out views"
            ),
        }


def grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``fedapp attack`` with all metrics of one attack on one design beside each other."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault(
            (row["release"], row["attack"]),
            {"design": row["release"], "attack": row["attack"], "psnr": row.get("client_psnr")},
        )
        entry[row["metric"]] = row
        if row.get("succeeds") is not None:
            entry["succeeds"] = row["succeeds"]
    return list(found.values())


def told_of(chance: dict[str, float]) -> str:
    """The sentence about attacks on one holder that succeed by chance."""
    return (
        f"Of {chance['attacks']:.0f} attacks on what one holder of a sealed table sees, "
        f"{chance['succeed']:.0f} succeed; {chance['expected']:.1f} would by chance alone."
    )


def split_findings(methods: dict[str, Any], titles: dict[str, str]) -> Sentences:
    """Sentences a reader should not have to dig for, only where they hold."""
    known = {name: row["psnr"] for name, row in methods.items() if row.get("psnr") is not None}
    sentences: Sentences = []
    alone = {name: known[name] for name in ALONE if name in known}
    if alone:
        best = max(alone, key=lambda name: alone[name])
        for name in known:
            crosses = name in DESIGNS and DESIGNS[name].crosses
            if crosses and known[name] <= alone[best]:
                sentences.append(
                    (
                        "warning",
                        f"{titles[name]} renders held-out views at {known[name]:.1f} dB; a client "
                        f"that never sends anything reaches {alone[best]:.1f} dB "
                        f"({titles[best]}).",
                    )
                )
    if "sealed" in known and "unsplit" in known:
        gap = known["unsplit"] - known["sealed"]
        kind = "good" if gap <= CLOSE else "plain"
        sentences.append(
            (
                kind,
                f"The sealed table renders at {known['sealed']:.1f} dB, the same field in one "
                f"place at {known['unsplit']:.1f} dB.",
            )
        )
    if "split" in known:
        sentences.append(
            (
                "warning",
                "Without a defence the server's own features show the scene (`fedapp attack`).",
            )
        )
    return sentences
