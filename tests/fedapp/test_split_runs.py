"""Split learning over real messages: what crosses, what is refused, what survives a crash."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from kill_kit import killed_and_unbroken
from split_kit import SMALL, Run, apart, listening, rounds, state

from fedapp.config.designs import DESIGNS
from sim.inprocess import InProcessGrid
from strategies.flower.exchanges import request_of
from strategies.flower.records import FAILURE
from tasks.errors import StoppedError

ALL = ",".join(DESIGNS)
K, RAYS, SAMPLES = 2, 16, 4


@pytest.fixture
def run(run: Run, tmp_path: Path) -> Run:  # type: ignore[no-redef]
    return apart(run, tmp_path)


# ---------------------------------------------------------------------- whole runs
def test_every_design_trains_is_judged_and_reported(run: Run) -> None:
    folder = run(**{**SMALL, "methods": ALL, "report.page": True, "report.pictures": True})
    result = json.loads((folder.path / "result.json").read_text(encoding="utf-8"))
    for method in DESIGNS:
        row = result["methods"][method]
        assert 3 < row["psnr"] < 60 and len(row["views"]) == 3
        assert row["client_parameters"] > 0
    assert result["methods"]["unsplit"]["bytes_up_per_step"] < 2000, "orders, and nothing else"
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "Held-out views" in page and "shares of the table on two holders" in page
    assert (folder.pictures / "sealed-0-adapted-0000-0.png").exists()
    assert list(folder.videos.glob("sealed-0-tour.gif"))


def test_bytes_are_those_of_the_wire_format(run: Run) -> None:
    """Per step up and down: one number per ray, sample and unit that crosses, in its bytes."""
    big = {"split.rays": 256, "split.samples": 32}
    folder = run(**{**SMALL, **big, "methods": "split,sealed", "rounds": 1})
    wanted = {"split": (64 * 2, 64 * 2), "sealed": (8 * 8 + 8 * 4, 8 * 4 + 8 * 4)}
    for event in rounds(folder):
        up, down = (256 * 32 * each for each in wanted[event["method"]])
        # of a sealed table the peer's share goes up to the server and down to the client
        assert event["metrics"]["bytes_up_per_step"] == pytest.approx(up, rel=0.02)
        assert event["metrics"]["bytes_down_per_step"] == pytest.approx(down, rel=0.02)


def test_a_run_is_the_same_on_one_node_and_on_three(run: Run, tmp_path: Path) -> None:
    """But for who holds the second share, which changes no number."""
    folders = [
        run(nodes=nodes, **SMALL, methods="split,sealed", **{"run-dir": str(tmp_path / f"{nodes}")})
        for nodes in (2, 3)
    ]
    one, two = (state(folder) for folder in folders)
    for name in one:
        if not name.endswith(("share", "box")):
            assert torch.equal(one[name], two[name]), name


# ---------------------------------------------------------------------- what crosses
def test_no_message_holds_pixels_colours_densities_or_losses(run: Run) -> None:
    """Every field of every answer of real training legs is one of a list, and no array has the size
    of colours, densities or pictures. Negative control: a simulation's look with pictures."""
    allowed = {
        "train.leg": {"gradient", "seed", "box", "origin"},
        "query.leg": {"scores", "origin", "box", "peer"},
    }
    grid = listening()
    changes = {**SMALL, "methods": ALL, "split.metrics": False, "report.pictures": False}
    run(grid=grid, **changes)
    pictures = 4 * 8 * 8 * 3  # all of a scene
    seen = set()
    for message, reply in grid.heard:
        kind = message.metadata.message_type
        if kind == "query.hello":
            continue
        for name, part in reply.content.items():
            if name.startswith(("poses.", "facts.")):
                continue
            assert name in allowed[kind], name
            seen.add(name)
            if name == "scores":
                assert dict(part) == {}
            if isinstance(part, ArrayRecord):
                for key, value in part.items():
                    shape = tuple(value.shape)
                    crossing = shape[:2] == (K, RAYS * SAMPLES)
                    assert key in ("values", "scales", "share", "box")
                    assert crossing or shape == (K,) or len(shape) == 1
                    assert shape != (RAYS, 3) and shape != (RAYS, SAMPLES)
                    assert value.numpy().size != pictures
    assert seen == {"gradient", "seed", "box", "origin", "scores", "peer"}
    told = listening()
    run(grid=told, **{**changes, "methods": "split", "report.pictures": True, "rounds": 1})
    assert any("pictures" in reply.content for _, reply in told.heard)


def test_metrics_are_told_only_where_the_configuration_says_so(run: Run) -> None:
    folder = run(**{**SMALL, "methods": "split", "split.metrics": False})
    result = json.loads((folder.path / "result.json").read_text(encoding="utf-8"))
    assert result["methods"]["split"]["psnr"] is None


