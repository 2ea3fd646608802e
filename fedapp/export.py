"""A run's adapter as a folder that diffusers loads, with a card: what it was trained on, and what
protects it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.report.findings import USEFUL
from fedapp.results import summarise
from fedapp.store.checkpoint import list_checkpoints, load_checkpoint
from fedapp.store.client_state import ClientState
from fedapp.store.runfolder import RunFolder
from tasks.atomic import as_umask_says
from tasks.errors import InputError
from tasks.talking_head.adapters import PERSONAL, SHARED, TARGETS
from tasks.talking_head.model import backbone_folder
from tasks.talking_head.task import TalkingHeadTask
from tasks.targets import new_folder


class Trained(NamedTuple):
    """A run's adapters: ``vectors`` has the shared one and, for a client, its personal one, in
    whole."""

    task: TalkingHeadTask
    arm: str
    round: int
    vectors: dict[str, Tensor]


def trained(folder: RunFolder, method: str, seed: int, client: int | None) -> Trained:
    """The adapters of a run's last checkpoint, and what this machine kept of a ``client``.

    Raises :class:`InputError` if the run is no talking head, has no checkpoint, or lacks the
    client.
    """
    pieces = Pieces.of(folder)
    experiment, task = pieces.experiment, pieces.task
    if not isinstance(task, TalkingHeadTask):
        raise InputError("task", experiment.task, "has no adapters", "name a talking-head run")
    files = list_checkpoints(folder.checkpoints)
    if not files:
        raise InputError(
            "run", str(folder.path), "has no checkpoint yet", "come back after its first round"
        )
    checkpoint = load_checkpoint(files[-1], {})
    arm = (
        f"{method or experiment.trained_methods[0]}-{experiment.seed_list[0] if seed < 0 else seed}"
    )
    if arm not in checkpoint.arms:
        raise InputError(
            "--method",
            arm,
            "the run has no such method and seed",
            f"it trained {', '.join(checkpoint.arms)}",
        )
    federation = checkpoint.federation(arm, pieces.rule)
    vectors = {SHARED: federation.result}
    if client is not None and not experiment.learner.adapters.personal_steps:
        raise InputError(
            "--client", client, "this run trained no personal adapters", "leave it out"
        )
    if client is not None:
        accepted = federation.accepted.get(client)
        if accepted is None:
            raise InputError("--client", client, "took part in no round", "name a client that did")
        kept = ClientState(folder.client_state / arm).read(client, accepted)
        vectors[PERSONAL] = task.personal_start() + kept["personal"]
    return Trained(task, arm, checkpoint.round, vectors)


def person_of(folder: RunFolder, client: int) -> str:
    """Name of the folder a client's number stands for here; it is exported nowhere."""
    name: str = Pieces.of(folder).task.client_data(client).name
    return name


