"""The folder of a run: ``runs/<time>-<recipe>/``.

config.json     the complete config            metrics.jsonl   one event a line, in order
run.json        versions, runtime, command     checkpoints/    the newest two, safetensors
status.json     running | finished | …         pictures/       png
result.json     the numbers of the run         report.html     one self-contained page
videos/         mp4 with sound and gif
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedapp.config.experiment import Experiment
from fedapp.place import __version__
from tasks.atomic import write_bytes, write_json
from tasks.errors import InputError
from tasks.targets import not_written
from tasks.types import Video

RUNNING = "running"
FINISHED = "finished"
STOPPED = "stopped"
FAILED = "failed"
REFUSED = "refused"
INTERRUPTED = 130  # exit status, as a shell has it
STARTING = 150.0  # seconds that Flower may take before the run locks its folder


def new_path(base: Path, recipe: str) -> Path:
    """A path under ``base`` that does not exist yet."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe}"
    path, turn = base / stem, 1
    while path.exists():
        turn += 1
        path = base / f"{stem}-{turn}"
    return path


def claimed(base: Path, recipe: str) -> Path:
    """A new folder under ``base``, made here: whoever makes a folder has it, so that two runs that
    start in one second get one each."""
    base.mkdir(parents=True, exist_ok=True)
    while True:
        path = new_path(base, recipe)
        try:
            path.mkdir()
        except FileExistsError:  # somebody was quicker
            continue
        return path


