"""A server that lies in messages or in the run's configuration, against nodes with honest code.

Each of these succeeded once: noise switched off where an epsilon was counted, a secure sum turned
into one update, another folder read, a picture sent, any module imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from device_kit import Town
from flwr.app import ConfigRecord, Context, Message, RecordDict
from kit import NODES, PRIVATE, draw_picture

from fedapp import ROOT
from fedapp.client_app import app
from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.places import OF_NODE, OF_SERVER
from fedapp.identity import fingerprint
from fedapp.node.device import Device
from fedapp.store.runfolder import RunFolder
from privacy.secagg.identity import Policy
from sim.inprocess import InProcessGrid, server_identity
from tasks.errors import InputError, StoppedError

Run = Callable[..., RunFolder]
SMOKE = {"methods": "maml", "rounds": 1, "clients.total": NODES, "learner.outer-steps": 1}


def telling(record: str, key: str, value: Any, spared: int = -1) -> type[InProcessGrid]:
    """A network that puts ``value`` into the orders of all nodes but one, and hears all replies."""

    class Telling(InProcessGrid):
        replies: ClassVar[list[Message]] = []

        def deliver(self, message: Message) -> list[Message]:
            if record in message.content and message.metadata.dst_node_id != spared:
                message.content[record][key] = value  # type: ignore[index]
            found = super().deliver(message)
            self.replies.extend(found)
            return found

    Telling.replies = []
    return Telling


# ---------------------------------------------------------------------- pins
PINS = {
    "no noise": ("distributed-dp", {"privacy.noise-multiplier": 1e-12}),
    "no noise, server's release": ("central-dp", {"privacy.noise-multiplier": 1e-12}),
    "a tiny rate": ("secagg", {"learner.outer-rate": 1e-9}),
    "another folder": ("secagg", {"data.path": "/home/anna/pictures"}),
    "no release": ("central-dp", {"release": "plain"}),
    "other weights for a task without": ("secagg", {"talking-head.digest": "0" * 64}),
}


@pytest.mark.parametrize("spared", [-1, 1003])
@pytest.mark.parametrize("lie", list(PINS))
def test_pins_set_nothing(run: Run, tmp_path: Path, lie: str, spared: int) -> None:
    """Told to all nodes, or to all but one: whose update the sum would then have been."""
    release, pins = PINS[lie]
    town = Town(tmp_path, NODES)
    grid = telling("order", "pins", json.dumps(pins), spared)
    with pytest.raises(StoppedError, match=r"not for a server to set|not what was agreed"):
        run(
            nodes=NODES,
            grid=town.grid(grid),
            **{**PRIVATE, **town.changes(release), "rounds": 1, "clients.min": 2},
        )
    sums = [reply for reply in grid.replies if "sum" in reply.content]
    assert len(sums) == (spared > 0), "a vector left a node that was lied to"


# ---------------------------------------------------------------------- what a real node reads
def test_a_tutorials_node_config_lets_no_picture_out(run: Run, tmp_path: Path) -> None:
    """``num-partitions`` and no data-path: it read what ``data.path`` names, and sent it."""

    class Tutorial(InProcessGrid):
        replies: ClassVar[list[Message]] = []

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, simulated=False)

        def deliver(self, message: Message) -> list[Message]:
            found = super().deliver(message)
            self.replies.extend(found)
            return found

    with pytest.raises(StoppedError, match="data-path"):
        run(nodes=2, grid=Tutorial, **SMOKE)
    assert Tutorial.replies and all("failure" in reply.content for reply in Tutorial.replies)


def test_a_real_node_shows_no_picture_whoever_asks(run: Run, tmp_path: Path) -> None:
    town = Town(tmp_path, NODES)
    grid = telling("order", "pictures", True)
    with pytest.raises(StoppedError, match="shows no pictures"):
        run(nodes=NODES, grid=town.grid(grid), **{**SMOKE, **town.changes("plain")})
    assert not any("pictures" in reply.content for reply in grid.replies)


def test_a_real_node_follows_no_path_of_the_server(tmp_path: Path) -> None:
    """TorchScript files among them: loading one runs it."""
    named = {key: f"/somewhere/{key}" for key in (*OF_NODE, *OF_SERVER)}
    told = {"partition-id": 0, "num-partitions": 2, "data-path": "bundled"}
    device = Device(Context(1, 1, told, RecordDict(), {**known_keys(), **named}))
    assert not [value for value in device.config.values() if "/somewhere" in str(value)]
    Experiment.parsed(device.config)


def test_every_key_that_names_a_place_is_known_as_one() -> None:
    """A new one would be followed by real nodes until it stands in ``places``."""
    words = ("folder", "file", "path")
    listed = {*OF_NODE, *OF_SERVER, "data.layout", "talking-head.layout", "recipe"}

    def texts(model: Any, prefix: str = "") -> Any:
        for name, field in model.model_fields.items():
            key = prefix + (field.alias or name.replace("_", "-"))
            inner = getattr(
                field.default_factory() if field.default_factory else None, "__class__", None
            )
            if hasattr(inner, "model_fields"):
                yield from texts(inner, key + ".")
            elif any(word in (field.description or "") for word in words):
                yield key, field

    found = {key for key, field in texts(Experiment) if "str" in str(field.annotation)}
    assert found - listed == set() and set(OF_NODE) <= found | {"privacy.roster"}


# ---------------------------------------------------------------------- what a real node imports
LEGS = ["query.hello", "train", "query.advertise", "query.share", "train.masked", "query.confirm"]
LEGS += ["query.unmask", "train.leg", "query.leg"]


TEXTS = [key for key, value in known_keys().items() if isinstance(value, str)]
NO_REFERENCE = {"seeds", *OF_NODE, *OF_SERVER}  # whole numbers; places, which are dropped


@pytest.mark.parametrize(
    ("leg", "key"),
    [(leg, key) for leg in LEGS for key in ("task", "methods")]
    + [("train", key) for key in TEXTS if key not in NO_REFERENCE],
)
def test_a_configuration_imports_nothing_on_a_real_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leg: str, key: str
) -> None:
    """Not in a leg, not in the look at a fingerprint, not while an error is put into words."""
    (tmp_path / "mischief").mkdir()
    (tmp_path / "mischief" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "mischief" / "inside.py").write_text("class Thing: pass", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    town = Town(tmp_path, 1)
    around = "modulus,{}=1" if key == "head.operator" else "{}"  # a link with what it is told
    config = {**known_keys(), key: around.format("mischief.inside:Thing")}
    code = ConfigRecord({"fingerprint": fingerprint(), "root": str(ROOT), "state-dir": ""})
    records = dict.fromkeys(("hello", "order", "at", "leg"), code)
    with server_identity(7):
        message = Message(RecordDict(records), 1, leg)
        message.metadata.__dict__["_message_id"] = "m"
        told = town.told(0) | {"data-path": str(tmp_path / "pictures")}
        draw_picture(tmp_path / "pictures" / "0.png", 0)
        reply = app(message, Context(7, 1, told, RecordDict(), config))
    assert not [name for name in sys.modules if name.startswith("mischief")]
    assert "nor in this node's policy" in str(reply.content["failure"]["reason"])


@pytest.mark.parametrize(
    "text",
    [
        "mischief.inside:Thing",
        "a, mischief.inside:Thing",
        "modulus,mischief.inside:Thing=1",
        '[{"name": "mischief.inside:Thing"}]',
        "(mischief.inside:Thing)",
        "x|mischief.inside:Thing;y",
    ],
)
def test_a_reference_is_seen_whatever_stands_around_it(text: str) -> None:
    from fedapp.identity import references

    assert references({"head.operator": text}) == ["mischief.inside:Thing"]
    assert references({"a": "cuda:0", "b": "http://x.y/z", "c": '{"k": "v"}', "d": "12:30"}) == []


def test_a_policy_lets_in_the_plugin_it_names(run: Run, tmp_path: Path) -> None:
    changes = {**SMOKE, "task": "outsiders:Regression", "evaluation.uploads": False}
    town = Town(tmp_path, NODES)
    with pytest.raises(StoppedError, match="nor in this node's policy"):
        run(nodes=NODES, grid=town.grid(), **{**changes, **town.changes("plain")})
    town.limit(Policy(plugins=("outsiders:Regression",)))
    folder = run(
        nodes=NODES,
        grid=town.grid(),
        **{**changes, **town.changes("plain"), "run-dir": str(tmp_path / "second")},
    )
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    assert event["clients"] == {"ok": NODES, "failed": 0}


@pytest.mark.parametrize(
    ("told", "run", "named"),
    [
        ({"clients": "3,7"}, {"data.objects": 2}, "objects"),
        ({"clients": "3,7", "objects": 2}, {"data.objects": 1}, "objects"),
        ({"clients": "3,7", "objects": 2}, {"data.objects": 2, "data.alpha": 0.5}, "objects"),
        ({"state-dir": ""}, {}, "state-dir"),
    ],
)
def test_what_a_device_was_not_told_is_not_the_servers_to_say(
    told: dict[str, Any], run: dict[str, Any], named: str
) -> None:
    """Cut at another place, the files of one person would be two clients'."""
    device = Device(Context(1, 1, {"data-path": "/x", **told}, RecordDict(), known_keys() | run))
    with pytest.raises(InputError) as caught:
        device.config  # noqa: B018
    assert caught.value.key == f"node-config {named}"


