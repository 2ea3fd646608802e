"""The code installed on a device, held against a bundle that a server sends, and the bundle that
the device makes of it for itself.

Of a server's bundle nothing is kept but its settings. What is unpacked and started is made here, of
the files installed here: Flower starts whatever lies in a folder named by eight digits of a hash,
checks a list that the bundle brings by reading whatever files it names, and keeps both for good.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from sim.launch import as_toml
from tasks.errors import FedappError

MANIFEST = ".info/CONTENT"  # Flower's list of what is in a bundle; of a server's nothing is read
CONFIG = "pyproject.toml"
TEXTS = ("LICENSE", "README.md")  # of no effect
LARGEST = 2**20  # bytes of a file that need not be one of those installed here
MOST_CONFIG, MOST_DOTS = 2**16, 2000  # ours has less than an eighth of either
DATE = (1980, 1, 1, 0, 0, 0)
KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class ForeignBundleError(FedappError):
    """A bundle is not the code that is installed here."""


@dataclass(frozen=True)
class Code:
    """The app as it is installed on this device.

    Attributes:
        root: folder of the packages.
        packages: their names; all files below belong to the app.
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

    @cached_property
    def files(self) -> dict[str, bytes]:
        """All files of the packages, by their path from ``root``: those there were when they were
        first asked for."""
        root = Path(self.root)
        return {
            file.relative_to(root).as_posix(): file.read_bytes()
            for package in self.packages
            for file in sorted((root / package).rglob("*"))
            if file.is_file() and "__pycache__" not in file.parts
        }

    # ------------------------------------------------------------------ a server's bundle
    def settings_of(self, bundle: bytes) -> dict[str, Any]:
        """The settings a bundle brings (``[tool.flwr.app.config]``, flat), if it is this code.

        Raises :class:`ForeignBundleError`, naming the first file that differs, unless it holds all
        Python files of this code as they are, to be started as this app, and nothing else.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
                files = {info.filename: info for info in archive.infolist()}
                if len(files) != len(archive.infolist()):
                    raise ForeignBundleError("two files of one name in the bundle")
                for name, info in files.items():
                    # before it is unpacked, which may be a thousand times larger than it travels
                    if info.file_size > max(LARGEST, len(self.files.get(name, b""))):
                        raise ForeignBundleError(f"{name!r} of the bundle: {info.file_size} bytes")
                    self._refuse_file(name, archive.read(info))
                _refuse_deep(archive.read(CONFIG))
                settings = self._settings(tomllib.loads(archive.read(CONFIG).decode()))
        except ForeignBundleError:
            raise
        except Exception as error:  # whatever a hostile archive provokes in the library
            raise ForeignBundleError(f"the bundle cannot be read: {error!r}") from error
        missing = {name for name in self.files if name.endswith(".py")} - set(files)
        if missing:
            raise ForeignBundleError(f"{min(missing)} is installed here and not in the bundle")
        return settings

    def _refuse_file(self, name: str, content: bytes) -> None:
        if name in (MANIFEST, CONFIG, *TEXTS):
            return
        path = PurePosixPath(name)
        if name not in self.files and path.parts and path.parts[0] not in self.packages:
            raise ForeignBundleError(f"{name!r} of the bundle does not belong to the app")
        if self.files.get(name) != content:
            raise ForeignBundleError(f"{name!r} of the bundle is not as installed here")

    def _settings(self, config: dict[str, Any]) -> dict[str, Any]:
        """The settings in a bundle's ``pyproject.toml``, whose app and parts must be these."""
        project, app = config["project"], config["tool"]["flwr"]["app"]
        components = {name: part for name, part in app["components"].items() if name != "serverapp"}
        said = f"{app['publisher']}/{project['name']}", str(project["version"])
        if components != {"clientapp": self.component} or said != (self.app, self.version):
            raise ForeignBundleError(
                f"{CONFIG} of the bundle names {components!r} of {said!r}, not {self.component!r} "
                f"of {(self.app, self.version)!r}"
            )
        settings = _flat(app.get("config", {}))
        for key, value in settings.items():
            if not is_setting(key, value):
                raise ForeignBundleError(f"the setting {key!r} of the bundle is none: {value!r}")
        return settings

    # ------------------------------------------------------------------ this device's own
    def bundle(self, settings: Mapping[str, Any]) -> bytes:
        """A bundle in Flower's format, made of the files installed here and of settings."""
        files = {CONFIG: self._config(settings), **self.files}
        listed = "\n".join(
            f"{name},{hashlib.sha256(content).hexdigest()},{8 * len(content)}"
            for name, content in files.items()
        )
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {**files, MANIFEST: listed.encode()}.items():
                archive.writestr(zipfile.ZipInfo(name, DATE), content, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    def _config(self, settings: Mapping[str, Any]) -> bytes:
        publisher, name = self.app.split("/")
        return (
            f'[project]\nname = "{name}"\nversion = "{self.version}"\n'
            f'[tool.flwr.app]\npublisher = "{publisher}"\n'
            f'[tool.flwr.app.components]\nserverapp = "none:app"\nclientapp = "{self.component}"\n'
            f"[tool.flwr.app.config]\n{as_toml(settings)}"
        ).encode()

    def install(self, place: Path) -> None:
        """Have the files installed here lie where Flower looks for a bundle, whole or not at all;
        what else lies there is taken away.

        They lie in ``code`` once, and ``place`` is a link: settings reach the app otherwise, and a
        server that sends many would fill the disk.
        """
        code = place.parent.parent / "code"
        wanted = {CONFIG: self._config({}), **self.files}
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent.parent) as beside:
            if _files(code) != wanted:
                made = Path(beside) / "made"
                for name, content in wanted.items():
                    (made / name).parent.mkdir(parents=True, exist_ok=True)
                    (made / name).write_bytes(content)
                _put(made, code, Path(beside) / "was code")
            if not (place.is_symlink() and place.readlink() == code):
                link = Path(beside) / "link"
                link.symlink_to(code, target_is_directory=True)
                _put(link, place, Path(beside) / "was there")


def is_setting(key: str, value: Any) -> bool:
    """Whether Flower can hand a setting to an app: it ends without an answer over others."""
    if type(value) is int:
        return -(2**63) <= value < 2**63 and bool(KEY.fullmatch(key))
    finite = type(value) is float and math.isfinite(value)
    return (finite or type(value) in (str, bool)) and bool(KEY.fullmatch(key))


def _files(folder: Path) -> dict[str, bytes]:
    """The files of a folder that is none of somebody else's."""
    return {} if folder.is_symlink() else {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }  # fmt: skip


def _refuse_deep(config: bytes) -> None:
    """A key of n parts takes the reader of TOML memory of the order of n^2."""
    if len(config) > MOST_CONFIG or config.count(b".") > MOST_DOTS:
        raise ForeignBundleError(f"{CONFIG} of the bundle: {len(config)} bytes")


def _put(made: Path, place: Path, aside: Path) -> None:
    """Move a file, folder or link to its place, and whatever is there out of the way."""
    if place.is_symlink() or place.exists():
        os.replace(place, aside)
    os.replace(made, place)


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat
