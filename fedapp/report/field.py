"""Neural fields in a report: what the server sees of uploads, what a new client gets."""

from __future__ import annotations

from typing import Any

from fedapp.report.families import Sentences, Shown
from fedapp.report.field_page import FIELD_PAGE
from fedapp.report.findings import findings
from fedapp.report.media import Line, Media, Shot, moving, picture, shots
from fedapp.report.table import Column, Table

STRIP = 3  # rows of the first picture
NO_STRIP: dict[str, Any] = {"rows": [], "halves": []}
# words for what a client holds; ``column``: width of a contact sheet in px; 0: single pictures
KINDS = {
    "image": {
        "noun": "picture",
        "held": "one private picture",
        "one": "picture",
        "many": "pictures",
        "field": "SIREN",
        "column": 0,
    },
    "video": {
        "noun": "clip",
        "held": "a private clip",
        "one": "clip",
        "many": "clips",
        "field": "SIREN",
        "column": 300,
    },
    "nerf": {
        "noun": "object",
        "held": "a few views of a private object",
        "one": "object, seen from places the field was not fitted to",
        "many": "objects",
        "field": "radiance field",
        "column": 190,
    },
}
OTHER = {
    "noun": "signal",
    "held": "a private signal",
    "one": "signal",
    "many": "signals",
    "field": "neural field",
    "column": 0,
}


class Fields:
    """The family of neural fields."""

    template = FIELD_PAGE
    covers = frozenset(
        {
            "psnr_p",
            "psnr_p_affine",
            "correlation_p",
            "psnr_floor",
            "range_excess",
            "psnr",
            "ssim",
            "psnr_tuned",
            "psnr_unseen_tuned",
            "rates_tuned",
            "outside_range",
        }
    )

    def tables(self, shown: Shown) -> list[Table | None]:
        experiment = shown.experiment
        steps = experiment.evaluation.step_list
        kind = KINDS.get(experiment.task, OTHER)
        last = str(steps[-1])
        return [
            shown.table(
                "what rendering an upload shows",
                [
                    Column("PSNR_p mean ↓", ("psnr_p", "mean")),
                    Column("worst client ↓", ("psnr_p", "max")),
                    Column("after affine fit ↓", ("psnr_p_affine", "mean")),
                    Column("correlation ↓", ("correlation_p", "mean")),
                    Column("constant colour", ("psnr_floor", "mean")),
                    Column("outside [0, 1]", ("range_excess", "mean")),
                ],
                "PSNR_p compares the rendering of a client's upload with its private "
                f"{kind['noun']}; the worst client is the one it shows best. “Outside” is how far "
                "the rendering lies from the data range on average. Means over seeds and clients.",
            ),
            shown.table(
                f"PSNR of {kind['many']} no client holds, after k steps",
                [Column(f"PSNR@{k} ↑", ("psnr", str(k))) for k in steps]
                + [Column(f"SSIM@{k} ↑", ("ssim", str(k)), 3) for k in shown_steps(steps)],
                f"After k steps of test-time optimisation on {experiment.data.held_out} "
                f"{kind['many']} no client holds, at step size {experiment.evaluation.rate:g}, the "
                "same for all.",
            ),
            shown.table(
                "the same with the step size tuned for each method",
                [Column(f"PSNR@{k} ↑", ("psnr_tuned", str(k))) for k in steps]
                + [Column(f"chosen at k = {last}", ("rates_tuned", last))]
                + [
                    Column(f"unseen samples@{k} ↑", ("psnr_unseen_tuned", str(k)))
                    for k in steps[-1:]
                ],
                f"Tuned by cross-fitting over {experiment.evaluation.rates}: each is reported at "
                "the step size that was best for the others. Unseen samples: fitted to a random "
                "half, judged on the other.",
            ),
        ]

    def findings(self, shown: Shown) -> Sentences:
        experiment = shown.experiment
        return findings(
            shown.result, shown.titles, experiment.evaluation.rate_list, experiment.learner
        )

    def exhibits(self, shown: Shown, events: list[dict[str, Any]], media: Media) -> dict[str, Any]:
        from fedapp.report import figures
        from fedapp.report.colours import colours_of

        experiment, result, order = shown.experiment, shown.result, shown.order
        trained, titles = shown.trained, shown.titles
        colours = colours_of(order)
        steps, seed = experiment.evaluation.step_list, experiment.seed_list[0]
        step = 16 if 16 in steps else steps[-1]
        plain = experiment.release == "plain"
        kind = KINDS.get(experiment.task, OTHER)
        clients = _clients(events, trained, seed, media) if plain else []
        # an attack that was cut off has left pictures without numbers
        outcome = media.folder.read("attack.json").get("rows", [])
        attacked = _attacked(trained, media) if outcome else []
        newcomers = _new_clients(order, seed, steps, media)
        single = not kind["column"]  # contact sheets are too wide for a strip of columns
        films = _films(order, seed, media)
        return {
            "kind": kind,
            "first": _strip(shown, clients, attacked, newcomers, colours) if single else NO_STRIP,
            "of_sums": _of_sums(_under(attacked), attacked, outcome),
            "films": films,
            "strip": [] if single else _sheets(shown, clients, films, colours),
            "moving": moving,
            "shown_steps": shown_steps(steps),
            "clients": clients,
            "attacked": attacked,
            "new_clients": newcomers,
            "curve_p": figures.over_rounds(
                events, trained, titles, colours, ("psnr_p", "mean"), "PSNR_p (dB), mean"
            ),
            "curve_k": figures.over_rounds(
                events,
                trained,
                titles,
                colours,
                ("psnr", str(step)),
                f"PSNR after {step} steps (dB)",
            ),
            "curve_tto": figures.over_steps(result, order, titles, colours),
            "frontier": figures.frontier(result, trained, titles, colours, str(step)),
        }


