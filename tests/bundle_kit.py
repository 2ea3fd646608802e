"""Bundles as servers send them: Flower's own of this folder, and others."""

from __future__ import annotations

import io
import zipfile

from flwr.cli.build import build_fab_from_disk

from fedapp.place import PACKAGES, ROOT, __version__
from sim.bundle import Code

CODE = Code(str(ROOT), PACKAGES, "fedapp.client_app:app", "fedapp/fedapp", __version__)
Files = dict[str, bytes]


def unpacked(bundle: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: Files, *more: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*files.items(), *more]:
            archive.writestr(name, content)
    return buffer.getvalue()


OURS = build_fab_from_disk(ROOT)
FILES = unpacked(OURS)
SOURCES = sorted(name for name in FILES if name.endswith(".py"))
