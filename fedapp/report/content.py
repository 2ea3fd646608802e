"""What a report says: events, numbers and pictures of a run gathered for the page."""

from __future__ import annotations

import base64
import shlex
from typing import Any

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import read_recipe, recipe_names, written
from fedapp.report import figures
from fedapp.report.findings import attack_findings, findings
from fedapp.results import own_names, summarise
from fedapp.store.runfolder import RunFolder
from strategies.local import LOCAL

TITLES = {
    "fedmenf": "FedMeNF", "fedmenf-unbounded": "FedMeNF unbounded (exact clip)", "maml": "MAML", "fomaml": "FOMAML",
    "reptile": "Reptile", "erm": "ERM", "adapters": "LoRA adapters", LOCAL: "Local", "meta-nsgd": "meta-NSGD",
    "fedmenf-adaptive": "FedMeNF, γ from a budget", "fedmenf-first-order": "FedMeNF, first order",
}  # fmt: skip
COLOURS = {
    "fedmenf": "#0f766e", "fedmenf-unbounded": "#7c3aed", "maml": "#dc2626", "fomaml": "#ea580c",
    "reptile": "#ca8a04", "erm": "#2563eb", "adapters": "#0f766e", LOCAL: "#64748b",
}  # fmt: skip
SPARE = ("#0891b2", "#be185d", "#4d7c0f", "#9333ea")


KINDS = {
    "image": {
        "noun": "picture", "held": "one private picture", "one": "picture", "many": "pictures", "field": "SIREN",
        "column": 0,
    },
    "video": {
        "noun": "clip", "held": "a private clip", "one": "clip", "many": "clips", "field": "SIREN", "column": 300,
    },
    "nerf": {
        "noun": "object", "held": "a few views of a private object", "field": "radiance field", "column": 190,
        "one": "object, seen from places the field was not fitted to", "many": "objects",
    },
}  # fmt: skip  # ``column``: width of a contact sheet in px; 0: single pictures


def view(folder: RunFolder) -> dict[str, Any]:
    """Everything the page shows, ready to print. ``page`` names its template."""
    experiment = Experiment.from_run_config(folder.config)
    events, result = list(folder.events()), summarise(folder)
    methods = experiment.method_list
    order = sorted(methods, key=lambda name: (name == LOCAL, methods.index(name)))
    colours = {
        name: COLOURS.get(name, SPARE[index % len(SPARE)]) for index, name in enumerate(order)
    }
    shared = {
        "name": folder.path.name,
        "experiment": experiment,
        "about": folder.read("run.json"),
        "status": folder.status,
        "result": result,
        "order": order,
        "trained": [name for name in order if name != LOCAL],
        "titles": {name: TITLES.get(name, name) for name in order},
        "colours": colours,
        "steps": experiment.evaluation.step_list,
        "attacks": folder.read("attack.json").get("rows", []),
        "audit": folder.read("audit.json"),
        "failures": [event for event in events if event["event"] == "round" and event["failures"]],
        "config": experiment.to_run_config(),
        "defaults": Experiment().to_run_config(),
        "reproduce": _command(folder, experiment),
        "number": lambda value, digits=2: (
            f"{value:.{digits}f}" if isinstance(value, int | float) else "–"
        ),
    }
    if experiment.task == "talking-head":
        from fedapp.report.head import head_view

        return shared | head_view(shared, events, Media(folder))
    if experiment.task not in KINDS and not any(row["psnr"] for row in result["methods"].values()):
        return shared | _plain_view(shared, events)
    return shared | _field_view(shared, events, Media(folder))


