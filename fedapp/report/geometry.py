"""Heads in a report: how far meshes are from the truth, what the server saw, what it made of it."""

from __future__ import annotations

from typing import Any

from fedapp.report.colours import colours_of
from fedapp.report.families import Sentences, Shown
from fedapp.report.geometry_page import GEOMETRY_PAGE
from fedapp.report.media import Line, Media, shots
from fedapp.report.table import Column, Table

NEAR = 1.25  # of full RGB: what the paper's claim comes to


class Geometry:
    """The family of fitted heads."""

    template = GEOMETRY_PAGE
    covers = frozenset(
        {
            "chamfer_face",
            "chamfer_head",
            "floor_face",
            "floor_head",
            "face_of",
            "normals",
            "watertight",
            "without_surface",
            "opacity_bound_held",
            "seconds_per_step",
            "outside_range",
        }
    )

    def tables(self, shown: Shown) -> list[Table | None]:
        clients = sorted(
            {name for row in shown.rows.values() for name in row.get("face_of") or {}}, key=int
        )
        return [
            shown.table(
                "distance from the true surface (1e-3 head heights)",
                [
                    Column("face ↓", ("chamfer_face",)),
                    Column("floor", ("floor_face",)),
                    Column("head ↓", ("chamfer_head",)),
                    Column("floor", ("floor_head",)),
                    Column("normals ↑", ("normals",), 3),
                    Column("watertight", ("watertight",)),
                    *(Column(f"client {c}", ("face_of", c)) for c in clients),
                ],
                "Chamfer distance: mean of both mean distances to the nearest of many surface "
                "samples (head.samples), not squared, means over clients; clients: their faces. "
                "The floor is what two samplings of the truth are apart. Only simulations know "
                "the truth.",
            ),
            shown.table(
                "work",
                [
                    Column("seconds per step and head", ("seconds_per_step",), 4),
                    Column("rays within the sampler's bound", ("opacity_bound_held",), 3),
                ],
                "The bound is VolSDF's, for a true distance function: opacities off by 0.1 at "
                "most.",
            ),
        ]

    def findings(self, shown: Shown) -> Sentences:
        return geometry_findings(shown.result["methods"], shown.titles)

    def exhibits(self, shown: Shown, events: list[dict[str, Any]], media: Media) -> dict[str, Any]:
        order, titles, colours = shown.order, shown.titles, colours_of(shown.order)
        from fedapp.report.geometry_figures import leak_frontier
        from fedapp.report.mesh_viewer import VIEWER, meshes

        seed = shown.experiment.seed_list[0]
        views = sorted({index for m in order for index in media.indices(f"{m}-{seed}-adapted")})
        attacks = media.folder.read("attack.json")
        frontier = attacks.get("frontier") or []
        chance = attacks.get("chance") or 0.0
        films = {m: media.video(f"{m}-{seed}-tour") for m in order}
        people = [
            {"name": view, "pictures": {m: media(f"{m}-{seed}-adapted-{view}") for m in order}}
            for view in views
            if view.endswith("-0")
        ]
        heads: dict[str, str | None] = {}
        for person in people[:1]:
            heads = {m: media(f"{m}-{seed}-adapted-{person['name']}") for m in order}
        return {
            "strip": [
                Line(
                    "Client 0: the truth from the front, the side and behind; the fit's colours; "
                    "its surface.",
                    shots(order, heads, titles, colours, "truth, colours, surface"),
                    1000,
                ),
                Line("A turn around it.", shots(order, films, titles, colours, "a turn"), 160, 200),
            ],
            "frontier": frontier,
            "chance": chance,
            "plot": leak_frontier(frontier, chance) if frontier else "",
            "sheet": media("attack-sheet"),
            "people": people,
            "seen": {
                m: media(f"{m}-{seed}-adapted-{view}")
                for m in order
                for view in views
                if view.endswith("-1")
            },
            "meshes": meshes(media.folder.path, list(order), seed),
            "viewer": VIEWER,
        }


def geometry_findings(methods: dict[str, Any], titles: dict[str, str]) -> Sentences:
    """Sentences a reader should not have to dig for, only where they hold."""
    face = {n: r["chamfer_face"] for n, r in methods.items() if r.get("chamfer_face") is not None}
    sentences: Sentences = []
    if {"stage1", "stage2"} <= face.keys():
        ratio = face["stage2"] / face["stage1"]
        sentences.append(
            (
                "good" if ratio < 1 else "warning",
                f"With obscured frontal views the face is {ratio:.2f} times as far from the truth "
                f"as without ({titles['stage1']}).",
            )
        )
    if {"full_rgb", "stage2"} <= face.keys():
        ratio = face["stage2"] / face["full_rgb"]
        sentences.append(
            (
                "good" if ratio <= NEAR else "plain",
                f"It is {ratio:.2f} times as far as with all views in colour.",
            )
        )
    if face:
        sentences.append(
            (
                "warning",
                "Edges and geometry identify people to whoever has a trained matcher and a "
                "gallery: an operator takes colours away, not identity.",
            )
        )
    return sentences