def export_run(
    folder: RunFolder, out: Path, method: str, seed: int, client: int | None = None
) -> dict[str, Any]:
    """Write ``out/backbone``, ``out/shared`` and, for a ``client`` of this machine,
    ``out/personal``.

    Returns the card's facts. Each adapter folder holds ``pytorch_lora_weights.safetensors`` as
    ``save_lora_adapter`` writes it, alpha and rank in its metadata. Raises :class:`InputError` as
    :func:`trained` does.
    """
    out = new_folder("--out", out)
    task, arm, round, vectors = trained(folder, method, seed, client)
    experiment = folder.experiment
    facts = _facts(folder, experiment, task, arm, round, client)
    found = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        for name, vector in vectors.items():
            write_adapter(task, name, vector, out / name)
        shutil.copytree(backbone_folder(task.settings), out / "backbone")
        as_umask_says(out / "backbone")
        as_umask_says(out / SHARED)  # a personal one stays its owner's
        (out / "README.md").write_text(card(facts), encoding="utf-8")
        (out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(
            out
        )  # it was empty: all in it is ours, and half an export looks like a whole one
        if found:
            out.mkdir()
        raise
    return facts


def write_adapter(task: TalkingHeadTask, name: str, vector: Tensor, folder: Path) -> None:
    """One adapter (``shared`` or ``personal``) through PEFT and diffusers, on a denoiser of their
    own."""
    from peft import LoraConfig, set_peft_model_state_dict

    from tasks.talking_head.backbone import Backbone

    adapters, head = task.model(torch.device("cpu")).adapters, task.settings.talking_head
    unet = Backbone.load(backbone_folder(task.settings)).unet
    unet.add_adapter(
        LoraConfig(r=head.rank, lora_alpha=head.alpha, target_modules=list(adapters.matched())),
        name,
    )
    state = {
        f"{key}.weight": value.contiguous().clone()
        for key, value in adapters.tensors(name, vector).items()
    }
    wrong: Any = set_peft_model_state_dict(unet, state, adapter_name=name)
    if wrong.unexpected_keys:  # PEFT does not complain by itself
        raise RuntimeError(f"PEFT knows no {wrong.unexpected_keys[0]}")
    unet.save_lora_adapter(folder, adapter_name=name, safe_serialization=True)


def _facts(
    folder: RunFolder,
    experiment: Experiment,
    task: TalkingHeadTask,
    arm: str,
    round: int,
    client: int | None,
) -> dict[str, Any]:
    result = summarise(folder)
    noised = result["epsilon"] is not None
    model = task.model(torch.device("cpu"))
    about = model.backbone.about
    return {
        "run": folder.path.name,
        "arm": arm,
        "round": round,
        "client": client,
        "rule": experiment.rule,
        "release": experiment.release,
        "data": "recordings of the run's owner; their folder is not named here"
        if experiment.data.path
        else "parametric people, drawn by a program; no real person",
        "backbone": {
            "class": type(model.backbone.unet).__name__,
            "trained": about.get("trained"),
            "digest": model.digest,
            "recipe": about.get("recipe"),
            "history": about.get("history", []),
        },
        "people": experiment.clients.total,
        "cohort": experiment.clients.per_round or experiment.clients.total,
        "unit_of_privacy": "one person: everything a client holds" if noised else None,
        "epsilon": result["epsilon"],
        "delta": result["delta"],
        "lora": {
            "mode": experiment.talking_head.lora,
            "rank": experiment.talking_head.rank,
            "alpha": experiment.talking_head.alpha,
            "targets": TARGETS,
        },
        "mouth_corr": result["methods"].get(arm.rsplit("-", 1)[0], {}).get("mouth_corr"),
    }


def card(facts: dict[str, Any]) -> str:
    """The model card, in Markdown."""
    if facts["epsilon"] is None:
        privacy = (
            f"None is claimed: release `{facts['release']}` adds no noise. An adapter "
            "can tell whose it is."
        )
    else:
        privacy = (
            f"Client-level differential privacy, release `{facts['release']}`: epsilon "
            f"{facts['epsilon']:.3f} at delta "
            f"{facts['delta']:g} with known cohorts. Unit: {facts['unit_of_privacy']}."
            + (
                ""
                if facts["epsilon"] <= USEFUL
                else f" Above {USEFUL:g} that promises next to nothing."
            )
        )
    personal = (
        f"\n`personal/` is the personal adapter of client {facts['client']}. It was never sent "
        "to anybody, and "
        "no guarantee covers it: give it away only if that person "
        "wants to.\n"
        if facts["client"] is not None
        else ""
    )
    base, lora = facts["backbone"], facts["lora"]
    options = f'prefix=None, use_safetensors=True, adapter_name="{SHARED}"'
    load = f'unet.load_lora_adapter("{SHARED}", {options})'
    if facts["client"] is not None:
        load += (
            "\n"
            + load.replace(SHARED, PERSONAL)
            + f"""\nunet.set_adapters(["{SHARED}", "{PERSONAL}"])"""
        )
    came_from = "".join(
        f"\n  - went on from `{parent['digest']}`: {parent['trained']}"
        for parent in base["history"]
    )
    size = f"rank {lora['rank']}, alpha {lora['alpha']}, mode {lora['mode']}"
    return f"""# Talking-head adapter of run {facts["run"]}

Method and seed `{facts["arm"]}`, rule `{facts["rule"]}`, after round {facts["round"]}.

- **Data**: {facts["data"]}; {facts["people"]} people, {facts["cohort"]} a round.
- **Backbone** (`backbone/`): {base["trained"]}; SHA-256 of its weights
  `{base["digest"]}`.{came_from}
- **Adapter** (`shared/`): LoRA on {", ".join(lora["targets"])}; {size}.
- **Privacy**: {privacy}
{personal}
```python
from diffusers import {base["class"]}

unet = {base["class"]}.from_pretrained("backbone", subfolder="unet")
{load}
```

It draws the face it is given a picture of. Use it only on people who agree to be shown saying
things.
"""
