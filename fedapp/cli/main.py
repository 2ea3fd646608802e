"""``fedapp``: exit status 0 on success, 2 on bad input, 3 when a run stopped for a stated reason,
130 when it was interrupted, 1 on our fault.

With ``--json`` one JSON object goes to the given path (``-``: standard output) and everything else
to standard error.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedapp.cli.adapt import adapt, render
from fedapp.cli.budget import budget
from fedapp.cli.device import device
from fedapp.cli.enrol import enrol
from fedapp.cli.heads import ablate, export, people, pretrain, speak
from fedapp.cli.made import made
from fedapp.cli.output import JsonOption, OverrideOption, console, escape, write_json
from fedapp.cli.portraits import portraits
from fedapp.cli.probes import attack, audit
from fedapp.cli.shelf import compare, data, runs
from fedapp.cli.tune import tune
from fedapp.place import __version__
from tasks.errors import FedappError, InputError, nearest
from tasks.targets import not_written

# a full disk, a file system that became read-only
REFUSED_BY_THE_SYSTEM = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG,
)  # fmt: skip
app = typer.Typer(
    no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False
)
app.add_typer(budget, name="budget")
app.command()(audit)
app.command()(attack)
app.command()(enrol)
app.command()(device)
app.command()(pretrain)
app.command()(ablate)
app.command()(export)
app.command()(speak)
app.command()(people)
app.command()(portraits)
app.command()(tune)
app.command()(runs)
app.command()(compare)
app.add_typer(data, name="data")
app.command()(adapt)
app.command()(render)
app.command()(made)


def entry() -> None:
    """Run the command line; deliberate errors become one message and their exit status."""
    # as ^C: what was started is ended, what was computed is kept
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # nohup's
            signal.signal(ending, _end)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller: what is said goes nowhere, the work is done
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):  # a locale may lack our letters
            stream.reconfigure(errors="replace" if name != "stdin" else stream.errors)
    sys.exit(_status())


def _status() -> int | str | None:
    """Run the command; the exit status, after standard output is really written."""
    status: int | str | None = 0
    try:
        app(standalone_mode=True)
    except SystemExit as ending:
        status = ending.code
    except FedappError as error:
        _say(str(error))
        status = error.exit_code
    except OSError as error:
        status = _refused(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own
        if error.errno != errno.EPIPE:  # whoever reads may stop, as head does
            status = _refused(error)
    return status


def _refused(error: OSError) -> int:
    """Say what the system refused to write, and how it is told; raises what is a fault of ours."""
    if error.errno not in REFUSED_BY_THE_SYSTEM:
        raise error
    failed = not_written(error.filename or "standard output", error)
    _say(str(failed))
    return failed.exit_code


def _say(error: str) -> None:
    console.print(f"[bold red]error[/] {escape(error)}", highlight=False, soft_wrap=True)


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"fedapp {__version__}\n")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="say it and stop")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def run(
    recipe: Annotated[
        str, typer.Argument(help="a recipe's name (`fedapp list recipes`) or a .toml file")
    ],
    overrides: OverrideOption = [],  # noqa: B006
    runtime: Annotated[str, typer.Option(help="ray (through `flwr run`) or in-process")] = "ray",
    runs: Annotated[Path, typer.Option(help="folder that holds run folders")] = Path("runs"),
    target: JsonOption = "",
) -> None:
    """Run a recipe: train, evaluate, and write a report."""
    from fedapp.cli import runs as verbs

    experiment, folder = verbs.prepare(recipe, overrides, runs, runtime)
    result = verbs.execute(experiment, folder, runtime, console)
    verbs.show_result(result, folder, console)
    write_json(target, result)


@app.command()
def resume(
    path: Annotated[Path, typer.Argument(help="a run folder")],
    runtime: Annotated[
        str | None, typer.Option(help="ray or in-process; default: as it was started")
    ] = None,
    target: JsonOption = "",
) -> None:
    """Continue a run that was killed or stopped; the result is the same as if it had not been."""
    from fedapp.cli import runs as verbs

    experiment, folder, chosen = verbs.reopen(path, runtime)
    result = verbs.execute(experiment, folder, chosen, console)
    verbs.show_result(result, folder, console)
    write_json(target, result)


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="a run folder")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print its tables as Markdown instead")
    ] = False,
    target: JsonOption = "",
) -> None:
    """Write report.html anew from a run's events and pictures."""
    from fedapp.cli.runs import show_result
    from fedapp.config.pieces import Pieces
    from fedapp.report import write_report
    from fedapp.report.families import Shown, tables_of
    from fedapp.results import summarise, write_result
    from fedapp.store.runfolder import RunFolder

    folder = RunFolder.open(path.resolve())
    if markdown:
        shown = Shown.of(Pieces.of(folder), summarise(folder))
        for table in tables_of(shown):
            sys.stdout.write(f"**{table.title}**\n\n{table.markdown()}\n\n{table.note}\n\n")
        return
    result = write_result(folder)
    write_report(folder)
    show_result(result, folder, console)
    write_json(target, result)


