"""Place and version of this checkout."""

from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tasks", "strategies", "privacy", "sim", "fedapp")
