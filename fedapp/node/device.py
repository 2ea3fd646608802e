"""This node: its configuration, folders, limits, and what the server is told of a failure.

Cheap to import: torch comes with the first leg that trains. What is built for a run is kept between
its legs in a process that lives that long (a Ray actor, an in-process run).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Context, RecordDict

from fedapp.config.experiment import Experiment
from fedapp.config.places import AS_TAKEN, BUNDLED, OF_NODE, OF_SERVER
from fedapp.identity import ForeignCodeError, references
from fedapp.place import ROOT
from privacy.releases import RELEASES
from privacy.secagg.identity import (
    KEY_FILE,
    POLICY_FILE,
    ROSTER_FILE,
    Policy,
    greeting_text,
    load_identity,
)
from privacy.secagg.messages import RefusalError
from sim.simulated import inside
from strategies.failures import describe, disclose
from strategies.flower.records import record
from tasks import TASKS
from tasks.errors import InputError, nearest
from tasks.registry import load

if TYPE_CHECKING:
    from fedapp.config.pieces import Pieces
    from strategies.release import Release
    from tasks.types import Task

log = logging.getLogger("flwr")
OWN = (  # what only a real node has
    "data-path", "clients", "roster", "backbone", "state-dir",
    *(name for name, _ in AS_TAKEN.values()),
)  # fmt: skip
NODE_KEYS = ("partition-id", "num-partitions", "objects", *OWN)


class Device:
    """One node as it answers one message.

    ``simulated``: it shares a machine with the server and all others. That is so only inside a
    simulation of this process's own (:mod:`sim.simulated`), and for nodes that own nothing: no
    message and no run configuration can make a real node one.

    Args:
        context: Flower's: the run's configuration and the node's own.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.node_config = context.node_config
        owns = any(key in self.node_config for key in OWN)
        self.simulated = inside() and "num-partitions" in self.node_config and not owns

    # ------------------------------------------------------------------ configuration
    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's configuration with this node's own places in it."""
        run_config: dict[str, Any] = dict(self.context.run_config)
        if self.simulated:
            return run_config
        own = self.node_config
        self._refuse_unknown_keys()
        if "data-path" not in own:
            raise InputError(
                "node-config data-path",
                "",
                "this device has not said where its clients' data lie",
                f"say where: data-path='…' ({BUNDLED}: what comes with fedapp, to try it out)",
            )
        run_config |= OF_SERVER
        self._refuse_strangers({**run_config, **dict.fromkeys(OF_NODE, "")})
        run_config |= {key: str(own.get(name, "")) for key, name in OF_NODE.items()}
        for key, (name, unsaid) in AS_TAKEN.items():
            said = own.get(name, unsaid)
            run_config[key] = str(said).lower() == "true" if unsaid is False else str(said)
        if own["data-path"] == BUNDLED:
            return run_config | {"data.path": "", "data.hosted": ""}
        self._refuse_other_people(run_config)
        return run_config | {"data.hosted": self.hosted}

    def _refuse_unknown_keys(self) -> None:
        for key in self.node_config:
            if key not in NODE_KEYS:
                # a misspelt data-path would otherwise have no effect at all
                raise InputError(
                    f"node-config {key}",
                    self.node_config[key],
                    "no such key",
                    nearest(key, NODE_KEYS),
                )
            if not str(self.node_config[key]).strip():
                raise InputError(f"node-config {key}", "", "says nothing", "leave it out")

    def _refuse_other_people(self, run_config: Mapping[str, Any]) -> None:
        """Raise where a server could cut the files of several clients at another place, so that one
        person counts as two: how many each holds is the node's to say."""
        if len(self.hosts or ()) < 2:
            return
        each = self.whole("objects", 1)
        if run_config.get("data.objects", each) != each or run_config.get("data.alpha", 0.0):
            raise InputError(
                "node-config objects",
                each,
                "each client holds so many files here, the run says otherwise",
                "say data.objects of the run (and no data.alpha), if that is how the files lie",
            )

    def _refuse_strangers(self, run_config: Mapping[str, Any]) -> None:
        """Raise :class:`RefusalError` for a reference to a module that neither comes with fedapp,
        nor was installed as a plug-in, nor stands in this node's policy: it would be imported."""
        for name in references(run_config):
            if name not in self.policy.plugins:
                raise RefusalError(
                    f"{name!r} is neither installed here as a plug-in nor in this node's policy"
                )

    @property
    def frozen(self) -> str:
        """The configuration as text, by which what is built for it is kept."""
        return json.dumps(self.config, sort_keys=True)

    @property
    def experiment(self) -> Experiment:
        """The run's configuration, parsed. Whether its parts go together is checked where they are
        built: that needs to import them."""
        return parsed(self.frozen)

    @property
    def pieces(self) -> Pieces:
        """Pieces the configuration names, with what it has decoded: the same for all methods and
        seeds."""
        self.obey_tasks()
        return pieces_of(self.frozen)

    def obey_tasks(self) -> None:
        """Raise :class:`RefusalError` where the data here are for another task."""
        if not self.simulated and (no := self.policy.forbids_task(self.experiment.task)):
            raise RefusalError(no)

    @property
    def task_type(self) -> type[Task]:
        """The task's class."""
        found: type[Task] = load("task", self.experiment.task, TASKS)
        return found

    @property
    def release_type(self) -> type[Release]:
        """The release's class: its traits are known before anything is built."""
        found: type[Release] = load("release", self.experiment.release, RELEASES)
        return found

    # ------------------------------------------------------------------ folders
    def state_dir(self, offered: str, run: str) -> str:
        """Folder of what clients remember: the node's own, which outlives runs, or in simulation
        the one the server ``offered``; empty if there is none."""
        if "state-dir" in self.node_config:
            return str(Path(str(self.node_config["state-dir"])) / "runs" / _folder_of(run))
        return offered if self.simulated else ""

    def key_folder(self, offered: str) -> Path:
        """Folder of what must last: keys, limits, protocol state. In simulation all nodes share a
        machine and each gets one inside what the server ``offered``."""
        if "state-dir" in self.node_config:
            return Path(str(self.node_config["state-dir"]))
        if not (self.simulated and offered):
            raise InputError(
                "state-dir",
                "",
                "a private round needs a folder with this node's keys",
                'use --node-config "state-dir=…"',
            )
        return Path(offered) / f"node-{self.partition:04d}"

    def roster_file(self, offered: str) -> Path:
        """The roster this node believes: the one its owner names, or that in its state folder; of
        simulated nodes the one above what the server ``offered``. Never one above a real node's
        folder: who can write there is not its owner."""
        folder = self.key_folder(offered)
        if self.simulated:
            return folder.parent / ROSTER_FILE
        given = str(self.node_config.get("roster", ""))
        return Path(given) if given else folder / ROSTER_FILE

    @property
    def partition(self) -> int:
        return self.whole("partition-id", 0)

    def whole(self, key: str, default: int) -> int:
        """A number from the node-config."""
        value = str(self.node_config.get(key, default))
        if not value.isdecimal():
            raise InputError(
                f"node-config {key}",
                value,
                "must be a whole number",
                f"for example {key}={default}",
            )
        return int(value)

    @property
    def hosts(self) -> frozenset[int] | None:
        """The clients whose data are here; ``None``: any (simulation)."""
        if self.simulated:
            return None
        listed = str(self.node_config.get("clients", self.partition))
        if not all(part.strip().isdecimal() for part in listed.split(",")):
            raise InputError(
                "node-config clients",
                listed,
                "must be client numbers",
                "for example clients='0,3'",
            )
        return frozenset(int(part) for part in listed.split(","))

    @property
    def hosted(self) -> str:
        """The clients whose data are here, in the order in which they lie."""
        assert self.hosts is not None, "simulated nodes host whatever they are asked to train"
        listed = str(self.node_config.get("clients", self.partition))
        return ",".join(part.strip() for part in listed.split(","))

    def greeting(self, challenge: str, hosts: str) -> bytes:
        """This node's signature on its number and clients, and on the server's ``challenge``; empty
        if it has no key."""
        if self.simulated or "state-dir" not in self.node_config:
            return b""
        file = self.key_folder("") / KEY_FILE
        if not file.exists():
            return b""
        text = greeting_text(challenge, self.context.node_id, self.partition, hosts)
        return load_identity(file).sign(text)

    # ------------------------------------------------------------------ limits
    @cached_property
    def policy(self) -> Policy:
        """Limits of its own, in the state folder of a real node; a node without one (which takes no
        part in private rounds) has the default ones."""
        folder = str(self.node_config.get("state-dir", ""))
        return Policy.read(Path(folder) / POLICY_FILE) if folder else Policy()

    def obey_policy(self) -> None:
        """Keep the limits a node has of its own where no secure sum looks at them; raises
        :class:`RefusalError`."""
        noised = self.release_type.placement != "none"
        if forbidden := self.policy.forbids(self.experiment.release, 0.0, noised):
            raise RefusalError(forbidden)

    # ------------------------------------------------------------------ failures
    def reason_of(self, error: Exception) -> str:
        """Error text sent to the server; under a private release or on a device only type and code
        location: message texts depend on data and name files."""
        if isinstance(error, RefusalError):
            return str(error)
        if isinstance(error, ForeignCodeError):
            text = str(error)
            return text if self.simulated else text.replace(str(ROOT), "a folder of its own")
        if self.simulated and not self._private():
            return describe(error)
        return self.tell_little(error)

    def _private(self) -> bool:
        """Whether the run's release is private; yes if that cannot be known."""
        try:
            release = load("release", str(self.context.run_config["release"]), RELEASES)
        except (InputError, KeyError):
            return True
        return bool(release.private)

    @staticmethod
    def tell_little(error: BaseException) -> str:
        """The kind of a failure for the server, all of it for the node's own log."""
        log.warning("not told to the server: %s", describe(error))
        return disclose(error)


def offered_folder(content: RecordDict, name: str) -> str:
    """The state folder a message offers to simulated nodes; empty if it has none."""
    return str(record(content, name, ConfigRecord)["state-dir"]) if name in content else ""


def _folder_of(name: str) -> str:
    """A run's id as a folder's name: the server chose it, so nothing but letters and digits."""
    if not name.isalnum():
        raise RefusalError(f"a run called {name!r}")
    return name


@lru_cache(maxsize=16)
def parsed(config: str) -> Experiment:
    """The experiment of a configuration's text."""
    return Experiment.parsed(json.loads(config))


@lru_cache(maxsize=2)
def pieces_of(config: str) -> Pieces:
    """The pieces of a configuration's text; raises ``InputError`` if they do not go together."""
    from fedapp.config.pieces import Pieces

    return Pieces(Experiment.from_run_config(json.loads(config)))