def test_files_of_two_clients_that_lie_as_the_run_says_are_theirs() -> None:
    told = {"data-path": "/x", "clients": "3,7", "objects": 2}
    device = Device(Context(1, 1, told, RecordDict(), known_keys() | {"data.objects": 2}))
    assert device.config["data.hosted"] == "3,7"


# ---------------------------------------------------------------------- clips
@pytest.mark.parametrize("clip", [5e-324, 1e-12, 2.0])
def test_a_clip_that_the_configuration_does_not_give_is_refused(
    run: Run, tmp_path: Path, clip: float
) -> None:
    """Over a denormal clip a client without an update divided by zero, and NaN passed its bound."""
    town = Town(tmp_path, NODES)

    class Clipping(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            if "secagg" in message.content and "public" in message.content["secagg"]:
                terms = message.content["secagg"]
                public = json.loads(str(terms["public"])) | {"clip": clip}
                terms["public"] = json.dumps(public, sort_keys=True)  # type: ignore[index]
            return super().deliver(message)

    with pytest.raises(StoppedError, match="the clip norm of the round"):
        run(
            nodes=NODES,
            grid=town.grid(Clipping),
            **{**PRIVATE, **town.changes("distributed-dp"), "rounds": 1},
        )
    with pytest.raises(InputError, match="clip-norm"):
        Experiment.parsed({**known_keys(), "privacy.clip-norm": 5e-324})


# ---------------------------------------------------------------------- policies, errors, files
def test_a_node_without_its_policy_takes_part_in_nothing(run: Run, tmp_path: Path) -> None:
    town = Town(tmp_path, NODES)
    (town.home(2) / "policy.json").rename(town.home(2) / "polcy.json")
    folder = run(nodes=NODES, grid=town.grid(), **{**SMOKE, **town.changes("plain")})
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    assert list(event["failures"]) == ["2"] and "policy" in event["failures"]["2"]
    assert str(tmp_path) not in event["failures"]["2"]


def test_a_limit_alone_keeps_a_node_out_of_rounds_without_noise(run: Run, tmp_path: Path) -> None:
    town = Town(tmp_path, NODES, Policy(epsilon_max=8.0))
    for release in ("plain", "secagg"):
        changes = {**PRIVATE, **SMOKE, **town.changes(release)}
        with pytest.raises(StoppedError, match="cost infinitely much"):
            run(
                nodes=NODES,
                grid=town.grid(),
                **{**changes, "evaluation.uploads": False, "run-dir": str(tmp_path / release)},
            )


def test_no_path_of_a_device_is_told(run: Run, tmp_path: Path) -> None:
    town = Town(tmp_path, NODES)
    for number in range(NODES):
        (town.home(number) / "identity.key").write_bytes(b"short")
    grid = telling("nothing", "", 0)
    with pytest.raises(StoppedError):
        run(
            nodes=NODES,
            grid=town.grid(grid),
            **{**PRIVATE, **town.changes("secagg"), "rounds": 1},
        )
    said = [str(part) for reply in grid.replies for part in reply.content.values()]
    assert said and not [text for text in said if str(tmp_path) in text]


@pytest.mark.parametrize(("release", "rule"), [("distributed-dp", "fedavg"), ("plain", "scaffold")])
def test_what_a_promise_rests_on_is_for_its_owner_alone(
    run: Run, tmp_path: Path, release: str, rule: str
) -> None:
    town = Town(tmp_path / "town", NODES)
    changes = {**PRIVATE, **town.changes(release), "rounds": 1, "rule": rule}
    run(nodes=NODES, grid=town.grid(), **changes)
    kept = [file for number in range(NODES) for file in town.home(number).rglob("*")]
    if release != "plain":
        kept += (tmp_path / "town" / "populations").rglob("*")
        names = {file.name for file in kept}
        assert {"ledger-seen.json", "ledger.jsonl", "policy.json", "secagg.a"} <= names
    else:
        assert any(file.suffix == ".safetensors" for file in kept)
    assert not [file for file in kept if file.stat().st_mode & 0o077]


def test_the_nodes_count_is_on_disk_before_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from privacy.budget.ledger import Ledger
    from privacy.witness import Witness

    ledger = Ledger(tmp_path / "ledger")
    ledger.append("config", run="a")
    synced: list[str] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    Witness(tmp_path / "home" / "ledger-seen.json", ledger.public).see(ledger.witness(), 1.0)
    assert len(synced) == 2 and synced[1] == str(tmp_path / "home")
    assert "ledger-seen.json" in synced[0]
