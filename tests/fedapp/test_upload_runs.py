"""Obscured upload over real messages: what crosses, what a device refuses, what resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from device_kit import Town
from flwr.app import ArrayRecord, Message
from photograph_kit import AZIMUTHS, REAR, pictures_of, write_idr
from split_kit import Run, apart, listening, rounds, state

from fedapp.config.experiment import Experiment
from fedapp.workflows import UPLOAD
from privacy.secagg.identity import Policy
from sim.inprocess import InProcessGrid
from strategies.flower.records import FAILURE
from strategies.flower.wire import from_array
from tasks.errors import InputError, StoppedError
from tasks.head.export import read_ply

TINY: dict[str, Any] = {
    **UPLOAD.smallest,
    "clients.total": 2,
    "clients.min": 1,
    "report.pictures": False,
    "evaluation.every": 2,
}


@pytest.fixture
def run(run: Run, tmp_path: Path) -> Run:  # type: ignore[no-redef]
    return apart(run, tmp_path)


def test_every_method_is_fitted_judged_and_reported(run: Run) -> None:
    methods = "stage1,stage2,stage2-published,full_rgb,neutral_rgb,joint,gradient_only"
    folder = run(**{**TINY, "methods": methods})
    found = folder.read("result.json")["methods"]
    assert set(found) == set(methods.split(","))
    for row in found.values():
        assert row["chamfer_face"] > row["floor_face"] > 0 and row["watertight"] == 1
    assert len(list((folder.path / "meshes").glob("*.ply"))) == 14
    assert len(read_ply(folder.path / "meshes" / "stage2-0-0001.ply").faces) > 50


def test_a_template_needs_no_neutral_views(run: Run) -> None:
    folder = run(
        **{**TINY, "methods": "template", "rounds": 3, "evaluation.every": 3,
           "head.neutral-views": 0, "template.people": 3, "template.components": 2}
    )  # fmt: skip
    row = folder.read("result.json")["methods"]["template"]
    assert row["chamfer_face"] > row["floor_face"]
    with pytest.raises(InputError, match="stage2 is fitted to neutral views"):
        run(**{**TINY, "head.neutral-views": 0})


def test_own_photographs_are_fitted_and_a_person_without_rear_views_is_left_out(
    run: Run, tmp_path: Path
) -> None:
    front = [index for index in range(len(AZIMUTHS)) if index not in REAR]
    for name, chosen in (("anna", list(range(len(AZIMUTHS)))), ("bert", front)):
        write_idr(tmp_path / "people", tuple(part[chosen] for part in pictures_of(0)), name=name)
    own = {**TINY, "data.path": str(tmp_path / "people"), "head.front": "+z"}
    folder = run(**own)
    (event,) = [e for e in rounds(folder) if e["round"] == 1 and e["method"] == "stage2"]
    assert event["clients"]["ok"] == 1 and "no neutral views" in event["failures"]["1"]
    assert len(list((folder.path / "meshes").glob("stage2-*.ply"))) == 1
    assert folder.read("result.json")["methods"]["stage2"]["chamfer_face"] is None
    with pytest.raises(InputError, match=r"head\.front"):
        run(**{**own, "head.front": ""})


def test_the_report_shows_people_and_what_the_server_had(run: Run) -> None:
    folder = run(**{**TINY, "methods": "stage2", "report.pictures": True, "report.page": True})
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "Stages 1 and 2" in page and "What the server had of client 0" in page
    assert (folder.pictures / "stage2-0-adapted-0000-1.png").exists()


def test_no_colour_of_a_sensitive_view_crosses(run: Run) -> None:
    """Of frontal views a message holds one number per pixel and their cameras; the neutral views
    are the rear ones. Negative control: full RGB sends frontal colours."""
    from math import atan2, degrees

    def frontal_colours(methods: str) -> list[int]:
        grid = listening()
        run(grid=grid, **{**TINY, "methods": methods})
        found = []
        for _, reply in grid.heard:
            for name, part in reply.content.items():
                if not isinstance(part, ArrayRecord):
                    continue
                assert set(part) <= {"values", "valid", "poses", "intrinsics", "gradient"}
                values = from_array(part["values"])
                if values.dim() == 4:
                    assert name == "neutral" and values.shape[-1] == 3
                    eyes = from_array(part["poses"])[:, :3, 3]
                    angles = [abs(degrees(atan2(float(e[0]), float(e[2])))) for e in eyes]
                    found += [int(angle < 100) for angle in angles]
                elif name == "obscured":
                    assert values.dim() == 3, "one number per pixel"
        return found

    assert sum(frontal_colours("stage2")) == 0
    assert sum(frontal_colours("full_rgb")) > 0


def test_resume_gives_the_same_bits_and_arms_share_their_first_stage(
    run: Run, tmp_path: Path
) -> None:
    whole = run(**{**TINY, "methods": "stage1,stage2", "run-dir": str(tmp_path / "whole")})
    cut = {**TINY, "methods": "stage1,stage2", "run-dir": str(tmp_path / "cut")}
    from fedapp.store.runfolder import RunFolder

    append = RunFolder.append

    def dies(self: RunFolder, event: dict[str, Any]) -> None:
        if event.get("round") == 2 and event["event"] == "round":
            raise KeyboardInterrupt
        append(self, event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            run(**cut)
    resumed = run(**{**cut, "resume": True})
    one, two = state(whole), state(resumed)
    assert one.keys() == two.keys() and one
    assert not [name for name in one if not torch.equal(one[name], two[name])]
    first = [e for e in rounds(whole) if e["round"] == 1]
    assert first[0]["metrics"]["seconds_per_step"] is not None
    assert first[1]["metrics"]["seconds_per_step"] is None, "the very same stage"


# ---------------------------------------------------------------------- real devices
def town_run(run: Run, town: Town, **changes: Any) -> Any:
    return run(nodes=town.nodes, grid=town.grid(), **{**TINY, **town.changes("plain"), **changes})


def test_a_device_sends_what_its_policy_names_and_judges_nothing(run: Run, tmp_path: Path) -> None:
    town = Town(tmp_path, 2, Policy())
    with pytest.raises(StoppedError, match="not among what this node takes part in"):
        town_run(run, town, methods="stage2")
    town.limit(Policy(designs=("obscured",)))
    folder = town_run(run, town, methods="stage2", **{"run-dir": str(tmp_path / "b")})
    assert folder.read("result.json")["methods"]["stage2"]["chamfer_face"] is None
    with pytest.raises(StoppedError, match="full-rgb are not among"):
        town_run(run, town, methods="full_rgb", **{"run-dir": str(tmp_path / "c")})


def test_no_run_says_which_side_of_a_head_is_its_back(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that turned the heads round would be sent faces in colour."""
    from math import acos, degrees

    write_idr(tmp_path / "photographs", pictures_of(0))
    town = Town(tmp_path, 1, Policy(designs=("obscured",)))
    said: dict[str, Any] = {"data-path": str(tmp_path / "photographs"), "front": "+z"}
    before = Town.told
    monkeypatch.setattr(Town, "told", lambda town, number: before(town, number) | said)

    def rear(name: str, **changes: Any) -> list[float]:
        """Degrees between where the face looks and the cameras of what is sent in colour."""
        grid = listening()
        run(
            nodes=1,
            grid=town.grid(grid),
            **{**TINY, **town.changes("plain"), "methods": "stage2", "data.hosted": "none",
               **changes, "run-dir": str(tmp_path / name)},
        )  # fmt: skip
        (reply,) = [r.content for _, r in grid.heard if "neutral" in r.content]
        eyes = from_array(reply["neutral"]["poses"])[:, :3, 3]
        return [degrees(acos(float(eye[2] / eye.norm()))) for eye in eyes]

    lies = {"head.front": "-z", "head.up": "-y", "head.facing-neutral": True}
    honest, lied = rear("a"), rear("b", **lies)
    assert honest == lied and len(honest) == len(REAR) and min(honest) > 105
    shutil.rmtree(town.home(0) / "uploaded")  # (its pictures have left in one way, for good)
    said["front"] = "-z"  # the control: its owner can
    assert len(rear("c")) == 2
    del said["front"]
    with pytest.raises(StoppedError, match=r"head\.front"):
        rear("d", **lies)


