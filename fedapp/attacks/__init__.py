"""``fedapp attack``: what a server could do with a run's updates, under each release, in numbers and pictures.

``stage`` makes the clients' next updates again and takes the server's view of them; ``fields`` and ``heads`` are what
can be done with neural fields and with adapters.
"""

from __future__ import annotations

from collections.abc import Callable

from fedapp.attacks.stage import Row
from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError, nearest

FIELD_ATTACKS = ("render", "readout", "inversion", "membership", "transcript")
HEAD_ATTACKS = ("linkage", "membership", "transcript")


def attack_run(folder: RunFolder, name: str, clients: int, tell: Callable[[str], None]) -> list[Row]:
    """Run the named attack (or all that fit) on every trained method of a run's first seed.

    Raises :class:`InputError` where the run is of another kind than the attack.
    """
    from fedapp.config.experiment import Experiment

    task = Experiment.from_run_config(folder.config).task
    heads = task == "talking-head"
    known = HEAD_ATTACKS if heads else FIELD_ATTACKS
    if name not in (*known, "all"):
        raise InputError("--name", name, f"no such attack on task {task}", nearest(name, [*known, "all"]))
    chosen = list(known) if name == "all" else [name]
    if heads:
        from fedapp.attacks.heads import attack_heads

        return attack_heads(folder, chosen, clients, tell)
    from fedapp.attacks.fields import attack_fields

    return attack_fields(folder, chosen, clients, tell)
