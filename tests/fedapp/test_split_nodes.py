"""Split learning on real nodes, what does not compose, and every option in a run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from device_kit import Town
from flwr.app import ConfigRecord, Message
from split_kit import SMALL, Run, apart, listening, rounds

from fedapp.config.experiment import Experiment
from privacy.secagg.identity import Policy
from sim.inprocess import InProcessGrid
from strategies.flower.exchanges import request_of, unpack_geometry
from strategies.flower.records import FAILURE
from strategies.flower.wire import from_array, to_array
from tasks.errors import InputError, StoppedError


def small_of(town: Town) -> dict[str, Any]:
    changes = {**SMALL, **town.changes("plain"), "methods": "sealed", "split.metrics": False}
    return {key: value for key, value in changes.items() if key != "run-dir"}


@pytest.fixture
def run(run: Run, tmp_path: Path) -> Run:  # type: ignore[no-redef]
    return apart(run, tmp_path)


# ---------------------------------------------------------------------- real nodes
def test_real_nodes_hold_each_others_shares(run: Run, tmp_path: Path) -> None:
    town = Town(tmp_path, 3, Policy(designs=("sealed", "s2nerf"), looks=1000))
    changes = {
        **SMALL,
        **town.changes("plain"),
        "methods": "sealed,s2nerf",
        "report.pictures": True,
    }
    grid = listening()
    folder = run(nodes=3, grid=town.grid(grid), **changes)
    assert all(event["clients"]["ok"] == 3 for event in rounds(folder))
    assert not any("pictures" in reply.content for _, reply in grid.heard)
    holds = {
        (message.metadata.dst_node_id - 1000, message.content["order"]["client"])
        for message, _ in grid.heard
        if message.content.get("leg") and message.content["leg"]["name"] == "hold"
    }
    assert holds == {(1, 0), (2, 1), (0, 2)}, "the next one in the roster"


def test_guarantee_a_server_cannot_play_the_peer(run: Run, tmp_path: Path) -> None:
    """It shows clients a key of its own as the peer's."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from privacy.node_secret import Peer
    from privacy.secagg.identity import Roster
    from privacy.secagg.primitives import public_bytes

    town = Town(tmp_path, 3, Policy())
    own = Ed25519PrivateKey.generate()
    reasons: list[str] = []

    class Playing(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            if "box" in message.content and "peer" in message.content:
                number = int(message.content["peer"]["number"])
                roster = Roster.read(town.roster)
                fake = Roster({**roster.members, number: public_bytes(own)}, roster.server)
                peer = Peer(own, number, str(message.content["order"]["run"]), fake)
                message.content["peer"] = ConfigRecord(peer.advert.packed())
            replies = super().deliver(message)
            if FAILURE in replies[0].content:
                reasons.append(str(replies[0].content[FAILURE]["reason"]))
            return replies

    with pytest.raises(StoppedError, match="not its own"):
        run(
            nodes=3,
            grid=town.grid(Playing),
            **{**SMALL, **town.changes("plain"), "methods": "sealed"},
        )
    assert reasons and all("not its own" in reason for reason in reasons)


def test_guarantee_pictures_are_trained_in_the_designs_their_owner_allows(
    run: Run, tmp_path: Path
) -> None:
    """A policy as `fedapp enrol` writes it: sealed, and what sends nothing."""
    town = Town(tmp_path, 3, Policy())
    changes = small_of(town)
    assert rounds(run(nodes=3, grid=town.grid(), **{**changes, "methods": "sealed,unsplit"}))
    for methods in ("split", "sealed,s2nerf"):
        grid = listening()
        with pytest.raises(StoppedError, match="not among those this node takes part in"):
            run(nodes=3, grid=town.grid(grid), **{**changes, "methods": methods})
        assert not any("gradient" in reply.content for _, reply in grid.heard)

    class Naming(InProcessGrid):
        """Asks for a design that the run's configuration has and the survey did not name."""

        def deliver(self, message: Message) -> list[Message]:
            if "order" in message.content:
                message.content["order"]["method"] = "split"
            replies = super().deliver(message)
            assert not {"gradient", "scores"} & set(replies[0].content)
            return replies

    with pytest.raises(StoppedError):
        run(nodes=3, grid=town.grid(Naming), **changes)


def test_guarantee_scores_are_counted_over_a_nodes_life(run: Run, tmp_path: Path) -> None:
    """A server names runs, methods and seeds: a limit for each would be none."""
    town = Town(tmp_path, 3, Policy(looks=3))
    told: list[int] = []
    reasons: list[str] = []

    class Counting(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            again = copy.deepcopy(message)
            replies = super().deliver(message)
            leg = message.content["leg"]["name"] if "leg" in message.content else ""
            if leg == "look":
                same = super().deliver(again)[0].content
                if FAILURE in replies[0].content:
                    reasons.append(str(replies[0].content[FAILURE]["reason"]))
                    assert FAILURE in same
                elif replies[0].content["scores"]:
                    told.append(message.metadata.dst_node_id)
                    assert dict(same["scores"]) == dict(replies[0].content["scores"])
            return replies

    changes = {**small_of(town), "methods": "sealed,unsplit", "rounds": 1, "split.metrics": True}
    for seed in range(3):
        run(nodes=3, grid=town.grid(Counting), **{**changes, "seeds": str(seed)})
    assert sorted(told) == [node for node in sorted(set(told)) for _ in range(3)]
    assert len(set(told)) == 3 and reasons and all("in its life" in reason for reason in reasons)


def test_guarantee_a_share_follows_the_clients_geometry_and_no_other(
    run: Run, tmp_path: Path
) -> None:
    """A server that tells the peer of other cameras would choose where its share stays zero."""
    town = Town(tmp_path, 3, Policy())
    answers: list[tuple[int, str]] = []

    class Elsewhere(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            leg = message.content["leg"]["name"] if "leg" in message.content else ""
            honest = request_of(message.content)
            if leg == "hold":
                poses = from_array(message.content["poses"]["poses"]).clone()
                poses[:, 0, 3] += 0.25
                message.content["poses"]["poses"] = to_array(poses)
                geometry = unpack_geometry(message.content["poses"], message.content["facts"])
                message.content["order"]["geometry"] = geometry.digest
            replies = super().deliver(message)
            if leg == "hold":
                answer, number = replies[0].content, int(message.content["order"]["exchange"])
                reason = str(answer[FAILURE]["reason"]) if FAILURE in answer else ""
                answers.append((number, reason))
                if not reason:  # what this server's own code would hold against it
                    answer["origin"]["request"] = honest
            return replies

    with pytest.raises(StoppedError, match="do not see the same positions"):
        run(nodes=3, grid=town.grid(Elsewhere), **small_of(town))
    assert answers and {number for number, _ in answers} == {1}, "nobody goes on from there"

    class Later(InProcessGrid):
        """Speaks of other cameras when the first gradient is to be learned."""

        def deliver(self, message: Message) -> list[Message]:
            leg = message.content["leg"]["name"] if "leg" in message.content else ""
            if leg == "hold" and message.content["order"]["exchange"] == 2:
                lying = copy.deepcopy(message)
                poses = from_array(lying.content["poses"]["poses"]).clone()
                poses[:, 0, 3] += 0.25
                lying.content["poses"]["poses"] = to_array(poses)
                geometry = unpack_geometry(lying.content["poses"], lying.content["facts"])
                lying.content["order"]["geometry"] = geometry.digest
                answer = super().deliver(lying)[0].content
                later.append(str(answer[FAILURE]["reason"]) if FAILURE in answer else "a share")
            return super().deliver(message)

    later: list[str] = []
    folder = run(nodes=3, grid=town.grid(Later), **small_of(town))
    assert later and all("trained on another geometry" in reason for reason in later)
    assert all(event["clients"]["ok"] == 3 for event in rounds(folder)), "and the truth is heard"


def test_guarantee_a_node_holds_no_share_of_its_own_client(run: Run, tmp_path: Path) -> None:
    """With two members each is the other's holder: the server turns a client's messages round."""
    town = Town(tmp_path, 2, Policy())
    reasons: list[str] = []

    class Round(InProcessGrid):
        def deliver(self, message: Message) -> list[Message]:
            leg = message.content["leg"]["name"] if "leg" in message.content else ""
            if leg == "hold":
                own = copy.deepcopy(message)
                own.content["order"]["client"] = 1 - int(own.content["order"]["client"])
                answer = super().deliver(own)[0].content
                reasons.append(str(answer[FAILURE]["reason"]) if FAILURE in answer else "a share")
            return super().deliver(message)

    run(nodes=2, grid=town.grid(Round), **{**small_of(town), "clients.total": 2})
    assert reasons and all("cannot hold its share" in reason for reason in reasons)


# ---------------------------------------------------------------------- what does not compose
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"methods": "maml"}, "methods"),
        ({"methods": "sealed", "runtime.nodes": 1}, "runtime.nodes"),
        ({"methods": "split", "clients.per-round": 1}, "clients.per-round"),
        ({"methods": "split", "task": "image", "workflow": "exchanges"}, "task"),
        ({"release": "secagg"}, "release"),
        ({"split.cells": "8,x"}, "split.cells"),
        ({"rule": "scaffold"}, "rule"),
        ({"privacy.epsilon-max": 1.0}, "privacy.epsilon-max"),
        ({"privacy.population": "town"}, "privacy.population"),
        ({"data.objects": 2}, "data.objects"),
        ({"runtime.device": "cuda"}, "runtime.device"),
    ],
)
def test_what_cannot_be_split_is_refused(
    smoke: Callable[..., dict[str, Any]], changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(InputError) as caught:
        Experiment.from_run_config(smoke(**{**SMALL, "runtime.nodes": 2, **changes}))
    assert caught.value.key == key


@pytest.mark.parametrize(
    "changes",
    [
        {"split.variant": "light"},
        {"split.cut": "features"},
        {"split.cut": "geometry"},
        {"split.hashed": 250},
        {"split.texture": "fine"},
        {"split.sealed-rate": 2.0},
        {"split.label-noise": 0.1, "split.noise-scale": 0.5, "split.noise-decay": 1.0},
    ],
)
def test_every_option_runs(run: Run, changes: dict[str, Any]) -> None:
    methods = "sealed,split,s2nerf,label-noise,private-grid"
    folder = run(**{**SMALL, "rounds": 1, "methods": methods, **changes})
    assert all(event["clients"]["ok"] == 3 for event in rounds(folder))


# ---------------------------------------------------------------------- masks on real messages
class Heard:
    """Shares of gradients that the server was sent in a run, with the boxes beside them."""

    def __init__(self, run: Run, town: Town, **changes: Any) -> None:
        grid = listening()
        run(
            nodes=town.nodes,
            grid=town.grid(grid),
            **{**SMALL, **town.changes("plain"), "split.metrics": False, **changes},
        )
        self.orders: list[Any] = []
        self.gradients: list[Any] = []
        self.boxes: list[bytes] = []
        for message, reply in grid.heard:
            leg = message.content.get("leg", {})
            if leg.get("name") != "exchange":
                continue
            self.orders.append(message.content["order"])
            arrays = reply.content["gradient"]
            values = arrays["share"] if "share" in arrays else arrays["values"]
            self.gradients.append(from_array(values).clone())
            if "seed" in reply.content:
                self.boxes.append(from_array(reply.content["seed"]["box"]).numpy().tobytes())
        assert self.gradients


def small(numbers: torch.Tensor) -> float:
    """Share of ring elements that scaled gradients, and their differences, would all be."""
    return float((numbers.abs() < 2**45).double().mean())


def test_guarantee_no_mask_is_used_twice_on_real_messages(run: Run, tmp_path: Path) -> None:
    """Between exchanges, scenes and runs: under one mask the difference of two shares would be that
    of two gradients. Uniform numbers are so small once in half a million."""
    town = Town(tmp_path / "town", 3, Policy())
    heard = [
        Heard(run, town, methods="sealed", **{"run-dir": str(tmp_path / name)}) for name in "ab"
    ]
    shares = [share for each in heard for share in each.gradients]
    assert len(shares) >= 12
    for index, one in enumerate(shares):
        for other in shares[:index]:
            assert small(one - other) < 1e-2


def test_guarantee_what_the_server_has_beside_a_share_does_not_open_it(
    run: Run, tmp_path: Path
) -> None:
    """No 16 bytes of the sealed box are the mask's seed; what the peer opens is: the control."""
    from privacy.node_secret import Advert, Peer, expand
    from privacy.secagg.identity import KEY_FILE, Roster, load_identity

    town = Town(tmp_path / "town", 3, Policy())
    heard = Heard(run, town, methods="sealed")
    order, share, box = heard.orders[0], heard.gradients[0], heard.boxes[0]
    windows = [box[at : at + 16] for at in range(len(box) - 15)]
    for seed in windows:
        assert small(share + expand(seed, share.numel()).view(share.shape)) < 1e-2
    client = int(order["client"])
    roster = Roster.read(town.roster)
    ends = [
        Peer(load_identity(town.home(n) / KEY_FILE), n, str(order["run"]), roster)
        for n in (client, (client + 1) % 3)
    ]
    adverts: list[Advert] = [end.advert for end in ends]
    subject = ("seed", *(order[name] for name in ("method", "seed", "client", "exchange", "view")))
    opened = ends[1].channel(adverts[0], "split").open(box, *subject)
    whole = share + expand(opened[:16], share.numel()).view(share.shape)
    assert small(whole) == 1.0 and bool(whole.any())


@pytest.mark.parametrize("method", ["split", "s2nerf", "sealed"])
def test_guarantee_heads_noise_and_masks_follow_from_the_nodes_own_key_and_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The same pictures, seed and configuration: another key gives other gradients from the first
    exchange on in a run of the same name, and so does another run with the same key."""
    from fedapp.store import runfolder

    policy = Policy(designs=("split", "s2nerf", "sealed"))
    one, other = (Town(tmp_path / name, 2, policy) for name in ("one", "other"))

    class Named:
        hex = "a" * 32

    def first_gradients(town: Town, name: str, run_id: str) -> dict[int, torch.Tensor]:
        monkeypatch.setattr(Named, "hex", run_id * 32)
        monkeypatch.setattr(runfolder.uuid, "uuid4", Named)
        heard = Heard(run, town, methods=method, **{"run-dir": str(tmp_path / name)})
        pairs = zip(heard.orders, heard.gradients, strict=True)
        return {int(o["client"]): g for o, g in pairs if o["exchange"] == 1}

    mine = first_gradients(one, "a", "a")
    for strange in (first_gradients(one, "b", "b"), first_gradients(other, "c", "a")):
        assert strange.keys() == mine.keys()
        for client, gradient in strange.items():
            assert not torch.equal(gradient, mine[client])


def test_a_real_node_believes_no_roster_above_its_folder(run: Run, tmp_path: Path) -> None:
    """A node set up as documented finds its own; another one in the folder above says nothing."""
    import shutil

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from privacy.secagg.identity import ROSTER_FILE, Roster
    from privacy.secagg.primitives import public_bytes

    town = Town(tmp_path, 3, Policy())
    for number in range(3):
        shutil.copy(town.roster, town.home(number) / ROSTER_FILE)
    real = Roster.read(town.roster)
    stranger = public_bytes(Ed25519PrivateKey.generate())
    Roster(dict.fromkeys(real.members, stranger), real.server).write(tmp_path / ROSTER_FILE)
    told = town.told
    town.told = lambda number: {k: v for k, v in told(number).items() if k != "roster"}  # type: ignore[method-assign]
    changes = {**SMALL, **town.changes("plain"), "methods": "sealed", "split.metrics": False}
    folder = run(nodes=3, grid=town.grid(), **changes)
    assert all(event["clients"]["ok"] == 3 for event in rounds(folder))
