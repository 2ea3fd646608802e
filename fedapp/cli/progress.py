"""Progress of a run, read from the events it writes: the same on Ray and in process."""

from __future__ import annotations

import threading
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
)

from fedapp.results import own_metrics
from fedapp.store.runfolder import RunFolder


class ProgressDisplay:
    """A bar over all rounds of all arms, and a line for each round that is worth one."""

    def __init__(self, folder: RunFolder, total: int, console: Console) -> None:
        self.folder, self.console, self.total = folder, console, total
        self.offset = self.done = 0
        self.bar = Progress(
            SpinnerColumn(), TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[detail]}"), console=console, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task("starting", total=total, detail="")

    def tick(self) -> None:
        """Show the events that have come since the last call."""
        events, self.offset = self.folder.events_since(self.offset)
        for event in events:
            self._show(event)
            self.done += event["event"] == "round"
        self.bar.update(self.task, completed=self.done)

    def _show(self, event: dict[str, Any]) -> None:
        if event["event"] == "round":
            psnr_p, clients = event.get("psnr_p") or {}, event["clients"]
            parts = [
                f"{clients['ok']} ok"
                + (f", [red]{clients['failed']} failed[/]" if clients["failed"] else "")
            ]
            if psnr_p.get("mean") is not None:
                parts.append(f"PSNR_p {psnr_p['mean']:.2f} dB (max {psnr_p['max']:.2f})")
            if event.get("epsilon") is not None:
                parts.append(f"ε {event['epsilon']:.2f}")
            text = f"{event['method']}-{event['seed']}: {', '.join(parts)}"
            self.bar.update(self.task, description=f"round {event['round']}", detail=text)
            for client, reason in event["failures"].items():
                self.console.print(f"round {event['round']} {event['method']}: client {client} left out: {reason}",
                                   style="yellow", markup=False, highlight=False)  # fmt: skip
        elif event["event"] == "evaluation":
            steps = {
                k: value for k, value in (event.get("psnr") or {}).items() if value is not None
            }
            own = {
                name: value
                for name, value in own_metrics(event).items()
                if isinstance(value, int | float)
            }
            text = " ".join(f"{k}:{value:.1f}" for k, value in steps.items())
            text = " ".join(
                [f"PSNR@k {text}"] * bool(steps)
                + [f"{name} {value:.4g}" for name, value in own.items()]
            )
            warning = "  [red]diverged[/]" if event.get("diverged") else ""
            self.console.print(
                f"round {event['round']:>3} {event['method']}-{event['seed']} {text}{warning}",
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
