"""Where the work is done: here, in local processes, or on a Dask cluster. Three maps with one signature.

`map(function, tasks)` yields (task, error) as tasks end, `error` being None for one that did its work. A task that
kills its worker is tried again, and then alone; it is reported and never takes the others down.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from robustkit.errors import RobustkitError, UsageError

Outcome: TypeAlias = tuple[Any, BaseException | None]
Map: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Outcome]]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def serial(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Outcome]:
    """Do the tasks one after the other, in this process; an error is raised at once."""
    for task in tasks:
        function(task)
        yield task, None


def processes(jobs: int) -> Map:
    """Return a map over `jobs` worker processes of one thread each."""
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {jobs}")

    def run(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Outcome]:
        left = list(tasks)
        workers = jobs
        for _ in range(3):
            broken: list[Any] = []
            for task, error in _pool(function, left, workers):
                if _worker_died(error):
                    broken.append(task)
                else:
                    yield task, error
            if not broken:
                return
            left = broken
        for task in left:
            yield from _pool(function, [task], 1)

    return run


def choose(jobs: int | None, dask: str | None) -> Map:
    """Return the map that `--jobs` or `--dask` asks for; without either, this process."""
    if jobs and dask:
        raise UsageError("--jobs and --dask both say where to work; give one of them")
    if dask:
        from robustkit.cluster import dask_map

        return dask_map(dask)
    return processes(jobs) if jobs and jobs > 1 else serial


def one_thread() -> None:
    """Pin native thread pools of this process to one thread; set before the libraries load."""
    for name in THREADS:
        os.environ[name] = "1"


def _pool(function: Callable[[Any], Any], tasks: list[Any], workers: int) -> Iterator[Outcome]:
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    saved = {name: os.environ.get(name) for name in THREADS}
    one_thread()  # spawned children inherit it before any library loads
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn"))
    try:
        futures = {pool.submit(function, task): task for task in tasks}
        for future in as_completed(futures):
            error = future.exception()
            if isinstance(error, RobustkitError):
                raise error
            yield futures[future], error
    except BaseException:
        _stop(pool)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _stop(pool: Any) -> None:
    for process in list((pool._processes or {}).values()):
        process.terminate()


def _worker_died(error: BaseException | None) -> bool:
    from concurrent.futures.process import BrokenProcessPool

    return isinstance(error, BrokenProcessPool)