def _plain_view(shared: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    """What is shown of a task nothing is known about: the numbers it measured by itself."""
    seen = attack_findings(shared["attacks"], shared["titles"])
    return {"page": "plain", "measured": own_names(events), "findings": seen}


def _command(folder: RunFolder, experiment: Experiment) -> str:
    """What to type for the same run: its recipe and what was changed of it, or else its own
    config.json."""
    runtime, config = folder.read("run.json").get("runtime", "ray"), experiment.to_run_config()
    if experiment.recipe not in recipe_names():
        return f"fedapp run {shlex.quote(str(folder.path / 'config.json'))} --runtime {runtime}"
    base = known_keys() | read_recipe(experiment.recipe)
    changed = {
        key: value
        for key, value in config.items()
        if key not in ("run-dir", "resume") and value != base[key]
    }
    options = [f"-o {shlex.quote(f'{key}={written(value)}')}" for key, value in changed.items()]
    return " \\\n  ".join([f"fedapp run {experiment.recipe} --runtime {runtime}", *options])


def _field_view(
    shared: dict[str, Any], events: list[dict[str, Any]], images: Media
) -> dict[str, Any]:
    """What only reports of neural fields show."""
    experiment, result, order = shared["experiment"], shared["result"], shared["order"]
    trained, titles, colours, steps = (
        shared[key] for key in ("trained", "titles", "colours", "steps")
    )
    seed = experiment.seed_list[0]
    return {
        "page": "field",
        "kind": KINDS[experiment.task] if experiment.task in KINDS else KINDS["image"],
        "films": _films(order, seed, images),
        "shown_steps": [step for step in steps if step in (16, 64)] or steps[-2:],
        "findings": attack_findings(shared["attacks"], titles)
        + findings(result, titles, experiment.evaluation.rate_list),
        "clients": _clients(events, trained, seed, images) if experiment.release == "plain" else [],
        "attacked": _attacked(trained, images),
        "new_clients": _new_clients(order, seed, steps, images),
        "curve_p": figures.over_rounds(
            events, trained, titles, colours, "psnr_p", "mean", "PSNR_p (dB), mean"
        ),
        "curve_k": figures.over_rounds(
            events,
            trained,
            titles,
            colours,
            "psnr",
            str(_shown(steps)),
            f"PSNR after {_shown(steps)} steps (dB)",
        ),
        "curve_tto": figures.over_steps(result, order, titles, colours),
        "frontier": figures.frontier(result, trained, titles, colours, str(_shown(steps))),
    }


def _shown(steps: list[int]) -> int:
    return 16 if 16 in steps else steps[-1]


class Media:
    """Pictures and videos of the run as data URIs; ``None`` where the run has none."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def video(self, name: str) -> tuple[str, str] | None:
        """``(kind, data URI)`` of an mp4, or of the gif where there is no mp4."""
        for kind in ("mp4", "gif"):
            file = self.folder.videos / f"{name}.{kind}"
            if file.exists():
                mime = "video/mp4" if kind == "mp4" else "image/gif"
                return kind, f"data:{mime};base64,{base64.b64encode(file.read_bytes()).decode()}"
        return None

    def films(self, prefix: str) -> list[str]:
        """Names of the videos with a prefix."""
        return [
            file.stem.removeprefix(f"{prefix}-")
            for file in self.folder.videos.glob(f"{prefix}-*.gif")
        ]

    def __call__(self, name: str) -> str | None:
        file = self.folder.pictures / f"{name}.png"
        if not file.exists():
            return None
        return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()

    def indices(self, prefix: str) -> list[str]:
        names = sorted(file.stem for file in self.folder.pictures.glob(f"{prefix}-*.png"))
        return [name.removeprefix(f"{prefix}-") for name in names]


def _clients(
    events: list[dict[str, Any]], trained: list[str], seed: int, images: Media
) -> list[dict[str, Any]]:
    """One row a client: the private picture, and what its upload renders to under each method."""
    last: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "round" and event["seed"] == seed and "by_client" in event:
            last[event["method"]] = event["by_client"]
    rows = []
    for index in images.indices("private"):
        client = str(int(index))
        numbers = {
            method: {name: table.get(client) for name, table in last.get(method, {}).items()}
            for method in trained
        }
        rendered = {method: images(f"{method}-{seed}-rendered-{index}") for method in trained}
        rows.append(
            {
                "client": client,
                "private": images(f"private-{index}"),
                "rendered": rendered,
                "numbers": numbers,
            }
        )
    return rows


def _films(order: list[str], seed: int, media: Media) -> list[dict[str, Any]]:
    """One row a film (a clip, a turntable) that evaluations made, with each method's."""
    names = sorted({name for m in order for name in media.films(f"{m}-{seed}")})
    return [
        {"name": name, "videos": {m: media.video(f"{m}-{seed}-{name}") for m in order}}
        for name in names
    ]


VIEWS = ("render-plain", "readout-plain", "inversion-plain", "inversion-secagg")
RUNGS = ("render-", "readout-", "inversion-")


def _attacked(trained: list[str], images: Media) -> list[dict[str, Any]]:
    """One row a client that `fedapp attack` pictured: the truth, and what each attack got from each
    view."""
    rows = []
    for method in trained:
        # "fedmenf" must not take the pictures of "fedmenf-unbounded"
        own = [
            index
            for index in images.indices(f"attack-{method}")
            if index.startswith(RUNGS) and "known" not in index
        ]
        kinds = sorted({index.rsplit("-", 1)[0] for index in own})
        order = [kind for kind in VIEWS if kind in kinds] + [
            kind for kind in kinds if "inversion" in kind and "dp" in kind
        ]
        clients = sorted({index.rsplit("-", 1)[1] for index in own})
        for client in clients:
            shots = [
                (kind.replace("-", " on ", 1), images(f"attack-{method}-{kind}-{client}"))
                for kind in order
            ]
            rows.append({"method": method, "private": images(f"private-{client}"), "shots": shots})
    return rows


def _new_clients(
    order: list[str], seed: int, steps: list[int], images: Media
) -> list[dict[str, Any]]:
    """One row a held-out picture: the truth, and each method's field after k steps of
    adaptation."""
    return [
        {
            "truth": images(f"held-out-{index}"),
            "adapted": {
                m: {k: images(f"{m}-{seed}-adapted-{index}-{k:03d}") for k in steps} for m in order
            },
        }
        for index in images.indices("held-out")
    ]
