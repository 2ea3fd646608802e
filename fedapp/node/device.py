"""This node: its configuration, folders, limits, and what the server is told of a failure.

Cheap to import: torch comes with the first leg that trains. What is built for a run is kept between
its legs in a process that lives that long (a Ray actor, an in-process run).
"""

from __future__ import annotations

import json
import logging
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Context, RecordDict

from fedapp import ROOT
from fedapp.config.experiment import Experiment
from fedapp.identity import ForeignCodeError
from privacy.releases import RELEASES
from privacy.secagg.identity import POLICY_FILE, Policy
from privacy.secagg.messages import RefusalError
from strategies.failures import describe, disclose
from strategies.flower.records import record
from tasks.errors import InputError
from tasks.registry import load

if TYPE_CHECKING:
    from fedapp.config.pieces import Pieces
    from strategies.release import Release

log = logging.getLogger("flwr")
CONFIGURED = "privacy."  # errors about these keys tell nothing but the configuration


class Device:
    """One node as it answers one message.

    Args:
        context: Flower's: the run's configuration and the node's own.
        simulated: the node shares a machine with the server and all others.
    """

    def __init__(self, context: Context, simulated: bool) -> None:
        self.context = context
        self.simulated = simulated
        self.node_config = context.node_config

    # ------------------------------------------------------------------ configuration
    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's configuration with this node's own places in it."""
        run_config: dict[str, Any] = dict(self.context.run_config)
        own = self.node_config
        if "data-path" in own:  # a deployed node has its data where it has them, and only its own
            run_config["data.path"] = str(own["data-path"])
            hosts = str(own.get("clients", own.get("partition-id", 0)))
            run_config["data.hosted"] = ",".join(part.strip() for part in hosts.split(","))
        if "backbone" in own:  # the same weights (talking-head.digest says so), a folder of its own
            run_config["talking-head.backbone"] = str(own["backbone"])
        return run_config

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
        return pieces_of(self.frozen)

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

    @property
    def partition(self) -> int:
        return int(self.node_config.get("partition-id", 0))

    @property
    def hosts(self) -> frozenset[int] | None:
        """The clients whose data are here; ``None``: any (simulation)."""
        if self.simulated:
            return None
        listed = str(self.node_config.get("clients", self.partition))
        return frozenset(int(part) for part in listed.split(","))

    # ------------------------------------------------------------------ limits
    def obey_policy(self) -> None:
        """Keep the limits a node has of its own under every release, the plain one included; raises
        :class:`RefusalError`."""
        folder = str(self.node_config.get("state-dir", ""))
        if folder:
            policy = Policy.read(Path(folder) / POLICY_FILE)
            if forbidden := policy.forbids(self.experiment.release, 0.0):
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
        configured = isinstance(error, InputError) and error.key.startswith(CONFIGURED)
        if configured or (self.simulated and not self._private()):
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