def shown_steps(steps: list[int]) -> list[int]:
    """Numbers of steps of which there are pictures."""
    return [step for step in steps if step in (16, 64)] or steps[-2:]


def _clients(
    events: list[dict[str, Any]], trained: list[str], seed: int, media: Media
) -> list[dict[str, Any]]:
    """A row per client: the private picture, and the rendering of its upload under each method."""
    last: dict[str, dict[str, Any]] = {}
    for event in events:
        if "by_client" in event and event["seed"] == seed:
            last[event["method"]] = event["by_client"]
    rows = []
    for index in media.indices("private"):
        client = str(int(index))
        numbers = {
            method: {name: table.get(client) for name, table in last.get(method, {}).items()}
            for method in trained
        }
        rendered = {method: media(f"{method}-{seed}-rendered-{index}") for method in trained}
        private = media(f"private-{index}")
        rows.append(
            {"client": client, "private": private, "rendered": rendered, "numbers": numbers}
        )
    return rows


def _strip(
    shown: Shown,
    clients: list[dict[str, Any]],
    attacked: list[dict[str, Any]],
    newcomers: list[dict[str, Any]],
    colours: dict[str, str],
) -> dict[str, Any]:
    """The first thing a reader looks at: a few private pictures, what the server makes of them
    (rendered, and as far as attacks were run inverted, from an upload and from sums), and what
    somebody new gets."""
    titles, trained = shown.titles, shown.trained
    last = shown_steps(shown.experiment.evaluation.step_list)[-1]
    under = _under(attacked)
    found = [row for row in attacked if row["method"] == under]
    best = _strongest(found)
    heads = [_held(name) for name, _ in found[0]["shots"] if name in best] if found else []
    columns = [("private", "")] if clients or found else []
    columns += [(f"{titles[m]}, rendered", colours[m]) for m in trained] if clients else []
    columns += [(f"{titles[under]}, {name}", colours[under]) for name in heads if under]
    columns += [("held by nobody", "")]
    columns += [(f"{titles[m]}, k = {last}", colours[m]) for m in shown.order]
    rows = []
    for number in range(min(STRIP, len(newcomers))):
        row: list[tuple[str, str | None]] = []
        if clients or found:
            client = clients[number] if number < len(clients) else None
            attack = found[number] if number < len(found) else None
            row.append(("private picture", (client or attack or {}).get("private")))
            if clients:
                row += [(titles[m], client["rendered"][m] if client else None) for m in trained]
            images = [image for name, image in attack["shots"] if name in best] if attack else []
            row += list(zip(heads, images or [None] * len(heads), strict=True))
        new = newcomers[number]
        row += [("held by nobody", new["truth"])]
        row += [(f"{titles[m]} after {last} steps", new["adapted"][m][last]) for m in shown.order]
        rows.append(row)
    # on a narrow page the second half, of those who are new, goes below the first
    cut = [title for title, _ in columns].index("held by nobody")
    halves = [
        (columns[:cut], [row[:cut] for row in rows]),
        (columns[cut:], [r[cut:] for r in rows]),
    ]
    return {"rows": rows, "halves": [half for half in halves if half[0]]}


def _under(attacked: list[dict[str, Any]]) -> str | None:
    """The method whose attacked updates come first: the one that hides nothing, if it was run."""
    methods = [row["method"] for row in attacked]
    return "maml" if "maml" in methods else next(iter(methods), None)


