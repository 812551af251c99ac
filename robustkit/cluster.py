"""The map of `--dask`: the same tasks and shards on a Dask cluster, on loopback unless an address says otherwise.

A task travels without its weight: large arrays (images, repeats, a profile's spectra) and the model's files are taken
out of it, sent once under the hash of their content, and put back where the work is done. Dask keeps what it was sent
until no task wants it, so a worker that dies takes nothing along.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import time
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import rundir
from robustkit.adapters.spec import spec_beside
from robustkit.engine import Ended, Map, undisturbed
from robustkit.errors import MissingExtraError, RobustkitError, UsageError
from robustkit.models import ModelRef, files_of

CONNECT_SECONDS = 15
PARCEL = 1 << 16
"""Bytes from which on an array is sent by its hash."""
UNKNOWN_WORKERS = 16
"""Workers to cut work for where a cluster's size is its own business (it may grow and shrink)."""
LOOK_SECONDS, WORKERLESS_SECONDS = 10, 600
"""How often a silent cluster is asked for its workers, and how long it may have none."""
STARTS = 3
"""How often a cluster on this machine is started whose workers die as they start."""
AHEAD = 2
"""Tasks a worker that are sent ahead of results, so that none waits for the network."""


@dataclass(frozen=True)
class Cluster:
    """A map over the Dask workers at `address`; `workers` is how many work is cut for."""

    address: str
    workers: int

    def __call__(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Ended]:
        """Yield (task, error) as tasks end."""
        accused = []
        with ExitStack() as stack:
            client = _client(self, stack)
            for task, error in _stream(client, function, iter(tasks), AHEAD * self.workers):
                if _worker_died(error):
                    accused.append(task)
                else:
                    yield task, error
            for task in accused:  # each alone: it may only have waited beside the one that kills
                yield from _stream(client, function, iter([task]), 1)


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
    return Cluster(address, _count(address) if address.startswith("local:") else UNKNOWN_WORKERS)


