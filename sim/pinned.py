"""A SuperNode that runs no code but what is installed on its device.

Flower's SuperNode runs the bundle its SuperLink sends. Its ``--trusted-entities`` asks for
signatures that only bundles from Flower's Hub carry: with it one submitted from a folder is
refused, without it whatever the server likes is run. Here every bundle is compared with the code
installed on this device, file by file, before anything of it is stored, and so are the names under
which Flower would look for it on the disk.

Run as ``python -m sim.pinned CODE ...``: ``CODE`` is :meth:`Code.as_text`, the rest goes to
``flower-supernode``.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import sys
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.errors import FedappError

MANIFEST = ".info/CONTENT"  # Flower's own list of what is in a bundle, which it takes out again
CONFIG = "pyproject.toml"
INSTALLED, OTHER = "the code installed here", "other code"  # never what a server says
LARGEST = 2**20  # bytes of a file that need not be one of those installed here
AGENT = "flwr-agentapp"  # Flower's other kind of task, which this device has no part in
log = logging.getLogger("flwr")


class ForeignBundleError(FedappError):
    """A bundle is not the code that is installed here."""


@dataclass(frozen=True)
class Code:
    """What this device has installed.

    Attributes:
        root: folder of the packages.
        packages: their names; all Python files below belong to the app.
        component: ``"module:attribute"`` of the ClientApp.
        app: Flower's id of the app, ``publisher/name``.
        version: of the app.
    """

    root: str
    packages: tuple[str, ...]
    component: str
    app: str
    version: str

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Code:
        given = json.loads(text)
        return cls(**{**given, "packages": tuple(given["packages"])})

    def refuse_other(self, bundle: bytes) -> None:
        """Raise :class:`ForeignBundleError`, naming the first file that differs, unless a bundle
        holds this code, all of it, and nothing else that Python could import."""
        try:
            with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
                files = {info.filename: info for info in archive.infolist()}
                if len(files) != len(archive.infolist()):
                    raise ForeignBundleError("two files of one name in the bundle")
                for name, info in files.items():
                    self._refuse_size(name, info.file_size)
                    self._refuse_file(name, archive.read(info))
        except ForeignBundleError:
            raise
        except Exception as error:  # whatever a hostile archive provokes in the library
            raise ForeignBundleError(f"the bundle cannot be read: {error!r}") from error
        missing = self._sources() - set(files)
        if missing:
            raise ForeignBundleError(f"{min(missing)} is installed here and not in the bundle")

    def _refuse_size(self, name: str, size: int) -> None:
        """Before a file is unpacked, which may be a thousand times larger than it travels."""
        here = Path(self.root) / name
        if size > LARGEST and not (here.is_file() and here.stat().st_size == size):
            raise ForeignBundleError(f"{name} of the bundle has {size} bytes")

    def _refuse_file(self, name: str, content: bytes) -> None:
        path = PurePosixPath(name)
        if name == MANIFEST:
            return
        if name == CONFIG:
            self._refuse_config(tomllib.loads(content.decode()))
        elif path.as_posix() != name or path.is_absolute() or ".." in path.parts or "\\" in name:
            raise ForeignBundleError(f"a file named {name!r} in the bundle")
        elif path.parts[0] in self.packages and len(path.parts) > 1:
            here = Path(self.root) / path
            if not here.is_file() or here.read_bytes() != content:
                raise ForeignBundleError(f"{name} of the bundle is not as installed here")
        elif name not in ("LICENSE", "README.md"):
            raise ForeignBundleError(f"{name} of the bundle does not belong to the app")

    def _refuse_config(self, config: dict[str, Any]) -> None:
        """The file that tells Flower where to install a bundle, and what of it to start."""
        project, app = config.get("project", {}), config["tool"]["flwr"]["app"]
        components = dict(app.get("components", {}))
        components.pop("serverapp", None)
        said = f"{app.get('publisher')}/{project.get('name')}", str(project.get("version"))
        if components != {"clientapp": self.component} or said != (self.app, self.version):
            raise ForeignBundleError(
                f"{CONFIG} of the bundle names {components} of {said}, not {self.component} of "
                f"{(self.app, self.version)}"
            )

    def _sources(self) -> set[str]:
        root = Path(self.root)
        return {
            file.relative_to(root).as_posix()
            for package in self.packages
            for file in (root / package).rglob("*.py")
        }

    def refuse_run(self, run: Any, fab: Any) -> None:
        """Raise :class:`ForeignBundleError` unless Flower's ``run`` starts this code from
        ``fab``.

        Flower looks for what it installed under ``fab_id``, ``fab_version`` and ``fab_hash`` of the
        run, which the server chooses freely (``..`` included).
        """
        digest = hashlib.sha256(fab.content).hexdigest()
        if {run.fab_hash, fab.hash_str} != {digest}:
            raise ForeignBundleError("the bundle has another hash than its run says")
        if (run.fab_id, run.fab_version) != (self.app, self.version):
            raise ForeignBundleError(
                f"a run of {run.fab_id!r} {run.fab_version!r}, installed here is {self.app} "
                f"{self.version}"
            )
        if run.primary_task_type == AGENT:
            raise ForeignBundleError("a run of an agent")
        self.refuse_other(fab.content)


def guarded(pull: Callable[..., Any], code: Code) -> Callable[..., Any]:
    """Flower's function that takes a message in, which fetches and stores the bundle of a new run:
    the same, for runs of this code alone. Others' messages are answered with Flower's own error for
    bundles without a trusted signature."""

    def pull_of_this_code(*, get_run: Any, get_fab: Any, trusted_entities: Any, **rest: Any) -> Any:
        runs: dict[int, Any] = {}

        def known(run_id: int) -> Any:
            if run_id not in runs:
                runs[run_id] = get_run(run_id)
            return runs[run_id]

        def checked(fab_hash: str, run_id: int) -> Any:
            fab = get_fab(fab_hash, run_id)
            try:
                code.refuse_run(known(run_id), fab)
            except ForeignBundleError as error:
                log.error("run %d is not taken part in: %s", run_id, error)
                fab.verifications = {"valid_license": OTHER}
                return fab
            fab.verifications = {"valid_license": INSTALLED}
            return fab

        return pull(get_run=known, get_fab=checked, trusted_entities={"installed": ""}, **rest)

    return pull_of_this_code


def verified(fab: Any, trusted_entities: Any) -> bool:
    """In place of Flower's look at signatures: whether ``guarded`` found the code installed
    here."""
    return bool(fab.verifications.get("valid_license") == INSTALLED)


def main(arguments: list[str]) -> None:
    """Start a SuperNode with the guard in place."""
    from flwr.supernode import start_client_internal as node
    from flwr.supernode.cli.flower_supernode import flower_supernode

    code = Code.read(arguments[0])
    node._pull_and_store_message = guarded(node._pull_and_store_message, code)
    node._verify_fab = verified
    sys.argv = ["flower-supernode", *arguments[1:]]
    flower_supernode()


if __name__ == "__main__":
    main(sys.argv[1:])
