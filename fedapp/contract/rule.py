"""The contract of an aggregation rule: clauses that hold whatever the rule does.

A clause takes a rule (a name, a reference or a class) and raises ``AssertionError`` where it is
broken. Which apply follows from the rule's traits, never from its name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from fedapp.contract.play import LEARNER, UNCLIPPED, Rounds, distance
from fedapp.contract.quadratic import QuadraticTask
from strategies.federation import Federation
from strategies.rule import Rule
from strategies.rules import RULES
from strategies.settings import RuleSettings
from strategies.types import Broadcast, LocalResult
from tasks.registry import load

Name = str | type[Rule]
TARGETS = [[1.0, 0.0, 2.0], [-3.0, 1.0, 0.5], [0.0, 4.0, -1.0], [2.0, 2.0, 2.0]]
EXAMPLES = [3, 1, 2, 5]  # a weighted rule must not get by with equal weights
TOLERANCE = 1e-12  # of float64 sums in another order


class Clause(NamedTuple):
    """A clause: what it demands, when it applies, and its check."""

    demand: str
    check: Callable[[Name], None]
    applies: Callable[[Any], bool] = lambda rule: True


def class_of(rule: Name) -> Any:
    """The rule's class."""
    return load("rule", rule, RULES) if isinstance(rule, str) else rule


def _rounds(rule: Name, **options: Any) -> Rounds:
    return Rounds(QuadraticTask(TARGETS, EXAMPLES), rule, clients=4, **options)


def _is_a_rule(rule: Name) -> None:
    made = class_of(rule)(RuleSettings())
    assert isinstance(made, Rule), "a rule derives from strategies.rule.Rule"
    known = {name for kind in Rule.__mro__ for name in vars(kind)} | set(Rule.__annotations__)
    own = [kind for kind in type(made).__mro__ if kind not in Rule.__mro__]
    public = {
        name
        for kind in own
        for name, value in vars(kind).items()
        if not name.startswith("_")
        and name not in known
        and not callable(value)
        and not isinstance(value, classmethod | staticmethod | property)
    }
    assert not public, f"no such trait: {sorted(public)}"


def _contributes_what_it_says(rule: Name) -> None:
    game = _rounds(rule)
    game.go()
    payload = game.results[0].payload
    assert payload is not None and payload.count == 4
    assert payload.vector.numel() == game.rule.size(3)
    assert payload.scalars.keys() == game.rule.scalars.keys()


def _moves_towards_the_clients(rule: Name) -> None:
    game = _rounds(rule)
    weights = torch.tensor(EXAMPLES, dtype=torch.float64)
    targets = torch.tensor(TARGETS, dtype=torch.float64)
    centres = [targets.mean(0), (weights[:, None] * targets).sum(0) / weights.sum()]

    def away() -> float:
        return min(distance(game.federation.result, centre) for centre in centres)

    before = away()
    game.go(20)
    reached = away()  # of what is judged, which need not be the last iterate
    assert reached < 0.3 * before, f"{reached:.3g} from the clients' centre after 20 rounds"


def _rows_are_clients(rule: Name) -> None:
    """Row c of a contribution depends on row c of what was trained alone."""
    made = class_of(rule)(UNCLIPPED)
    draw = torch.Generator().manual_seed(0)
    delta = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    model = torch.zeros(3, dtype=torch.float64)
    received: Broadcast = made.broadcast(model, made.init(model), 1)
    sizes = {**dict.fromkeys(made.memory, 3), **made.memory_sizes}
    memory = {
        name: torch.rand(4, size, generator=draw, dtype=torch.float64)
        for name, size in sizes.items()
    }
    signals = {name: torch.rand(4, generator=draw, dtype=torch.float64) for name in made.signals}

    def contributed(rows: slice) -> Any:
        count = len(range(4)[rows])
        local = LocalResult(
            delta[rows],
            torch.full((count,), 3.0, dtype=torch.float64),
            LEARNER.outer_rate,
            torch.tensor(EXAMPLES, dtype=torch.float64)[rows],
            signals={name: values[rows] for name, values in signals.items()},
        )
        return made.contribute(local, received, {n: v[rows] for n, v in memory.items()})

    whole, kept = contributed(slice(0, 4))
    for client in range(4):
        alone, remembered = contributed(slice(client, client + 1))
        assert distance(alone.vector[0], whole.vector[client]) < TOLERANCE
        assert distance(alone.weight[0], whole.weight[client]) < TOLERANCE
        for name, scalar in whole.scalars.items():
            assert distance(alone.scalars[name].value[0], scalar.value[client]) < TOLERANCE
        for name, rows in kept.items():
            assert distance(remembered[name][0], rows[client]) < TOLERANCE


