"""Facts about the installed flwr that our code relies on: these fail first when Flower moves."""

from __future__ import annotations

import inspect
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.task_identity import TaskIdentity

from fedapp import PACKAGES, ROOT
from sim.inprocess import InProcessGrid, server_identity


def test_message_reads_its_sender_from_task_identity() -> None:
    with pytest.raises(RuntimeError, match="run_id is not set"):
        Message(RecordDict(), 5, "train")
    with server_identity(77):
        message = Message(RecordDict(), 5, "train", ttl=3.0)
        assert (message.metadata.run_id, message.metadata.src_node_id) == (77, 1)
        reply = Message(Error(2, "x"), reply_to=message)
        assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (5, 1)
    assert TaskIdentity._run_id is None, "the identity is taken back"


def test_grid_and_strategy_have_the_methods_we_implement() -> None:
    assert Grid.__abstractmethods__ <= set(vars(InProcessGrid))
    assert {
        "configure_train",
        "aggregate_train",
        "configure_evaluate",
        "aggregate_evaluate",
        "summary",
    } <= set(Strategy.__abstractmethods__)
    parameters = list(inspect.signature(Strategy.start).parameters)
    assert parameters[:4] == ["self", "grid", "initial_arrays", "num_rounds"]


def test_the_actor_pool_has_the_names_the_guard_patches() -> None:
    from importlib.util import find_spec

    source = find_spec("flwr.simulation.ray_transport.ray_actor")
    assert source is not None and source.origin is not None
    text = Path(source.origin).read_text(encoding="utf-8")
    assert "class BasicActorPool" in text and "def pool_size_from_resources" in text
    assert (
        "self.create_actor_fn = lambda" in text
        and "def __init__(\n        self,\n        actor_type" in text
    )
    driver = find_spec("flwr.server.superlink.fleet.vce.vce_api")
    assert driver is not None and "from .backend.raybackend import RayBackend" in Path(
        str(driver.origin)
    ).read_text(encoding="utf-8")


def test_error_replies_of_a_raising_client_look_like_flowers() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: object) -> Message:
        raise ValueError("on purpose")

    grid = InProcessGrid(app, 1, {})
    with server_identity(grid.run.run_id):
        (reply,) = grid.send_and_receive([Message(RecordDict(), 1000, "train")])
    assert (
        reply.has_error() and reply.error.code == 2 and "on purpose" in (reply.error.reason or "")
    )


def test_the_bundle_holds_our_code_and_nothing_else() -> None:
    from flwr.cli.build import build_fab_from_disk

    names = zipfile.ZipFile(BytesIO(build_fab_from_disk(ROOT))).namelist()
    ours = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
    }
    assert ours <= set(names), "what the fingerprint covers travels"
    assert "sim/recipes/quickstart.toml" in names and "LICENSE" in names
    assert "tasks/data/people/heads.json" in names, "Flower leaves out what is no text"
    assert not [name for name in names if name.startswith(("tests/", "runs/", ".venv/"))]
