"""Real devices: each has its own people's data and nothing else, tells no file names, and may
restart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message
from kit import PRIVATE, draw_picture
from safetensors.torch import load_file

from fedapp.attacks import attack_run
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from sim.inprocess import InProcessGrid
from tasks.data.sources import PictureFolder
from tasks.errors import InputError, StoppedError
from tasks.settings import DataSettings

Run = Callable[..., RunFolder]
HELD, CLIENTS = 2, 3
SHORT = {
    "methods": "maml",
    "learner.outer-steps": 1,
    "evaluation.uploads": False,
    "clients.total": CLIENTS,
    "rounds": 2,
    "data.held-out": HELD,
    "clients.min": 2,
}


def model(folder: RunFolder) -> torch.Tensor:
    return load_file(list_checkpoints(folder.checkpoints)[-1])["maml-0/model"]


def devices(*told: dict[str, Any]) -> Callable[..., InProcessGrid]:
    """A grid of nodes that were each started with node-config ``told``."""

    def make(client_app: Any, nodes: int, values: Any) -> InProcessGrid:
        grid = InProcessGrid(client_app, nodes, values)
        for index, (context, own) in enumerate(zip(grid.contexts.values(), told, strict=True)):
            context.node_config.clear()
            context.node_config.update({"partition-id": index, **own})
        return grid

    return make


def at_home(tmp_path: Path) -> list[dict[str, Any]]:
    """Three devices with one picture each in a folder of its own."""
    for number in range(CLIENTS):
        draw_picture(tmp_path / f"home-{number}" / f"holiday-{number}.png", number)
    return [{"data-path": str(tmp_path / f"home-{number}")} for number in range(CLIENTS)]


# ---------------------------------------------------------------------- own data
def test_devices_with_their_own_folders_train_what_one_folder_would(
    run: Run, tmp_path: Path
) -> None:
    """The server has nothing but the public pictures; the simulation has everybody's in one
    folder."""
    homes = at_home(tmp_path)
    for number in range(CLIENTS):
        draw_picture(tmp_path / "all" / f"{number}.png", number)
    for number in range(CLIENTS, CLIENTS + HELD):
        draw_picture(tmp_path / "all" / f"{number}.png", number)
        draw_picture(tmp_path / "public" / f"{number}.png", number)
    together = run(
        nodes=CLIENTS,
        **SHORT,
        **{"data.path": str(tmp_path / "all"), "run-dir": str(tmp_path / "one")},
    )
    apart = run(
        nodes=CLIENTS,
        grid=devices(*homes),
        **SHORT,
        **{
            "data.path": str(tmp_path / "public"),
            "data.hosted": "none",
            "run-dir": str(tmp_path / "two"),
        },
    )
    assert torch.equal(model(together), model(apart))
    quality = [
        [event["metrics"]["psnr"] for event in folder.events() if event["event"] == "evaluation"]
        for folder in (together, apart)
    ]
    assert quality[0] == quality[1]
    with pytest.raises(InputError, match="on their own devices"):
        attack_run(apart, "render", 3, lambda _: None)


def test_a_device_may_have_several_people_and_only_theirs(tmp_path: Path) -> None:
    for number in range(2):
        draw_picture(tmp_path / f"{number}.png", number)
    home = PictureFolder(DataSettings(path=str(tmp_path), size=8, hosted="7,3"))
    assert [home.client(client).name for client in (3, 7)] == ["0", "1"], (
        "in the order of their numbers"
    )
    with pytest.raises(InputError, match="the data of client 4 are not here"):
        home.client(4)
    home.check(100)  # of a hundred only its own two are looked for
    assert not home.held_out()
    with pytest.raises(InputError, match="too few for 3 clients and 0 held-out"):
        PictureFolder(DataSettings(path=str(tmp_path), size=8, hosted="3,7,9")).check(100)
    public = PictureFolder(DataSettings(path=str(tmp_path), size=8, hosted="none", held_out=2))
    public.check(100)
    assert [signal.name for signal in public.held_out()] == ["0", "1"]


def test_a_run_does_not_go_on_with_other_people(run: Run, tmp_path: Path) -> None:
    """One more file before the others, and every number would stand for somebody else."""
    for number in range(1, 6):
        draw_picture(tmp_path / "all" / f"{number}.png", number)
    changes = {**SHORT, "data.path": str(tmp_path / "all"), "run-dir": str(tmp_path / "one")}
    run(**changes)
    draw_picture(tmp_path / "all" / "0.png", 0)
    with pytest.raises(InputError, match="its data is"):
        run(**{**changes, "rounds": 3, "resume": True})
    (tmp_path / "all" / "0.png").unlink()
    run(**{**changes, "rounds": 3, "resume": True})


# ---------------------------------------------------------------------- what a node was told
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"data-pth": "/home/anna/private"}, "node-config data-pth"),
        ({"clients": "x", "data-path": "bundled"}, "node-config clients"),
        ({"partition-id": "first", "data-path": "bundled"}, "node-config partition-id"),
        ({"clients": "2"}, "node-config data-path"),
    ],
)
def test_a_node_that_was_told_wrongly_is_left_out_by_key(
    run: Run, tmp_path: Path, wrong: dict[str, Any], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt data-path would otherwise have no effect at all."""
    right = [{"clients": str(number), "data-path": "bundled"} for number in range(2)]
    caplog.set_level("WARNING", "flwr")
    folder = run(nodes=CLIENTS, grid=devices(*right, wrong), **SHORT)
    [said] = [
        record.getMessage()
        for record in caplog.records
        if "a node is left out" in record.getMessage()
    ]
    assert named in said and "node 1002" in said and "anna" not in said
    assert [event["clients"]["ok"] for event in folder.events() if event["event"] == "round"] == [
        2,
        2,
    ]


