"""Mutation testing of a seeded sample: ``make mutants``, or ``python tests/mutants.py --help``.

mutmut writes the mutants of ``privacy/`` and ``strategies/`` (about ten thousand) into
``mutants/``, finds out once which tests reach which function, and forks one process per mutant, so
that torch is imported once. Drawing a sample is all that is added here. Verdicts stay in
``mutants/``: the same command goes on where it was stopped, and afterwards tries those again that
lived. Names of all and of single ones: ``mutmut results``, ``mutmut show NAME``.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from pathlib import Path

from mutmut.__main__ import create_mutants
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir

MUTMUT = [sys.executable, "-m", "mutmut"]
DEAD = {"killed", "timeout"}


def generate() -> None:
    """Write the mutants without running any; files that have not changed are left alone."""
    Path("mutants").mkdir(exist_ok=True)
    copy_src_dir()
    copy_also_copy_files()
    create_mutants(1)


def verdicts() -> dict[str, str]:
    """What is known of every mutant, by name: killed, survived, no tests, not checked, ..."""
    command = [*MUTMUT, "results", "--all", "true"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(line.strip().rsplit(": ", 1) for line in lines if ": " in line)


def draw(names: list[str], paths: list[str], size: int, seed: int) -> list[str]:
    """A sample of the mutants under ``paths``, the same for the same seed and code.

    Args:
        names: all mutants, as ``privacy.ring.x_levels__mutmut_3``.
        paths: files or folders, as ``privacy/secagg``; none means all.
        size: how many to draw without replacement; 0 means all.
        seed: of the draw.
    """
    starts = tuple(path.strip("/").removesuffix(".py").replace("/", ".") + "." for path in paths)
    within = sorted(name for name in names if not starts or name.startswith(starts))
    return random.Random(seed).sample(within, size) if 0 < size < len(within) else within


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation testing of a seeded sample")
    parser.add_argument("paths", nargs="*", help="files or folders (default: all that is mutated)")
    parser.add_argument("--sample", type=int, default=100, help="mutants to draw; 0: all of them")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--workers", type=int, default=1, help="mutants tried at a time")
    given = parser.parse_args()
    generate()
    known = verdicts()
    drawn = draw(list(known), given.paths, given.sample, given.seed)
    if not drawn:
        parser.error(f"no mutants under {' '.join(given.paths)}")
    todo = [name for name in drawn if known[name] not in DEAD]
    if todo:  # a mutant that is named is tried again, whatever is known of it
        subprocess.run([*MUTMUT, "run", "--max-children", str(given.workers), *todo], check=True)
    known = verdicts()
    alive = [name for name in drawn if known[name] not in DEAD]
    for name in alive:
        subprocess.run([*MUTMUT, "show", name], check=True)
    killed = len(drawn) - len(alive)
    sys.stdout.write(
        f"\nseed {given.seed}: {killed} of {len(drawn)} mutants killed "
        f"({killed / len(drawn):.0%}); the {len(alive)} above lived\n"
    )


if __name__ == "__main__":
    main()
