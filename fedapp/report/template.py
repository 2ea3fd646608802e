"""Templates of heads in a report: what they say of newcomers, and newcomers' faces that began with
them."""

from __future__ import annotations

from typing import Any

from fedapp.report.colours import colours_of
from fedapp.report.families import Sentences, Shown
from fedapp.report.media import Line, Media, shots
from fedapp.report.plain_page import PLAIN_PAGE
from fedapp.report.table import Column, Table
from strategies.local import LOCAL

PUBLIC = "public template"


class Templates:
    """The family of templates."""

    template = PLAIN_PAGE
    covers = frozenset(
        {
            "chamfer_face", "chamfer_head", "chamfer_face_start", "chamfer_head_start",
            "mean_residual", "basis_residual", "outside_range", "loss",
        }
    )  # fmt: skip

    def tables(self, shown: Shown) -> list[Table | None]:
        own = shown.experiment
        return [
            shown.table(
                "newcomers: distance from the true surface (1e-3 head heights)",
                [
                    Column("face ↓", ("chamfer_face",)),
                    Column("before", ("chamfer_face_start",)),
                    Column("head ↓", ("chamfer_head",)),
                    Column("before", ("chamfer_head_start",)),
                    Column("mean off by", ("mean_residual",)),
                    Column("mean and components", ("basis_residual",)),
                ],
                f"{own.data.held_out} people nobody trained on, with {own.template.views} frontal "
                f"views and none from behind, after {own.template.local_steps} steps on their own "
                f"device, and before any. Local: the public template ({own.template.people} "
                f"people, hair {own.template.style}; clients: {own.head.style}). Off by: mean "
                "absolute distance on the lattice, cut off at 0.2.",
            )
        ]

    def findings(self, shown: Shown) -> Sentences:
        return template_findings(shown.result["methods"], shown.titles)

    def exhibits(self, shown: Shown, events: list[dict[str, Any]], media: Media) -> dict[str, Any]:
        seed = shown.experiment.seed_list[0]
        heads = {m: media(f"{m}-{seed}-adapted-0000-0") for m in shown.order}
        title = (
            "A newcomer: above the truth, in the middle the template (from the front, the side and "
            "behind), below the head after the newcomer's own steps."
        )
        colours = colours_of(shown.order)
        return {"strip": [Line(title, shots(shown.order, heads, shown.titles, colours, "heads"))]}


def template_findings(methods: dict[str, Any], titles: dict[str, str]) -> Sentences:
    """Whether the federated template is better than the public one it began with."""
    public = methods.get(LOCAL, {}).get("chamfer_face")
    if public is None:
        return []
    sentences: Sentences = []
    for name, row in methods.items():
        face = row.get("chamfer_face")
        if name == LOCAL or face is None:
            continue
        sentences.append(
            (
                "good" if face < public else "warning",
                f"Newcomers that begin with the federated template ({titles[name]}) end "
                f"{face / public:.2f} times as far from the truth as with the {PUBLIC}.",
            )
        )
    return sentences