def test_a_node_without_data_is_refused_where_data_are_on_devices(run: Run, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="node-config data-path"):
        run(nodes=1, grid=devices({"clients": "0,1,2"}), **SHORT, **{"data.hosted": "none"})
    with pytest.raises(StoppedError, match="node-config data-path"):
        run(nodes=1, grid=devices({"clients": "0,1,2"}), **SHORT)


# ---------------------------------------------------------------------- what leaves a device
def test_no_file_name_of_a_device_is_told(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    homes, sent = at_home(tmp_path), []
    (tmp_path / "home-2" / "holiday-2.png").write_bytes(b"no picture")

    def listening(*arguments: Any) -> InProcessGrid:
        grid = devices(*homes)(*arguments)
        deliver = grid.deliver

        def heard(message: Message) -> list[Message]:
            replies = deliver(message)
            sent.extend(
                str(value)
                for reply in replies
                for part in reply.content.values()
                for value in part.values()
            )
            return replies

        grid.deliver = heard  # type: ignore[method-assign]
        return grid

    folder = run(nodes=CLIENTS, grid=listening, **SHORT, **{"data.hosted": "none"})
    [reason] = {event["failures"]["2"] for event in folder.events() if event["event"] == "round"}
    assert (
        reason.startswith("UnusableDataError (strategies/cohort.py:")
        and "own log says more" in reason
    )
    assert "holiday-2" in caplog.text, "the device's own log does say more"
    assert sent and not any("holiday" in text or str(tmp_path) in text for text in sent)


# ---------------------------------------------------------------------- restarts
class Restarting(InProcessGrid):
    """Node 1001 dies in round 1 and is back, under another id, some greetings later."""

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in super().get_node_ids() if node != 1001 or not self.dead]

    dead = False

    def deliver(self, message: Message) -> list[Message]:
        if message.metadata.dst_node_id == 1001 and message.metadata.message_type == "train":
            self.dead = True
            context = self.contexts.pop(1001)
            context.node_id = 2002
            self.contexts[2002] = context
            return [Message(Error(1, "the device went down"), reply_to=message)]
        return super().deliver(message)


def test_a_device_that_restarted_takes_its_old_place(run: Run, tmp_path: Path) -> None:
    def restarting(*arguments: Any) -> InProcessGrid:
        grid = Restarting(*arguments)
        for index, context in enumerate(grid.contexts.values()):
            context.node_config.clear()
            told = {"partition-id": index, "clients": str(index), "data-path": "bundled"}
            context.node_config.update(told)
        return grid

    folder = run(nodes=CLIENTS, grid=restarting, **{**SHORT, "rounds": 3})
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert [event["clients"]["ok"] for event in rounds] == [2, 3, 3]
    assert list(rounds[0]["failures"]) == ["1"] and not rounds[1]["failures"]


@pytest.mark.parametrize("nodes", [5, 6])
def test_a_secure_sum_of_five_loses_nobody_and_says_so_before_anybody_trains(
    run: Run, tmp_path: Path, nodes: int
) -> None:
    """Nodes insist on five vectors, so under noise of six one may be missing. What was done before
    the end is reported."""
    asked: list[str] = []

    class Failing(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            asked.append(message.metadata.message_type)
            second = asked.count("query.share") > nodes
            if message.metadata.dst_node_id == 1001 and second:
                return [Message(Error(1, "the device went down"), reply_to=message)]
            return super().deliver(message)

    changes = {
        **PRIVATE,
        "release": "distributed-dp",
        "clients.total": nodes,
        "rounds": 2,
        "clients.min": 2,
    }
    if nodes == 6:
        rounds = [
            e for e in run(nodes=nodes, grid=Failing, **changes).events() if e["event"] == "round"
        ]
        assert [event["clients"]["ok"] for event in rounds] == [6, 5]
        return
    with pytest.raises(
        StoppedError, match="4 of 5 nodes shared their secrets, 5 must be in the sum"
    ) as caught:
        run(nodes=nodes, grid=Failing, **changes)
    assert "from six nodes on" in str(caught.value)
    assert asked.count("train.masked") == nodes, "those of the first round"
    assert RunFolder(tmp_path / "run").read("result.json")["rounds"] == 1, (
        "what there is is kept, and shown"
    )
