"""Progress of a run, read from the events it writes: the same on Ray and in process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedapp.store.runfolder import RunFolder

EVERY = 30.0  # seconds between lines in a log


class ProgressDisplay:
    """A bar over all rounds of all arms, and a line for each round that is worth one."""

    def __init__(self, folder: RunFolder, total: int, console: Console) -> None:
        self.folder, self.console, self.total = folder, console, total
        self.offset = self.done = 0
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=total, detail="")
        self.started = self.told = time.monotonic()

    def tick(self) -> None:
        """Show the events that have come since the last call."""
        events, self.offset = self.folder.events_since(self.offset)
        for event in events:
            self._show(event)
            self.done += event["event"] == "round"
        self.bar.update(self.task, completed=self.done)
        self._tell()

    def _tell(self) -> None:
        """In a log, where no bar is drawn: a line every ``EVERY`` seconds."""
        now = time.monotonic()
        if self.console.is_terminal or now - self.told < EVERY:
            return
        self.told = now
        left = "time left not known yet"
        if self.done:
            seconds = (now - self.started) / self.done * (self.total - self.done)
            left = f"about {_duration(seconds)} left"
        line = f"{self.done} of {self.total} rounds, {_duration(now - self.started)} gone, {left}"
        self.console.print(line, highlight=False, soft_wrap=True)
        self.console.file.flush()

    def _show(self, event: dict[str, Any]) -> None:
        if event["event"] == "round":
            self._show_round(event)
        elif event["event"] == "evaluation":
            text = " ".join(_brief(name, value) for name, value in event["metrics"].items())
            self.console.print(
                f"round {event['round']:>3} {event['method']}-{event['seed']} "
                f"{' '.join(text.split())}",
                highlight=False,
            )

    def _show_round(self, event: dict[str, Any]) -> None:
        clients = event["clients"]
        failed = f", [red]{clients['failed']} failed[/]" if clients["failed"] else ""
        parts = [f"{clients['ok']} ok{failed}"]
        psnr_p = event["metrics"].get("psnr_p") or {}
        if psnr_p.get("mean") is not None:
            parts.append(f"PSNR_p {psnr_p['mean']:.2f} dB (max {psnr_p['max']:.2f})")
        if event.get("epsilon") is not None:
            parts.append(f"ε {event['epsilon']:.2f}")
        text = f"{event['method']}-{event['seed']}: {', '.join(parts)}"
        self.bar.update(self.task, description=f"round {event['round']}", detail=text)
        notes = [f"client {c} left out: {reason}" for c, reason in event["failures"].items()]
        notes += [
            f"a chunk of clients failed together and was trained one by one: {reason}"
            for reason in event.get("fallbacks", [])
        ]
        notes += [f"uploads could not be looked at: {r}" for r in event.get("unseen", [])]
        for note in notes:
            self.console.print(
                f"round {event['round']} {event['method']}: {note}",
                style="yellow",
                markup=False,
                highlight=False,
            )

    @contextmanager
    def live(self, threaded: bool) -> Iterator[None]:
        """Show the bar; ``threaded`` reads events from a thread, for runs that occupy the caller's
        own."""
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(0.3):
                self.tick()

        thread = threading.Thread(target=follow, daemon=True)
        with self.bar:
            if threaded:
                thread.start()
            try:
                yield
            finally:
                stop.set()
                if threaded:
                    thread.join()
                self.tick()


def _duration(seconds: float) -> str:
    """``1:02:03``, or ``2:03``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _brief(name: str, value: Any) -> str:
    """A metric in a line: a number, the entries of a table by step, the name of what is true."""
    if value is True:
        return f"[red]{name}[/]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{name} {value:.4g}"
    if name == "psnr" and isinstance(value, dict):
        steps = [f"{k}:{v:.1f}" for k, v in value.items() if isinstance(v, int | float)]
        return f"PSNR@k {' '.join(steps)}"
    return ""
