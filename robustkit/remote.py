"""Images and models at URLs: fetched once through fsspec into a folder that goes with the process, then read as files.

Any URL that fsspec opens will do (`s3://`, `gs://`, `https://`, `memory://`, ...), with the packages it needs. Nothing
of a URL reaches a log, an error or a run directory but its scheme and the last part of a model's name.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from robustkit.errors import DataError, MissingExtraError, ModelError, RobustkitError

SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)(::|://)", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Say whether a text is a URL rather than a path or the name of something installed."""
    return SCHEME.match(text) is not None


def fetch_images(url: str) -> Path | None:
    """Return a local copy of the file or folder at a URL; None when nothing is there.

    Raises DataError for a URL that cannot be read, MissingExtraError without the extra `fsspec`.
    """
    system, place = _open(url, DataError)
    target = _folder() / (PurePosixPath(place).name or "images")
    try:
        if not system.exists(place):
            return None
        if system.isdir(place):
            for item in sorted(system.find(place)):
                inside = target / PurePosixPath(item).relative_to(PurePosixPath(place))
                _inside(target, inside).parent.mkdir(parents=True, exist_ok=True)
                system.get_file(item, str(inside))
        else:
            system.get_file(place, str(target))
    except RobustkitError:
        raise
    except Exception as error:  # every file system of fsspec has errors of its own
        raise _unreadable(url, error, DataError) from None
    return target


def fetch_model(url: str) -> Path:
    """Return a local copy of the model at a URL, with the input spec beside it where there is one.

    Raises ModelError for a URL that cannot be read or where nothing is, MissingExtraError without the extra `fsspec`.
    """
    system, place = _open(url, ModelError)
    name = PurePosixPath(place).name
    target = _folder() / (name or "model")
    try:
        if not system.exists(place):
            raise ModelError(f"no such model file: {name}")
        if system.isdir(place):
            system.get(place.rstrip("/") + "/", str(target) + "/", recursive=True)
        else:
            system.get_file(place, str(target))
        beside = str(PurePosixPath(place).with_suffix(".robustkit.toml"))
        if system.exists(beside):
            system.get_file(beside, str(target.with_suffix(".robustkit.toml")))
    except RobustkitError:
        raise
    except Exception as error:  # as above
        raise _unreadable(url, error, ModelError) from None
    return target


def _open(url: str, kind: type[RobustkitError]) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError("a URL", "fsspec") from None
    try:
        system, place = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise kind(f"{_scheme(url)} URLs need another package: {error}") from None
    except Exception as error:  # fsspec's file systems share no base class of errors
        raise _unreadable(url, error, kind) from None
    return system, str(place)


def _unreadable(url: str, error: Exception, kind: type[RobustkitError]) -> RobustkitError:
    return kind(f"the {_scheme(url)} URL given cannot be read ({type(error).__name__}); check address and credentials")


def _scheme(url: str) -> str:
    found = SCHEME.match(url)
    return found[1].lower() if found else "unknown"


def _inside(folder: Path, path: Path) -> Path:
    if ".." in path.parts or not path.is_relative_to(folder):
        raise DataError("a file at the URL given lies outside its folder; refused")
    return path


def _folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="robustkit-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
