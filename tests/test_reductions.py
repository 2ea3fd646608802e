"""The lattice of reductions through whole runs: messages, rounds and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder

Run = Callable[..., RunFolder]


def models(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The final model of every arm."""
    tensors = load_file(list_checkpoints(folder.checkpoints)[-1])
    return {
        name.removesuffix("/model"): value
        for name, value in tensors.items()
        if name.endswith("/model")
    }


def only_model(run: Run, tmp_path: Any, name: str, **changes: Any) -> torch.Tensor:
    folder = run(**{"run-dir": str(tmp_path / name), "evaluation.uploads": False, **changes})
    (model,) = models(folder).values()
    return model


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (
            {"rule": "fedprox", "rules.fedprox.mu": 0.0, "methods": "maml"},
            {"rule": "fedavg", "methods": "maml"},
        ),
        (
            {
                "rule": "fedacg",
                "rules.fedacg.momentum": 0.0,
                "rules.fedacg.beta": 0.0,
                "methods": "maml",
            },
            {"rule": "fedavg", "methods": "maml"},
        ),
        (
            {"rule": "fedexp", "methods": "maml", "clients.total": 1, "clients.min": 1},
            {"rule": "fedavg", "methods": "maml", "clients.total": 1, "clients.min": 1},
        ),
        ({"methods": "fedmenf", "learner.fedmenf.gamma": 0.0}, {"methods": "maml"}),
        ({"methods": "maml", "learner.inner-steps": 0}, {"methods": "erm"}),
        ({"methods": "fedmenf", "learner.fedmenf.cap": 0.0}, {"methods": "fedmenf-unbounded"}),
    ],
    ids=[
        "fedprox(0)=fedavg",
        "fedacg(0,0)=fedavg",
        "fedexp(one client)=fedavg",
        "fedmenf(0)=maml",
        "maml(K=0)=erm",
        "fedmenf(no cap)=unbounded",
    ],
)
def test_reduction(run: Run, tmp_path: Any, left: dict[str, Any], right: dict[str, Any]) -> None:
    # erm draws one batch an outer step and maml(K=0) too: the streams agree
    assert torch.equal(
        only_model(run, tmp_path, "left", **left), only_model(run, tmp_path, "right", **right)
    )


def test_fednova_with_equal_steps_is_fedavg(run: Run, tmp_path: Any) -> None:
    """Divided by tau and multiplied again: equal up to rounding."""
    nova = only_model(run, tmp_path, "nova", rule="fednova", methods="maml")
    torch.testing.assert_close(
        nova, only_model(run, tmp_path, "avg", methods="maml"), rtol=1e-5, atol=1e-7
    )


def test_the_lattice_is_not_trivial(run: Run, tmp_path: Any) -> None:
    """Negative control: neighbours in the lattice that must differ do."""
    different = [
        {"methods": "maml"},
        {"methods": "fedmenf"},
        {"methods": "fomaml"},
        {"methods": "reptile"},
        {"methods": "erm"},
        {"methods": "maml", "rule": "fedprox"},
        {"methods": "maml", "rule": "scaffold"},
        {"methods": "maml", "rule": "fedacg"},
        {"methods": "fedmenf-first-order"},
        {"methods": "fedmenf-adaptive", "learner.fedmenf.zeta": 1e-4},
        {"methods": "meta-nsgd"},
    ]
    found = [only_model(run, tmp_path, str(i), **changes) for i, changes in enumerate(different)]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert not torch.equal(one, other)


@pytest.mark.parametrize("rule", ["fedavg", "scaffold"])
def test_packing_changes_nothing_but_float_summation(run: Run, tmp_path: Any, rule: str) -> None:
    """Law 1: all clients in one node, or one client a node."""
    packed = only_model(run, tmp_path, "packed", nodes=1, methods="fedmenf", rule=rule)
    spread = only_model(run, tmp_path, "spread", nodes=4, methods="fedmenf", rule=rule)
    torch.testing.assert_close(packed, spread, rtol=1e-4, atol=1e-6)


def test_same_seed_same_layout_same_bits(run: Run, tmp_path: Any) -> None:
    changes = {"methods": "fedmenf,maml", "rule": "scaffold"}
    one = models(run(**{"run-dir": str(tmp_path / "one"), **changes}))
    two = models(run(**{"run-dir": str(tmp_path / "two"), **changes}))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    other = models(run(**{"run-dir": str(tmp_path / "other"), "seeds": "1", **changes}))
    assert not torch.equal(one["maml-0"], other["maml-1"])


def test_methods_do_not_influence_each_other(run: Run, tmp_path: Any) -> None:
    alone = models(run(**{"run-dir": str(tmp_path / "alone"), "methods": "maml"}))
    beside = models(
        run(**{"run-dir": str(tmp_path / "beside"), "methods": "fedmenf,reptile,maml,local"})
    )
    assert torch.equal(alone["maml-0"], beside["maml-0"])