class TakenError(InputError):
    """The folder of a new run holds one already."""


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"
        self.videos = path / "videos"
        self.client_state = path / "client-state"
        self.events_file = path / "metrics.jsonl"
        self.report_file = path / "report.html"
        self.result_file = path / "result.json"

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run; raises :class:`InputError` if the folder is not one."""
        if not (path / "config.json").is_file():
            raise InputError(
                "run",
                str(path),
                "not a run folder (it has no config.json)",
                "give the path of a run",
            )
        return cls(path)

    def create(self, config: dict[str, Any], about: dict[str, Any]) -> None:
        """Start the folder of a new run; raises :class:`TakenError` if it holds one already,
        :class:`InputError` if it cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "run.json").touch(exist_ok=False)  # whoever makes this file has the folder
        except FileExistsError:
            raise TakenError(
                "run-dir",
                str(self.path),
                "already holds a run (or is a file)",
                "`fedapp resume` it, or name another",
            ) from None
        except OSError as error:
            raise InputError(
                "run-dir", str(self.path), f"cannot be made ({error.strerror})", "name another"
            ) from error
        created = {"id": uuid.uuid4().hex, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        try:
            write_json(self.path / "config.json", config)
            write_json(self.path / "run.json", {**about, **created})
        except OSError as error:
            for name in ("config.json", "run.json"):
                (self.path / name).unlink(missing_ok=True)
            with suppress(OSError):  # others' files may lie there
                self.path.rmdir()
            raise not_written(self.path, error) from error

    @property
    def begun(self) -> bool:
        """Whether rounds were trained here, or about to be."""
        return self.events_file.exists() or any(self.checkpoints.glob("*"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else runs this folder meanwhile; raises :class:`InputError` if somebody does."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    "run", str(self.path), "is running in another process", "wait for its end"
                ) from error
            yield

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, ``{}`` if it does not exist; raises :class:`InputError` if it is
        damaged."""
        file = self.path / name
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                name, str(file), f"unreadable ({error})", "restore the file or start a new run"
            ) from error
        if not isinstance(found, dict):
            raise InputError(
                name, str(file), "holds no JSON object", "restore the file or start a new run"
            )
        return found

    @property
    def config(self) -> dict[str, Any]:
        return self.read("config.json")

    @property
    def experiment(self) -> Experiment:
        """Configuration, of the folder where it is now (a run may have been moved)."""
        try:
            return Experiment.from_run_config({**self.config, "run-dir": str(self.path)})
        except InputError as error:
            wrote = self.read("run.json").get("fedapp", "of unknown version")
            raise InputError(
                "run",
                str(self.path),
                f"fedapp {__version__} does not read its config.json, which fedapp {wrote} wrote: "
                f"{error.key} = {error.value!r}: {error.reason}",
                "read it with the version that wrote it, or start a new run",
            ) from error

    @property
    def status(self) -> dict[str, Any]:
        return self.read("status.json")

    @property
    def fate(self) -> dict[str, Any]:
        """:attr:`status`; but a run whose process died without a word (killed, or a full disk had
        no room for its status) is called stopped, not running."""
        status, file = self.status, self.path / "status.json"
        if status.get("state") != RUNNING or time.time() - file.stat().st_mtime < STARTING:
            return status
        try:
            with open(self.path / "lock", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except OSError:
            return status
        reason = "it ended without a word: killed, or there was no room to say why"
        return {"state": STOPPED, "exit_code": INTERRUPTED, "reason": reason}

    def set_status(self, state: str, exit_code: int = 0, reason: str = "") -> None:
        """Record how far the run is, and why it ended."""
        write_json(
            self.path / "status.json", {"state": state, "exit_code": exit_code, "reason": reason}
        )

    def append(self, event: dict[str, Any]) -> None:
        """Add one event; numbers that are not finite become null, which JSON has."""
        line = json.dumps(_finite(event), allow_nan=False)
        with open(self.events_file, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """All complete events (the last line of a killed run may be torn)."""
        if not self.events_file.exists():
            return
        lines = self.events_file.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                event = json.loads(line)
            except ValueError as error:
                if number == len(lines):
                    return
                event = error
            if not isinstance(event, dict) or "event" not in event:
                raise InputError(
                    "metrics.jsonl", f"line {number}", f"of {self.events_file} is no event",
                    "restore the file, or `fedapp resume` the run's folder from a copy",
                )  # fmt: skip
            yield event

    def events_since(self, offset: int) -> tuple[list[dict[str, Any]], int]:
        """The events written after byte ``offset`` (0: all), and the offset to ask with next time.

        A resumed run is shorter than it was: an offset beyond its end starts there anew, showing
        nothing twice.
        """
        if not self.events_file.exists():
            return [], 0
        with open(self.events_file, "rb") as file:
            size = file.seek(0, 2)
            file.seek(min(offset, size))
            whole, newline, _ = file.read().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()], min(offset, size) + len(
            whole + newline
        )

    def rewind(self, round: int) -> None:
        """Forget events after ``round``: they will happen again."""
        kept = [event for event in self.events() if event.get("round", 0) <= round]
        write_bytes(self.events_file, "".join(json.dumps(event) + "\n" for event in kept).encode())

    def save_picture(self, name: str, image: Any) -> None:
        """Save ``[H, W, 1 or 3]`` in [0, 1] (or uint8) as ``pictures/<name>.png``; of stacks a
        contact sheet.

        Signals that are no pictures have nothing to show, and are left out.
        """
        import torch
        from PIL import Image

        from tasks.data.pictures import contact_sheet, is_picture

        if not is_picture(image):
            return
        image = contact_sheet(image)
        array = (
            image
            if image.dtype == torch.uint8
            else image.clamp(0, 1).mul(255).round().to(torch.uint8)
        )
        array = array.expand(*array.shape[:2], 3) if array.shape[-1] == 1 else array
        self.pictures.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.contiguous().numpy()).save(self.pictures / f"{name}.png")

    def save_video(self, name: str, video: Video) -> None:
        """Save ``videos/<name>.mp4`` with its sound (where PyAV is installed) and
        ``videos/<name>.gif``."""
        from tasks.data.recordings.clips import Clip
        from tasks.data.recordings.writing import write_clip, write_gif

        self.videos.mkdir(parents=True, exist_ok=True)
        scale = max(1, 192 // video.frames.shape[1])
        write_gif(self.videos / f"{name}.gif", video.frames, scale)
        if importlib.util.find_spec("av") is not None:
            write_clip(self.videos / f"{name}.mp4", Clip(name, video.frames, video.audio), scale)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
