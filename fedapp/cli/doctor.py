"""``fedapp doctor``: what on this machine would make a run fail, crawl, or compute something
else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from fedapp.place import ROOT
from fedapp.place import cores as own_cores

FLOWER_PORT = 39091


class Finding(NamedTuple):
    """One observation: ``level`` is ok, note, warning or problem."""

    level: str
    subject: str
    text: str


def examine() -> list[Finding]:
    """All findings, in the order in which one would set a machine up."""
    return [
        *_torch(),
        _cores(),
        *_broken_packages(),
        _flower(),
        _flower_home(),
        _superlink(),
        _siblings(),
        *_extras(),
    ]


def _torch() -> list[Finding]:
    import torch

    build = f"{torch.__version__}, " + (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    )
    findings = [Finding("ok", "torch", build)]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        findings.append(Finding("ok", "GPUs", ", ".join(names)))
        findings.append(
            Finding(
                "note",
                "GPUs",
                "Ray hides them from clients unless runtime.gpus-per-actor is above 0",
            )
        )
    elif torch.version.cuda:
        findings.append(
            Finding(
                "warning",
                "GPUs",
                "a CUDA build of torch, but no usable GPU: it costs gigabytes for nothing",
            )
        )
    else:
        findings.append(Finding("note", "GPUs", "none: everything runs on the CPU"))
    return findings


def _cores() -> Finding:
    cores, threads = own_cores(), os.environ.get("OMP_NUM_THREADS")
    text = (
        f"{cores}; OMP_NUM_THREADS is {threads or 'not set'} (fedapp run sets it to "
        "runtime.threads for each actor)"
    )
    return Finding("ok", "cores", text)


def _broken_packages() -> list[Finding]:
    """torchvision and torchaudio break peft and diffusers if they do not match torch; we need
    neither."""
    findings = []
    for package in ("torchvision", "torchaudio"):
        if importlib.util.find_spec(package) is None:
            continue
        probe = subprocess.run(
            [sys.executable, "-c", f"import {package}"], capture_output=True, text=True, check=False
        )
        if probe.returncode:
            last = (probe.stderr.strip().splitlines() or ["no message"])[-1]
            findings.append(
                Finding(
                    "problem", package, f"installed but broken ({last}): pip uninstall {package}"
                )
            )
        else:
            findings.append(
                Finding("note", package, "installed and importable; fedapp does not need it")
            )
    return findings or [Finding("ok", "torchvision, torchaudio", "not installed, and not needed")]


def _flower() -> Finding:
    version = importlib.metadata.version("flwr")
    tested = version.startswith(("1.41.", "1.42."))
    ray = importlib.util.find_spec("ray") is not None
    text = (
        f"{version}, ray "
        f"{importlib.metadata.version('ray') if ray else 'missing: pip install flwr[simulation]'}"
    )
    level = "ok" if tested and ray else "warning"
    return Finding(level, "flwr", text + ("" if tested else "; tested with 1.41 and 1.42"))


def _flower_home() -> Finding:
    try:
        home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")
    except RuntimeError:
        return Finding(
            "problem", "home", "this user has none: set HOME, or FLWR_HOME and FEDAPP_CACHE"
        )
    probe = home if home.exists() else home.parent
    if not os.access(probe, os.W_OK):
        return Finding(
            "problem",
            "Flower home",
            f"{home} is not writable: set FLWR_HOME (plain `flwr run` needs it)",
        )
    return Finding("ok", "Flower home", f"{home} (fedapp run uses one of its own for each run)")


def _superlink() -> Finding:
    """A SuperLink that somebody else started is used by plain ``flwr run``, with its directory and
    environment."""
    from sim.launch import direct

    port = int(os.environ.get("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", FLOWER_PORT))
    try:
        with direct(f"http://127.0.0.1:{port}/health"):
            pass
    except (urllib.error.URLError, OSError):
        return Finding("ok", "local SuperLink", f"none on port {port}")
    return Finding(
        "warning",
        "local SuperLink",
        f"one is already running on port {port}: plain `flwr run` will use its environment and "
        "directory. "
        "`fedapp run` does not use it; to get rid of it, end its process (`pgrep -af "
        "flower-superlink`)",
    )


def _siblings() -> Finding:
    here = Path.cwd().resolve()
    foreign = [
        name
        for name in ("tasks", "sim", "privacy", "strategies")
        if here != ROOT and (here / name).exists()
    ]
    if foreign:
        return Finding(
            "warning",
            "directory",
            f"{here} holds {', '.join(foreign)}: plain `flwr run` started here may import those",
        )
    return Finding("ok", "directory", f"no foreign package names in {here}; code in {ROOT}")


EXTRAS = {"report": ("matplotlib",), "talking-head": ("diffusers", "peft"), "video": ("av",)}


def _extras() -> list[Finding]:
    """Optional packages, and what needs them."""
    findings = []
    for extra, packages in EXTRAS.items():
        gone = [package for package in packages if importlib.util.find_spec(package) is None]
        text = (
            f"{' and '.join(gone)} missing: pip install 'fedapp[{extra}]'" if gone else "installed"
        )
        findings.append(Finding("warning" if gone else "ok", extra, text))
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), "")
    findings.append(
        Finding(
            "ok" if compiler else "note",
            "field.compiled",
            compiler or "no C++ compiler: leave it off",
        )
    )
    return findings