def _packing_does_not_matter(rule: Name) -> None:
    """Chunks of one, some and all of nine clients, for more rounds than a rule could sleep
    through."""

    def played(chunk: int, nodes: int) -> Any:
        draw = torch.Generator().manual_seed(1)
        targets = (4 * torch.rand(9, 3, generator=draw) - 2).tolist()
        task = QuadraticTask(targets, [1 + client % 3 for client in range(9)])
        return Rounds(task, rule, clients=9, chunk=chunk).go(6, nodes=nodes)

    one = played(9, 1)
    for chunk, nodes in ((1, 4), (4, 1), (2, 2)):
        other = played(chunk, nodes)
        assert distance(one, other) < TOLERANCE, f"chunks of {chunk} on {nodes} nodes differ"


def _same_layout_same_bits(rule: Name) -> None:
    assert torch.equal(_rounds(rule).go(3), _rounds(rule).go(3))


def _at_its_optimum_a_client_adds_nothing(rule: Name) -> None:
    game = Rounds(QuadraticTask([[0.0, 0.0, 0.0]]), rule, clients=1)
    assert not game.go().any()


def _server_clip_bounds_the_step(rule: Name) -> None:
    game = _rounds(rule, rules=RuleSettings(server_clip=0.01))
    norm = float(game.go().norm())
    assert abs(norm - 0.01) < 1e-6 * 0.01, f"the first step has norm {norm:.6g}"


def _a_skipped_round_can_be_checkpointed(rule: Name) -> None:
    """Nobody drawn, or nothing in the sum: the state is still what it started as."""
    federation = Federation.start(class_of(rule)(RuleSettings()), 4, torch.zeros(3))
    federation.skip(1)
    with tempfile.TemporaryDirectory() as folder:
        save_file(federation.snapshot().tensors, Path(folder) / "round.safetensors")


def _partial_participation_runs(rule: Name) -> None:
    game = _rounds(rule, per_round=2)
    assert torch.isfinite(game.go(6)).all() and len(game.federation.accepted) > 2


CLAUSES: dict[str, Clause] = {
    "is-a-rule": Clause("derives from Rule and states no trait that does not exist", _is_a_rule),
    "contributes": Clause(
        "contributes as many numbers and scalars as it says", _contributes_what_it_says
    ),
    "moves": Clause("moves the model towards the clients", _moves_towards_the_clients),
    "rows": Clause("each client's contribution depends on that client alone", _rows_are_clients),
    "packing": Clause(
        "the model does not depend on how clients are packed", _packing_does_not_matter
    ),
    "bits": Clause("the same layout gives the same bits", _same_layout_same_bits),
    "optimum": Clause(
        "a client at its optimum adds nothing in the first round",
        _at_its_optimum_a_client_adds_nothing,
    ),
    "server-clip": Clause(
        "rules.server-clip bounds each move of the model",
        _server_clip_bounds_the_step,
        lambda rule: bool(rule.bounded_step),
    ),
    "checkpoint": Clause(
        "its state can be saved before anything was learned", _a_skipped_round_can_be_checkpointed
    ),
    "participation": Clause("some of the clients are enough", _partial_participation_runs),
}


def check_rule(rule: Name) -> dict[str, str]:
    """Run every clause: ``{clause: ""}`` where it holds, the reason where it does not, ``"does not
    apply"`` where a trait says so."""
    found = {}
    for name, clause in CLAUSES.items():
        if not clause.applies(class_of(rule)):
            found[name] = NOT_APPLIED
            continue
        try:
            clause.check(rule)
            found[name] = ""
        except Exception as error:  # a rule that raises breaks the clause it raised in
            found[name] = f"{type(error).__name__}: {error}"
    return found


NOT_APPLIED = "does not apply"