def _stream(client: Any, function: Callable[[Any], Any], tasks: Iterator[Any], window: int) -> Iterator[Ended]:
    """Keep `window` tasks on the cluster; what a task needs is dropped there when no task in flight wants it."""
    from distributed import wait

    flying: dict[Any, tuple[Any, list[Any]]] = {}
    parcels: dict[str, Any] = {}

    def send() -> None:
        for task in islice(tasks, window - len(flying)):
            payload, weights = pack(task, parcels)
            held = [parcels.get(key) or _send(client, key, weight, parcels) for key, weight in weights.items()]
            flying[client.submit(_unpack_and_do, function, payload, list(weights), *held, pure=False)] = (task, held)

    send()
    seen = time.monotonic()
    while flying:
        try:
            ended = wait(list(flying), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            seen = time.monotonic() if client.ncores() else seen
            if time.monotonic() - seen > WORKERLESS_SECONDS:
                raise RobustkitError(
                    f"the cluster has had no worker for {WORKERLESS_SECONDS} s; what was done is kept, run again with "
                    "--resume when it has some"
                ) from None
            continue
        seen = time.monotonic()
        for future in ended:
            task, _ = flying.pop(future)
            error = future.exception() if future.status == "error" else None
            if isinstance(error, RobustkitError):
                raise error
            yield task, error
        send()
        wanted = {id(parcel) for _, held in flying.values() for parcel in held}
        for key in [key for key, parcel in parcels.items() if id(parcel) not in wanted and not key.startswith(MODEL)]:
            del parcels[key]


def _send(client: Any, key: str, weight: Any, parcels: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")  # once by its hash: that is what it is for
        parcels[key] = client.submit(_hold, weight, key=key)
    return parcels[key]


def _hold(weight: Any) -> Any:
    return weight


MODEL = "robustkit-model-"


class Packer(pickle.Pickler):
    """Pickles a task and lays its large arrays and its model's files aside, in `weights` by the hash of each."""

    def __init__(self, stream: io.BytesIO, sent: Container[str] = ()) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.weights: dict[str, Any] = {}
        self.sent = sent

    def persistent_id(self, item: Any) -> Any:
        """Return what stands for a large array or a model by path; None for all that is pickled as it is."""
        if isinstance(item, np.ndarray) and item.nbytes >= PARCEL and not item.dtype.hasobject:
            array = np.ascontiguousarray(item)
            head = f"{array.dtype.str}{array.shape}".encode()
            key = f"robustkit-array-{hashlib.blake2b(head + array.tobytes(), digest_size=16).hexdigest()}"
            self.weights[key] = array
            return key
        if isinstance(item, ModelRef) and item.path is not None:
            key = _model_key(item)
            if key not in self.weights:
                self.weights[key] = None if key in self.sent else _carried(item)
            return key
        return None


def pack(task: Any, sent: Container[str] = ()) -> tuple[bytes, dict[str, Any]]:
    """Return a task as bytes without its large parts, and these by their hash; None for a model already `sent`."""
    stream = io.BytesIO()
    packer = Packer(stream, sent)
    packer.dump(task)
    return stream.getvalue(), packer.weights


def unpack(payload: bytes, weights: Mapping[str, Any], folder: Path) -> Any:
    """Return the task that `pack` took apart; a model's files are laid into `folder`."""
    unpickler = pickle.Unpickler(io.BytesIO(payload))

    def load(key: str) -> Any:
        weight = weights[key]
        return _laid_down(weight, folder / key) if key.startswith(MODEL) else weight

    unpickler.persistent_load = load  # type: ignore[method-assign]
    return unpickler.load()


def _unpack_and_do(function: Callable[[Any], Any], payload: bytes, keys: Sequence[str], *weights: Any) -> Any:
    from distributed import get_worker

    folder = Path(get_worker().local_directory)  # goes with the worker
    return function(unpack(payload, dict(zip(keys, weights, strict=True)), folder))


SPEC = "input-spec.toml"


def _model_key(model: ModelRef) -> str:
    small = [spec_beside(Path(str(model.path))), Path(model.spec["spec_file"]) if model.spec.get("spec_file") else None]
    texts = [path.read_text(encoding="utf-8") if path is not None and path.is_file() else "" for path in small]
    return f"{MODEL}{model.sha256[:16]}-{rundir.digest(dict(model.spec), texts)}"


def _carried(model: ModelRef) -> tuple[ModelRef, dict[str, bytes]]:
    """Return a model with the content of its files, so that workers need not see the same disk."""
    main = Path(str(model.path))
    content = {f"model/{item.relative_to(main.parent).as_posix()}": item.read_bytes() for item in files_of(main)}
    if model.spec.get("spec_file"):
        content[SPEC] = Path(model.spec["spec_file"]).read_bytes()
    return model, content


def _laid_down(carried: tuple[ModelRef, dict[str, bytes]], folder: Path) -> ModelRef:
    model, content = carried
    for name, data in content.items():
        target = folder / name
        if not (target.is_file() and target.stat().st_size == len(data)):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    spec = {**model.spec, "spec_file": str(folder / SPEC)} if SPEC in content else model.spec
    return replace(model, path=str(folder / "model" / Path(str(model.path)).name), spec=spec)


def _worker_died(error: BaseException | None) -> bool:
    from distributed.scheduler import KilledWorker

    return isinstance(error, KilledWorker)


def _client(cluster: Cluster, stack: ExitStack) -> Any:
    import logging

    import dask
    from distributed import Client

    for name in ("distributed", "distributed.worker", "distributed.nanny", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if cluster.address.startswith("local:"):
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 1}))  # then each alone
        with undisturbed():
            return stack.enter_context(Client(stack.enter_context(_local_cluster(cluster.workers))))
    try:
        return stack.enter_context(Client(cluster.address, timeout=CONNECT_SECONDS))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {cluster.address} ({error}); start one with `dask scheduler`"
        ) from None
    except TypeError:  # what dask raises without certificates
        raise UsageError(
            f"--dask {cluster.address} wants certificates, and dask's configuration names none for this client; see "
            "TLS in docs/scaling.md"
        ) from None


def _local_cluster(workers: int) -> Any:
    """Start a cluster on this machine; anew when a worker dies before it is one, which Dask itself does not mend."""
    import logging

    from distributed import LocalCluster

    failure = None
    for _ in range(STARTS):
        try:
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        except RuntimeError as error:
            failure = error
    raise RobustkitError(
        f"--dask local:{workers}: worker processes ended {STARTS} times while they started ({failure}); what was done "
        "is kept. Try fewer workers, or --jobs"
    ) from failure


def _count(address: str) -> int:
    text = address.removeprefix("local:")
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--dask local:N wants a number of workers, got {address!r}")
    return int(text)