@app.command(name="list")
def list_(
    what: Annotated[
        str, typer.Argument(help="tasks, rules, learners, releases, recipes, runtimes, keys or all")
    ] = "all",
    target: JsonOption = "",
) -> None:
    """List what there is to choose from."""
    from fedapp.cli.catalogue import catalogue

    tables = catalogue()
    if what != "all" and what not in tables:
        raise InputError("list", what, "nothing of that name", nearest(what, [*tables, "all"]))
    chosen = {
        name: rows
        for name, rows in tables.items()
        if what in (name, "all") and (what != "all" or name != "keys")
    }
    if target != "-":  # the answer, so on standard output: a line each where nobody looks
        answer = Console()
        for name, rows in chosen.items():
            if not answer.is_terminal:
                sys.stdout.writelines(f"{key}\t{text}\n" for key, text in rows.items())
                continue
            table = Table("name", "what it is", title=name, title_justify="left")
            for key, text in rows.items():
                table.add_row(key, escape(text))
            answer.print(table)
    write_json(target, chosen)


@app.command()
def check(
    axis: Annotated[str, typer.Argument(help="what it is: rule")],
    name: Annotated[str, typer.Argument(help='a name, or "package.module:Class"')],
    target: JsonOption = "",
) -> None:
    """Hold a plug-in's part to the contract ours keep; exit status 1 if it breaks a clause."""
    from fedapp.contract.rule import CLAUSES, NOT_APPLIED, check_rule

    if axis != "rule":
        raise InputError("check", axis, "no contract is written for it", "use rule")
    found = check_rule(name)
    table = Table("clause", "what it demands", "")
    for clause, reason in found.items():
        table.add_row(clause, CLAUSES[clause].demand, escape(reason or "holds"))
    console.print(table)
    write_json(
        target, {"name": name, "clauses": {key: text or "holds" for key, text in found.items()}}
    )
    if set(found.values()) - {"", NOT_APPLIED}:
        raise typer.Exit(1)


@app.command()
def doctor(target: JsonOption = "") -> None:
    """Check this machine: torch build, cores and GPUs, Flower home, broken packages, a foreign
    SuperLink."""
    from fedapp.cli.doctor import examine

    findings = examine()
    style = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}
    for finding in findings:
        console.print(
            f"[{style[finding.level]}]{finding.level:>8}[/]  {finding.subject}: "
            f"{escape(finding.text)}",
            highlight=False,
            soft_wrap=True,
        )
    write_json(target, {"findings": [finding._asdict() for finding in findings]})
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(help="cohort, secagg, talking-head, fields, methods, split-nerf or head"),
    ],
    quick: Annotated[bool, typer.Option(help="the size for 2 cores and a few minutes")] = False,
    check: Annotated[
        bool, typer.Option(help="exit with status 1 where a target is held by neither way")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="methods, head: where results lie; finished ones are kept"),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="methods: seeds, separated by commas; default 0 (quick) or 0,1,2")
    ] = "",
    rules: Annotated[
        str, typer.Option(help="methods: rules instead of ours, a plug-in's too, by comma")
    ] = "",
    learners: Annotated[str, typer.Option(help="methods: learners instead of ours, by comma")] = "",
    target: JsonOption = "",
) -> None:
    """Measure ours against a reference and against what this machine can do, side by side in one
    run; or every rule with every learner (methods)."""
    from sim.bench import BENCHMARKS, machine
    from sim.bench.rows import missed, shown, summary
    from tasks.errors import InputError
    from tasks.registry import load

    measure = load("benchmark", name, BENCHMARKS, key="bench")
    own = {
        "folder": folder,
        "seeds": seeds,
        "rules": [part for part in rules.split(",") if part],
        "learners": [part for part in learners.split(",") if part],
    }
    takes: dict[str, dict[str, Any]] = {"methods": own, "head": {"folder": folder}}
    taken = takes.get(name, {})
    if given := [f"--{key}" for key, value in own.items() if value and key not in taken]:
        raise InputError(
            ", ".join(given), "(given)", f"bench {name} has no use for it", "leave it out"
        )
    rows = []
    for row in measure(quick=quick, **taken):
        rows.append(row)
        console.print(escape(shown(row)), highlight=False, soft_wrap=True)
    if name != "methods":
        console.print(summary(rows), highlight=False, soft_wrap=True)
    write_json(target, {"rows": rows, "machine": machine()})
    if check and missed(rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    entry()
