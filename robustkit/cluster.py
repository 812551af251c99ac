"""The map of `--dask`: the same tasks and shards on a Dask cluster, on loopback unless an address says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from robustkit.engine import Map, Outcome
from robustkit.errors import MissingExtraError, RobustkitError, UsageError

CONNECT_SECONDS = 15


def dask_map(address: str) -> Map:
    """Return a map over the cluster at `address` (`tcp://host:port`), or over `local:N` worker processes.

    Workers have one thread each. A worker that dies is replaced and only its task is done again; a task that kills
    its worker again and again ends with an error and the others finish. Raises MissingExtraError without the extra
    `distributed`, UsageError for an address nobody answers at.
    """
    try:
        import distributed  # noqa: F401 - asked for early, so that nothing is computed before the extra is missed
    except ImportError:
        raise MissingExtraError("--dask", "distributed") from None

    def run(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Outcome]:
        from distributed import as_completed

        with ExitStack() as stack:
            client = _client(address, stack)
            futures = {client.submit(function, task, pure=False): task for task in tasks}
            for future in as_completed(list(futures)):
                error = future.exception() if future.status == "error" else None
                if isinstance(error, RobustkitError):
                    raise error
                yield futures[future], error

    return run


def _client(address: str, stack: ExitStack) -> Any:
    import logging

    from distributed import Client, LocalCluster

    for name in ("distributed", "distributed.worker", "distributed.nanny", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    target: Any = address
    if address.startswith("local:"):
        target = stack.enter_context(
            LocalCluster(
                n_workers=_count(address),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        )
    try:
        return stack.enter_context(Client(target, timeout=CONNECT_SECONDS))
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`") from None


def _count(address: str) -> int:
    text = address.removeprefix("local:")
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--dask local:N wants a number of workers, got {address!r}")
    return int(text)
