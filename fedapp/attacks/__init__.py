"""``fedapp attack``: what a server could do with a run's updates, under each release, in numbers
and pictures.

``next_round`` makes the clients' next updates again and takes the server's view of them;
``field_round`` and ``head_round`` add what is known of neural fields and of adapters. Each attack
is a class in a file of its own, derived from one of ``base``, and a line in ``ATTACKS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tasks.atomic import write_json
from tasks.errors import InputError, nearest
from tasks.registry import load

if TYPE_CHECKING:
    from fedapp.attacks.base import Attack
    from fedapp.attacks.next_round import NextRound, Row
    from fedapp.config.pieces import Pieces
    from fedapp.store.runfolder import RunFolder

OUTCOME = "attack.json"
CLIENTS = 12  # whose updates are attacked, if nobody says otherwise
# In the order in which they are tried. A name with several classes means whichever applies.
ATTACKS: dict[str, tuple[str, ...]] = {
    "render": ("fedapp.attacks.render:Render",),
    "readout": ("fedapp.attacks.linearised:LinearisedInversion",),
    "inversion": ("fedapp.attacks.inversion:Inversion",),
    "linkage": (
        "fedapp.attacks.linkage:Linkage",
        "fedapp.attacks.shape_linkage:ShapeLinkage",
    ),
    "membership": (
        "fedapp.attacks.membership:Membership",
        "fedapp.attacks.sum_membership:SumMembership",
    ),
    "transcript": ("fedapp.attacks.transcript:Transcript",),
}


def attack_run(
    folder: RunFolder, name: str, clients: int, tell: Callable[[str], None], method: str = ""
) -> list[Row]:
    """Run attacks on the trained methods of a run's first seed.

    Raises :class:`InputError` where the run is of another kind than the attack.

    Args:
        folder: of the run.
        name: of an attack, or ``all`` that apply.
        clients: whose updates are attacked, at most.
        tell: shows progress.
        method: the one to attack; empty: every trained one.
    """
    from fedapp.attacks.base import ReleaseAttack
    from fedapp.config.pieces import Pieces

    pieces = Pieces.of(folder)
    experiment = pieces.experiment
    methods = experiment.trained_methods
    if method and method not in methods:
        raise InputError("--method", method, "the run did not train it", nearest(method, methods))
    view = server_view(folder, pieces, clients)
    attacks = _applicable(view, name, experiment.task, tell)
    by_release = [attack for attack in attacks if isinstance(attack, ReleaseAttack)]
    once = [attack for attack in attacks if not isinstance(attack, ReleaseAttack)]
    seed = experiment.seed_list[0]
    rows: list[Row] = []
    for one in [method] if method else methods:
        tell(view.opening(one))
        if by_release:
            # Each release's update is made once: all attacks look at the same noise
            for release, held in view.releases(one, seed):
                for on_release in by_release:
                    rows += on_release.run_on(one, seed, release, held)
        for attack in once:
            rows += attack.run(one, seed)
        rows += view.remarks(one, seed)
    return rows


def keep(folder: RunFolder, rows: list[Row]) -> dict[str, Any]:
    """Write what attacks found into a run's folder, from where its report takes it."""
    found = {"run": str(folder.path), "rows": rows}
    write_json(folder.path / OUTCOME, found)
    return found


def attack_at_end(folder: RunFolder, tell: Callable[[str], None]) -> None:
    """The attacks that ``report.attacks`` names, at a run's end; they need the clients' data, so
    there are none on a run of real devices."""
    rows: list[Row] = []
    for name in folder.experiment.report.attack_list:
        try:
            rows += attack_run(folder, name, CLIENTS, tell)
        except InputError as error:
            tell(f"{name} was not tried: {error.reason} (report.attacks)")
    if rows:
        keep(folder, rows)


def server_view(folder: RunFolder, pieces: Pieces, clients: int) -> NextRound:
    """The view a run's server has of its next round, of at most so many clients."""
    if pieces.task_type.family == "head":
        from fedapp.attacks.head_round import HeadRound

        return HeadRound(folder, clients)
    if pieces.task_type.family == "field":
        from fedapp.attacks.field_round import FieldRound

        return FieldRound(folder, clients)
    from fedapp.attacks.next_round import NextRound

    return NextRound(folder, clients)


def _applicable(view: NextRound, name: str, task: str, tell: Callable[[str], None]) -> list[Attack]:
    """The named attack, or all, as far as they apply."""
    found: dict[str, Attack] = {}
    for known in ATTACKS:
        for reference in ATTACKS[known]:
            kind = load("attack", reference, {})
            if kind.applies(view):
                found[known] = kind(view, tell)
    if name != "all" and name not in found:
        raise InputError(
            "--name", name, f"no such attack on task {task}", nearest(name, [*found, "all"])
        )
    return list(found.values()) if name == "all" else [found[name]]