def test_guarantee_what_the_server_gets_of_a_sealed_scene_is_uniform(run: Run) -> None:
    """Real messages: shares of gradients up, and the peer's boxes; the gradients of the plain cut
    are the negative control."""
    from scipy.stats import chisquare

    def p_value(data: bytes) -> float:
        return float(chisquare(np.bincount(np.frombuffer(data, np.uint8), minlength=256)).pvalue)

    found: dict[str, list[float]] = {"share": [], "values": [], "box": []}
    for method in ("sealed", "split"):
        grid = listening()
        changes = {**SMALL, "methods": method, "rounds": 1, "split.rays": 128, "split.samples": 16}
        run(grid=grid, **changes)
        for _, reply in grid.heard:
            for name in ("gradient", "box"):
                if name in reply.content:
                    for key, value in reply.content[name].items():
                        if key != "scales":
                            found[key].append(p_value(value.numpy().tobytes()))
    # drawn from real secrets: the smallest of n p-values is below 1e-8 / n once in 10^8 runs
    for name in ("share", "box"):
        assert min(found[name]) > 1e-8 / len(found[name]), (name, min(found[name]))
    assert max(found["values"]) < 1e-12


# ---------------------------------------------------------------------- the protocol
def test_a_replayed_message_gets_the_same_bits(run: Run) -> None:
    """Every message of training is delivered twice; noise included."""
    differing: list[str] = []

    class Twice(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            if message.metadata.message_type != "train.leg":
                return super().deliver(message)
            first = super().deliver(copy.deepcopy(message))[0]
            second = super().deliver(message)
            for name, part in first.content.items():
                for key, value in part.items():
                    other = second[0].content[name][key]
                    one, two = (v.data if isinstance(v, Array) else v for v in (value, other))
                    if one != two:
                        differing.append(f"{name}.{key}")
            return second

    run(grid=Twice, **SMALL, methods="sealed,split,s2nerf,label-noise,unsplit")
    assert not differing


def test_another_request_for_an_answered_exchange_is_refused(run: Run) -> None:
    """A server would have two gradients under one noise."""
    reasons: list[str] = []

    class Curious(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            again = copy.deepcopy(message)
            replies = super().deliver(message)
            name = again.content["leg"]["name"] if "leg" in again.content else ""
            if name in ("exchange", "look") and "crossing" in again.content:
                values = again.content["crossing"]["values"].numpy().copy()
                values.flat[0] += 1
                again.content["crossing"]["values"] = Array(values)
                reasons.append(str(super().deliver(again)[0].content[FAILURE]["reason"]))
            return replies

    run(grid=Curious, **SMALL, methods="s2nerf")
    assert any("was answered to another request" in reason for reason in reasons)
    assert any("was judged on something else" in reason for reason in reasons)
    assert all("another request" in r or "something else" in r for r in reasons)


def test_a_request_is_what_it_says_and_nothing_beside(run: Run) -> None:
    """Two messages with one digest had a client answer twice under one noise; an overflow had it
    fail, and be asked again with something else, without end."""
    one, two = RecordDict(), RecordDict()
    one["a"] = ConfigRecord({"k": b"x\x1ey\x1fz"})
    two["a"] = ConfigRecord({"k": b"x"})
    two["y"] = ConfigRecord({"z": b""})
    assert request_of(one) != request_of(two)
    reasons: list[str] = []
    answers: list[bool] = []

    class Probing(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            leg = message.content["leg"]["name"] if "leg" in message.content else ""
            if leg == "exchange":
                more = copy.deepcopy(message)
                more.content["a"] = ConfigRecord({"k": b"x"})
                reasons.append(str(super().deliver(more)[0].content[FAILURE]["reason"]))
                share = message.content["crossing"]["share"].numpy().copy()
                share[:] = 2**31 - 1  # features of 2048: densities that overflow
                message.content["crossing"]["share"] = Array(share)
            replies = super().deliver(message)
            if leg == "exchange":
                answers.append(FAILURE not in replies[0].content)
            return replies

    with pytest.raises(StoppedError):  # what comes back is no answer to what was sent
        run(grid=Probing, **{**SMALL, "methods": "sealed", "rounds": 1})
    assert answers and all(answers), "an overflow is answered like anything else"
    assert all("has no record 'a'" in reason for reason in reasons)


def test_a_foreign_answer_is_refused_and_training_goes_on(run: Run) -> None:
    """An answer to another session, another exchange, another request; arrays of another shape or
    not finite: the scene stays where it was, the others go on."""
    lies: list[Callable[[Any], None]] = [
        lambda c: c["origin"].__setitem__("session", "x"),
        lambda c: c["origin"].__setitem__("exchange", 7),
        lambda c: c["origin"].__setitem__("request", "0" * 64),
        lambda c: c["gradient"].__setitem__("values", Array(np.zeros((1, 2, 3), np.float16))),
        lambda c: c["gradient"].__setitem__(
            "values", Array(np.full((K, RAYS * SAMPLES, 64), np.nan, np.float16))
        ),
        lambda c: c["gradient"].__setitem__("scales", Array(np.array([3.0, 1.0]))),
        lambda c: c.pop("gradient"),
    ]
    for lie in lies:
        done = []

        class Lying(InProcessGrid):
            def deliver(self, message: Message, lie: Any = lie, done: Any = done) -> list[Message]:
                replies = super().deliver(message)
                order = message.content.get("order")
                if order is not None and order["client"] == 1 and not done:
                    done.append(True)
                    lie(replies[0].content)
                return replies

        honest = run(**SMALL, methods="split")
        told = rounds(run(grid=Lying, **{**SMALL, "methods": "split", "rounds": 3}))
        assert done and "1" in told[0]["failures"] and told[0]["clients"]["ok"] == 2
        assert told[1]["failures"] == {} and told[1]["metrics"]["exchanges"] == 8
        assert honest


def test_a_node_that_dies_in_mid_exchange_goes_on_where_it_was(run: Run, tmp_path: Path) -> None:
    """Its answers of the first turn are lost after it trained; nothing of the training is."""
    whole = run(**{**SMALL, "methods": "sealed,split", "run-dir": str(tmp_path / "whole")})
    lost: list[str] = []

    class Dying(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            order = message.content.get("order")
            leg = message.content["leg"]["name"] if "leg" in message.content else ""
            if order is not None and order["client"] == 1 and order["exchange"] == 2:
                kind = f"{order['method']}-{leg}"
                if leg in ("exchange", "hold") and kind not in lost:
                    lost.append(kind)
                    replies[0].content.clear()
                    replies[0].content[FAILURE] = ConfigRecord({"reason": "killed"})
            return replies

    changes = {**SMALL, "methods": "sealed,split", "rounds": 2, "run-dir": str(tmp_path / "cut")}
    cut = run(grid=Dying, **changes)
    told = rounds(cut)
    assert sorted(lost) == ["sealed-exchange", "sealed-hold", "split-exchange"]
    assert any("killed" in reason for event in told for reason in event["failures"].values())
    first, second = state(whole), state(cut)
    for name in first:
        # (a sealed box of another exchange is another text)
        if name.split(".")[0].endswith(("/0", "/2")) and not name.endswith(("box", "share")):
            assert torch.equal(first[name], second[name]), "the others are not touched"


def test_resume_gives_the_same_bits(run: Run, tmp_path: Path) -> None:
    methods = "sealed,split,s2nerf,unsplit"
    whole = run(**{**SMALL, "methods": methods, "rounds": 4, "run-dir": str(tmp_path / "whole")})
    cut = {**SMALL, "methods": methods, "run-dir": str(tmp_path / "cut")}

    class Dies(InProcessGrid):
        """The server dies in its third turn."""

        sent = 0

        def deliver(self, message: Message) -> list[Message]:
            order = message.content.get("order")
            if order is not None and order["exchange"] == 6 and order["method"] == "split":
                raise KeyboardInterrupt
            return super().deliver(message)

    with pytest.raises(KeyboardInterrupt):
        run(grid=Dies, **{**cut, "rounds": 4})
    resumed = run(**{**cut, "rounds": 4, "resume": True})
    one, two = state(whole), state(resumed)
    # boxes are sealed with the keys of a run's own nodes
    kept = [name for name in one if not name.endswith("box")]
    assert not [name for name in kept if not torch.equal(one[name], two[name])]
    assert one.keys() == two.keys()


@pytest.mark.slow
def test_sigkill_after_a_random_round_through_the_command_line(tmp_path: Path) -> None:
    changes = {
        **SMALL,
        "methods": "sealed,split,s2nerf",
        "rounds": 10,
        "runtime.nodes": 2,
        "report.page": False,
        "split.metrics": True,
    }
    resumed, whole = killed_and_unbroken("split-nerf", changes, random.randint(2, 8), tmp_path)
    one, two = state(whole), state(resumed)
    # boxes are sealed with the keys of a run's own nodes
    kept = [name for name in one if not name.endswith("box")]
    assert one.keys() == two.keys() and len(kept) > 10
    assert not [name for name in kept if not torch.equal(one[name], two[name])]
    judged, judged_again = (
        {
            name: {key: value for key, value in row.items() if "bytes" not in key}
            for name, row in folder.read("result.json")["methods"].items()
        }
        for folder in (whole, resumed)
    )
    assert judged == judged_again and "psnr" in judged["sealed"]
