"""Jobs of a study in processes side by side, in order of their ends, with the time left told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from typing import Any, TypeVar

from fedapp.place import cores

Job = TypeVar("Job")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[..., Result],
    jobs: Sequence[Job],
    arguments: Callable[[Job], tuple[Any, ...]],
    tell: Callable[[str], None],
    called: Callable[[Job], str],
    workers: int = 0,
) -> Iterator[tuple[Job, Result]]:
    """Results of ``function(*arguments(job))`` as they come, each from a process of its own with
    one thread of torch; a caller that stops (or is stopped) ends the others at once.

    Args:
        function: of a module's top level.
        jobs: in the order in which they begin.
        arguments: of a job.
        tell: is told of every job that is done, and the time left.
        called: what a job is called.
        workers: processes; 0: as many as there are processors; 1: none but this one.
    """
    if not jobs:
        return
    if workers == 1:
        for number, job in enumerate(jobs, 1):
            yield job, function(*arguments(job))
            tell(f"{number} of {len(jobs)}: {called(job)}")
        return
    context = get_context("spawn")  # a forked process would share torch's threads
    pool = ProcessPoolExecutor(min(workers or cores(), len(jobs)), context, _alone)
    try:
        futures = {pool.submit(function, *arguments(job)): job for job in jobs}
        started = time.monotonic()
        for number, future in enumerate(as_completed(futures), 1):
            yield futures[future], future.result()
            left = (time.monotonic() - started) / number * (len(jobs) - number) / 60
            tell(f"{number} of {len(jobs)}: {called(futures[future])}, {left:.0f} min left")
    except BaseException:  # an end that waited for all jobs would be none
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()
        raise
    pool.shutdown()


def _alone() -> None:
    import torch

    torch.set_num_threads(1)