def test_data_of_heads_are_for_heads_and_leave_at_the_size_their_owner_says(
    run: Run, tmp_path: Path
) -> None:
    town = Town(tmp_path, 2, Policy(designs=("obscured",), pixels=24))
    with pytest.raises(StoppedError, match="task image is not among those the data here are for"):
        run(nodes=2, grid=town.grid(), **town.changes("plain"))
    changes = {"data.size": 32, "run-dir": str(tmp_path / "large")}
    with pytest.raises(StoppedError, match="up to 24 pixels per side"):
        town_run(run, town, methods="stage2", **changes)
    town_run(run, town, methods="stage2", **{"run-dir": str(tmp_path / "ok")})
    town.limit(Policy(tasks=("nerf",)))
    with pytest.raises(StoppedError, match="task image is not among"):
        run(nodes=2, grid=town.grid(), **{**town.changes("plain"), "run-dir": str(tmp_path / "x")})


def test_pictures_leave_through_one_operator_for_good(run: Run, tmp_path: Path) -> None:
    """Noise that is drawn anew for every operator would average out; the same one again is the same
    bits, in another run too."""
    noisy = "modulus,noise=0.1"
    town = Town(tmp_path, 2, Policy(designs=("obscured",), operator=noisy))

    def sent(name: str, **changes: Any) -> list[torch.Tensor]:
        grid = listening()
        run(
            nodes=2,
            grid=town.grid(grid),
            **{**TINY, **town.changes("plain"), "methods": "stage2", **changes,
               "run-dir": str(tmp_path / name)},
        )  # fmt: skip
        return [
            from_array(reply.content["obscured"]["values"]).clone()
            for _, reply in grid.heard
            if "obscured" in reply.content
        ]

    first, again = (sent(name, **{"head.operator": noisy}) for name in "ab")
    assert first and all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    with pytest.raises(StoppedError, match="not through 'modulus'"):
        sent("c", **{"head.operator": "modulus"})
    with pytest.raises(StoppedError, match="both could be put together"):
        sent("d", **{"head.operator": noisy, "data.size": 16})
    other = "modulus,noise=0.2"
    town.limit(Policy(designs=("obscured",), operator=other))  # its owner's second thought
    with pytest.raises(StoppedError, match="both could be put together"):
        sent("e", **{"head.operator": other})


