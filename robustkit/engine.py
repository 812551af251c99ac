"""Where the work is done: here, in local processes, or on a Dask cluster. Three maps with one signature.

`map(function, tasks)` yields (task, error) as tasks end, `error` being None for one that did its work. Tasks are
taken from their iterable as workers become free, so they may be made one by one. A task that kills its worker is
tried again, and then alone; it is reported and never takes the others down. A mistake of the user's is raised.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from robustkit.errors import RobustkitError, UsageError

Ended: TypeAlias = tuple[Any, BaseException | None]
"""A task, and the error that ended it, None for one that did its work."""
Map: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Ended]]
Progress: TypeAlias = Callable[[int, int], None]
"""Told (done, total)."""

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
TASKS_EACH = 4
"""Tasks a worker should find, so that none waits long for the last."""


def serial(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Ended]:
    """Do the tasks one after the other, in this process."""
    for task in tasks:
        try:
            function(task)
        except RobustkitError:
            raise
        except Exception as error:  # a stranger's noise or model raises anything
            yield task, error
        else:
            yield task, None


@dataclass(frozen=True)
class Processes:
    """A map over `workers` processes of one thread each; they end with this process, however it ends."""

    workers: int

    def __call__(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Ended]:
        """Yield (task, error) as tasks end."""
        left = iter(tasks)
        while lost := (yield from _pool(function, left, self.workers)):
            # most often somebody else's accident: once more together, then each alone to find the culprit
            for task in (yield from _pool(function, iter(lost), self.workers)):
                yield from _alone(function, task)


def processes(jobs: int) -> Processes:
    """Return a map over `jobs` worker processes of one thread each."""
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {jobs}")
    return Processes(jobs)


def choose(jobs: int | None, dask: str | None) -> Map:
    """Return the map that `--jobs` or `--dask` asks for; without either, this process."""
    if jobs is not None and dask:
        raise UsageError("--jobs and --dask both say where to work; give one of them")
    if dask:
        from robustkit.cluster import dask_map

        return dask_map(dask)
    return serial if jobs in (None, 1) else processes(jobs or 0)


def parts(work_map: Map, cases: int) -> int:
    """Return into how many tasks each of `cases` is to be cut, so that all workers of a map are busy to the end."""
    workers = int(getattr(work_map, "workers", 0))
    return max(1, -(-TASKS_EACH * workers // max(cases, 1)))


def one_thread() -> None:
    """Pin native thread pools of this process to one thread; set before the libraries load."""
    for name in THREADS:
        os.environ[name] = "1"


def _alone(function: Callable[[Any], Any], task: Any) -> Iterator[Ended]:
    if (yield from _pool(function, iter([task]), 1)):
        reason = "its worker process died each time it was tried (killed for memory, or a crash in native code)"
        yield task, RuntimeError(reason)


def _pool(function: Callable[[Any], Any], tasks: Iterator[Any], workers: int) -> Generator[Ended, None, list[Any]]:
    """Work off `tasks` in one pool of processes; return the tasks in flight when a worker died, [] when none did."""
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    flying: dict[Future[Any], Any] = {}
    lost: list[Any] = []

    def ended(futures: Iterable[Future[Any]]) -> Iterator[Ended]:
        for future in futures:
            error, task = future.exception(), flying.pop(future)
            if isinstance(error, RobustkitError):
                raise error
            if isinstance(error, BrokenProcessPool):
                lost.append(task)
            else:
                yield task, error

    with _pinned():
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
        try:
            while not lost:
                for task in islice(tasks, workers + 1 - len(flying)):
                    try:
                        with undisturbed():
                            flying[pool.submit(function, task)] = task
                    except BrokenProcessPool:
                        lost.append(task)
                if not flying:
                    break
                yield from ended(wait(flying, return_when=FIRST_COMPLETED).done)
            yield from ended(wait(flying).done)  # a broken pool ends them all; what was done in time is done
        except BaseException:
            _stop(pool)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return lost


@contextmanager
def undisturbed() -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM when the block is over; what is begun in it is then known, and can be ended.

    Threads and processes that start meanwhile never hear of Ctrl-C, which a terminal sends to all processes of a run: a
    signal mask is inherited, so they are deaf from their first moment. By SIGTERM they are ended.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # whoever starts it hears SIGINT again
    came: list[int] = []
    answer = signal.getsignal(signal.SIGTERM)
    ours = callable(answer) and threading.current_thread() is threading.main_thread()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if ours:
        signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, answer)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if came:
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def _pinned() -> Iterator[None]:
    """Let spawned children find native threads pinned before any library loads."""
    saved = {name: os.environ.get(name) for name in THREADS}
    one_thread()
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker() -> None:
    """End when the parent ends: killed, it could not say so."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _stop(pool: Any) -> None:
    for process in list((pool._processes or {}).values()):
        process.terminate()