def _of_sums(
    under: str | None, attacked: list[dict[str, Any]], outcome: list[dict[str, Any]]
) -> str:
    """Numbers of the renderings of sums, where the first strip shows those."""
    if not _strongest(attacked) or any(n.startswith("inv") for n in _strongest(attacked)):
        return ""
    rows = [
        row for row in outcome
        if (row["attack"], row["method"], row["metric"]) == ("render", under, "psnr")
        and row["release"] != "plain" and row["value"] is not None
    ]  # fmt: skip
    told = [f"{row['value']:.1f} dB under {row['release']}" for row in rows]
    floor = f"; the pictures' mean colours give {rows[0]['floor']:.1f} dB" if rows else ""
    return ", ".join(told) + floor


def _strongest(found: list[dict[str, Any]]) -> list[str]:
    """Names of the pictures of the attack to show first: inversion; where only renderings were
    made, those of sums (of uploads the strip has them already)."""
    names = [name for name, _ in found[0]["shots"]] if found else []
    inverted = [name for name in names if name.startswith("inversion")]
    return inverted or [n for n in names if n.startswith("render") and not n.endswith(" plain")]


def _held(name: str) -> str:
    """``inversion on central-dp``: what was done, and with what, in a reader's words."""
    attack, _, release = name.partition(" on ")
    what = {"plain": "the upload", "secagg": "a sum"}.get(release, "a noised sum")
    return f"{ {'inversion': 'inverted', 'render': 'rendered'}.get(attack, attack) } from {what}"


def _sheets(
    shown: Shown,
    clients: list[dict[str, Any]],
    films: list[dict[str, Any]],
    colours: dict[str, str],
) -> list[Line]:
    """The same for clips and objects: a client's frames or views and what the server renders of
    them, then a film of somebody new under each method."""
    lines = []
    noun = KINDS[shown.experiment.task]["noun"]
    if clients:
        row = clients[0]
        private = picture(row["private"], f"private {noun}")
        seen = shots(shown.trained, row["rendered"], shown.titles, colours, "rendered upload")
        lines.append(
            Line(
                f"A client's {noun}, and what a server renders of its upload (inverting it "
                "can be stronger).",
                [Shot("private", "", private), *seen],
            )
        )
    if films:
        steps = shown.experiment.evaluation.step_list[-1]
        alt = "truth, shared model, adapted"
        played = shots(shown.order, films[0]["videos"], shown.titles, colours, alt)
        title = f"Held by nobody: the truth, the shared model as it is, after {steps} steps."
        lines.append(Line(title, played))
    return lines


def _films(order: list[str], seed: int, media: Media) -> list[dict[str, Any]]:
    """A row per film (a clip, a turntable) that evaluations made, with each method's."""
    names = sorted({name for m in order for name in media.films(f"{m}-{seed}")})
    return [
        {"name": name, "videos": {m: media.video(f"{m}-{seed}-{name}") for m in order}}
        for name in names
    ]


VIEWS = ("render-plain", "readout-plain", "inversion-plain", "inversion-secagg")
SUMS = ("render-secagg",)
RUNGS = ("render-", "readout-", "inversion-")


def _noise(kind: str) -> tuple[bool, str]:
    return "dp" in kind, kind


def _attacked(trained: list[str], media: Media) -> list[dict[str, Any]]:
    """A row per client that `fedapp attack` pictured: the truth, and what each attack got from each
    view."""
    rows = []
    for method in trained:
        # "fedmenf" must not take the pictures of "fedmenf-unbounded"
        own = [
            index
            for index in media.indices(f"attack-{method}")
            if index.startswith(RUNGS) and "known" not in index
        ]
        kinds = sorted({index.rsplit("-", 1)[0] for index in own})
        noised = [kind for kind in kinds if "inversion" in kind and "dp" in kind]
        order = [kind for kind in VIEWS if kind in kinds] + noised
        if not any("inversion" in kind for kind in kinds):
            order += sorted((kind for kind in kinds if kind in SUMS or "dp" in kind), key=_noise)
        for client in sorted({index.rsplit("-", 1)[1] for index in own}):
            shots = [
                (kind.replace("-", " on ", 1), media(f"attack-{method}-{kind}-{client}"))
                for kind in order
            ]
            rows.append({"method": method, "private": media(f"private-{client}"), "shots": shots})
    return rows


def _new_clients(
    order: list[str], seed: int, steps: list[int], media: Media
) -> list[dict[str, Any]]:
    """A row per held-out signal: the truth, and each method's field after k steps of adaptation."""
    return [
        {
            "truth": media(f"held-out-{index}"),
            "adapted": {
                m: {k: media(f"{m}-{seed}-adapted-{index}-{k:03d}") for k in steps} for m in order
            },
        }
        for index in media.indices("held-out")
    ]
