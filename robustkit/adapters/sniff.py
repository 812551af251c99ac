"""Which kind of model a file is, told by its content; and, for a file that is none, what it is instead."""

from __future__ import annotations

import json
import mmap
import struct
import zipfile
from pathlib import Path

from robustkit.adapters import wire
from robustkit.errors import ModelError

SUFFIXES = (".onnx", ".pt2", ".pt", ".pth", ".ts", ".torchscript", ".safetensors", ".keras", ".h5", ".hdf5")
"""File names that promise a model: with other content they are an error rather than somebody else's."""
HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK"
PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
TEXT_HEAD = 512
CURE = "; load it with --unsafe-load only if you trust whoever made it"
"""What a file is told that may be more than data."""
INFLATION = 20
"""A zip archive may hold this many times its own size, plus 64 MiB; more is a bomb."""


def kind_of_file(path: Path) -> str | None:
    """Return onnx, torch-export, torchscript, torch-weights, safetensors, keras, hdf5 or savedmodel; None for others.

    Raises
    ------
    ModelError
        A file that cannot be read, or whose name promises a model that it is not: empty, cut short, text.
    """
    if path.is_dir():
        return "savedmodel" if (path / "saved_model.pb").is_file() else None
    if path.name == "saved_model.pb":
        raise ModelError("saved_model.pb is part of a SavedModel; give the folder that holds it")
    head = _head(path)
    kind = _by_magic(path, head) or ("onnx" if _is_onnx(path, head) else None)
    if kind is None and path.suffix.lower() in SUFFIXES:
        raise ModelError(_instead(path, head))
    return kind


def mapped(path: Path) -> memoryview:
    """Return the bytes of a file, mapped rather than read."""
    with path.open("rb") as stream:
        if not path.stat().st_size:
            return wire.EMPTY
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def zip_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the members of a zip archive; ModelError when it is damaged or unpacks to far more than it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise ModelError(f"{path.name} is a damaged or truncated archive; copy or export it again") from None
    inflated = sum(info.file_size for info in members.values())
    if inflated > INFLATION * path.stat().st_size + 2**26:
        raise ModelError(f"{path.name} would unpack to {inflated / 2**20:.0f} MiB; export the model again")
    return members


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(TEXT_HEAD)
    except FileNotFoundError:
        raise ModelError(f"no such model file: {path.name}") from None
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror}") from None


def _by_magic(path: Path, head: bytes) -> str | None:
    if head.startswith(HDF5):
        return "hdf5"
    if head.startswith(ZIP) and path.suffix.lower() != ".npz":
        return _zip_kind(path)
    if head.startswith(PICKLE) and path.suffix.lower() not in (".pkl", ".pickle", ".joblib"):
        return "torch-weights"
    if len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= path.stat().st_size - 8:
        return "safetensors"
    return None


def _zip_kind(path: Path) -> str | None:
    names = set(zip_members(path))
    if "config.json" in names and "metadata.json" in names:
        return "keras"
    inner = {name.partition("/")[2] for name in names}
    if inner & {"archive_format"} or "serialized_exported_program.json" in names:
        return "torch-export"
    if any(name.startswith("code/") for name in inner):
        return "torchscript"
    return "torch-weights" if "data.pkl" in inner else None


def _is_onnx(path: Path, head: bytes) -> bool:
    """Tell an ONNX model: a protobuf message with an IR version and one graph, and fields of no other number."""
    if not head:
        return False
    try:
        seen = [number for number, _, content in wire.fields(mapped(path)) if number != 7 or len(content)]
    except wire.WireError:
        return False
    return 1 in seen and seen.count(7) == 1 and set(seen) <= {*range(1, 9), 14, 20, 25, 26}


def _instead(path: Path, head: bytes) -> str:
    what = f"{path.name} is no {path.suffix.lower()} model"
    if not head:
        return f"{path.name} is empty; copy or export it again"
    if head.startswith(b"version https://git-lfs"):
        return f"{path.name} is a Git LFS pointer, not the model; fetch it with `git lfs pull`"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return f"{what} but text; give the model file itself"
    if path.suffix.lower() == ".onnx" and head[:1] == b"\x08":
        return f"{path.name} is truncated or damaged; copy or export it again"
    return f"{what}: its content is of no format known here; export it again"


def read_member(path: Path, name: str, limit: int = 2**26) -> bytes:
    """Return one member of a zip archive; ModelError when it is absent, damaged, or larger than `limit` bytes."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            content = stream.read(limit + 1)
    except Exception:  # zipfile and its decompressors raise a dozen kinds for damaged archives
        raise ModelError(f"{name} in {path.name} is missing or damaged; export the model again") from None
    if len(content) > limit:
        raise ModelError(f"{name} in {path.name} is larger than any model's description; export it again")
    return content


def json_member(path: Path, name: str) -> object:
    """Return one JSON member of a zip archive; ModelError when it is absent, damaged, or no JSON."""
    try:
        found: object = json.loads(read_member(path, name))
    except (ValueError, RecursionError):
        raise ModelError(f"{name} in {path.name} is damaged; export the model again") from None
    return found
