"""The Flower app of a directory: its components by their references, its config by its defaults."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from tasks.settings import flatten

OURS = Path(__file__).resolve().parent.parent


def load_components(app_dir: Path = OURS) -> tuple[ServerApp, ClientApp]:
    """ServerApp and ClientApp that ``[tool.flwr.app.components]`` names (importable from here)."""
    components = _declared(app_dir)["components"]
    found = []
    for kind in ("serverapp", "clientapp"):
        module, _, attribute = components[kind].partition(":")
        found.append(getattr(importlib.import_module(module), attribute))
    return found[0], found[1]


def default_config(app_dir: Path = OURS) -> dict[str, Any]:
    """``[tool.flwr.app.config]``, flat, as Flower hands it to the app."""
    return flatten(_declared(app_dir)["config"])


def _declared(app_dir: Path) -> dict[str, Any]:
    return tomllib.loads((app_dir / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"][
        "app"
    ]
