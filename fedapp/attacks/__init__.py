"""``fedapp attack``: what a server could do with a run's updates, under each release, in numbers
and pictures.

``stage`` makes the clients' next updates again and takes the server's view of them; ``fields`` and
``heads`` are what can be done with neural fields and with adapters.
"""

from __future__ import annotations

from collections.abc import Callable

from fedapp.attacks.stage import Row
from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError, nearest

FIELD_ATTACKS = ("render", "readout", "inversion", "membership", "transcript")
HEAD_ATTACKS = ("linkage", "membership", "transcript")
ANY_ATTACKS = ("transcript",)


def attack_run(
    folder: RunFolder, name: str, clients: int, tell: Callable[[str], None], method: str = ""
) -> list[Row]:
    """Run the named attack (or all that fit) on every trained method of a run's first seed, or on
    one ``method``.

    Raises :class:`InputError` where the run is of another kind than the attack.
    """
    from fedapp.config.pieces import Pieces

    pieces = Pieces.of(folder)
    experiment = pieces.experiment
    methods = experiment.trained_methods
    if method and method not in methods:
        raise InputError("--method", method, "the run did not train it", nearest(method, methods))
    heads, fields = pieces.task.family == "head", pieces.task.family == "field"
    known = HEAD_ATTACKS if heads else FIELD_ATTACKS if fields else ANY_ATTACKS
    if name not in (*known, "all"):
        raise InputError(
            "--name",
            name,
            f"no such attack on task {experiment.task}",
            nearest(name, [*known, "all"]),
        )
    chosen, wanted = list(known) if name == "all" else [name], [method] if method else methods
    if heads:
        from fedapp.attacks.heads import attack_heads

        return attack_heads(folder, chosen, clients, wanted, tell)
    if fields:
        from fedapp.attacks.fields import attack_fields

        return attack_fields(folder, chosen, clients, wanted, tell)
    from fedapp.attacks.stage import Stage

    stage = Stage(folder, clients)
    return [row for one in wanted for row in stage.transcript(one, experiment.seed_list[0])]