def test_lies_about_an_upload_are_refused_and_the_others_go_on(run: Run) -> None:
    """A foreign answer, a camera that is none, colours where magnitudes belong."""

    class Lying(InProcessGrid):
        lie = ""

        def deliver(self, message: Message) -> list[Message]:
            replies = super().deliver(message)
            content = replies[0].content
            order = message.content.get("order", {})
            if FAILURE in content or order.get("client") != 1 or "facts" not in content:
                return replies
            if self.lie == "origin":
                content["origin"]["client"] = 0
            elif self.lie == "camera":
                poses = from_array(content["obscured"]["poses"]).clone() * 2
                from strategies.flower.wire import to_array

                content["obscured"]["poses"] = to_array(poses)
            else:
                content["obscured"]["values"] = content["neutral"]["values"]
            return replies

    for lie, reason in (("origin", "another order"), ("camera", "right angles"),
                        ("colours", "one number per pixel")):  # fmt: skip
        Lying.lie = lie
        folder = run(grid=Lying, **{**TINY, "methods": "stage2"})
        (event, *_) = rounds(folder)
        assert event["clients"]["ok"] == 1 and reason in json.dumps(event["failures"])


# ---------------------------------------------------------------------- what does not compose
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"methods": "maml"}, "methods"),
        ({"methods": "stage3"}, "methods"),
        ({"methods": "own"}, "methods"),
        ({"head.stages": '[{"name": "a", "steps": 1}]'}, "head.stages"),
        ({"methods": "own", "head.stages": "{"}, "head.stages"),
        ({"methods": "own", "head.stages": '[{"name": "a"}]'}, "head.stages"),
        ({"methods": "own", "head.stages": '[{"name": "a", "steps": 1, "x": 1}]'}, "head.stages"),
        ({"rounds": 1, "methods": "stage2"}, "rounds"),
        ({"head.neutral-views": 0, "methods": "stage2"}, "head.neutral-views"),
        ({"head.operator": "noise=1,colour"}, "head.operator"),
        ({"head.patch": 60}, "head.patch"),
        ({"head.field": "sphere"}, "head.field"),
        ({"head.field": "hash", "methods": "template", "rounds": 3}, "head.field"),
        ({"clients.per-round": 1}, "clients.per-round"),
        ({"task": "image", "workflow": "upload"}, "task"),
        ({"release": "secagg"}, "release"),
        ({"learner.outer-rate": 0.5}, "learner.outer-rate"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    smoke: Callable[..., dict[str, Any]], changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(InputError) as caught:
        Experiment.from_run_config(smoke(**{**TINY, **changes}))
    assert caught.value.key == key


@pytest.mark.parametrize(
    "changes",
    [
        {"head.operator": "smaller=2,modulus=central,erase=1,noise=0.01,levels=16"},
        {"head.operator": "tone=0.3,modulus"},
        {"head.style": "long"},
        {"head.field": "hash=3x8"},
        {"head.field": "mlp=1x16"},
        {"head.neutral-views": 0, "methods": "gradient_only"},
        {
            "methods": "own",
            "head.stages": json.dumps(
                [
                    {"name": "a", "steps": 2, "losses": {"operator": 1}, "beta": [0.05, 0]},
                    {"name": "b", "steps": 2, "losses": {"neutral": 1, "lipschitz": 1e-6},
                     "freeze": "geometry"},
                ]
            ),
        },
    ],
)  # fmt: skip
def test_every_option_runs(run: Run, changes: dict[str, Any]) -> None:
    folder = run(**{**TINY, "methods": "stage2", **changes})
    assert all(event["clients"]["ok"] == 2 for event in rounds(folder))
