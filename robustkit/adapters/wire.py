"""What an ONNX file holds, read straight from its protobuf encoding, before anything else may open it.

The core install has onnxruntime but not the `onnx` package, and onnxruntime follows hard links in external data;
so operators, metadata and the places of external data are read here: a walk over field headers that skips weights.
Field numbers: onnx.proto of ONNX 1.x; encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

Bytes: TypeAlias = memoryview
Field: TypeAlias = tuple[int, int, Bytes]
"""(field number, value of a varint or 0, content of a length-delimited field or nothing)."""
DEEPEST = 64
EMPTY = memoryview(b"")


class WireError(ValueError):
    """Bytes that are no protobuf message of the kind asked for."""


@dataclass
class OnnxContent:
    """What a model file states: versions, operators in order of the file, metadata, external data.

    Attributes
    ----------
    operators : (domain, type) of every node, those of subgraphs and functions included.
    made_by : output name -> (type, first input) of the node of the main graph that makes it.
    external : one mapping of location, offset, length a tensor stored outside the file.
    """

    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    operators: list[tuple[str, str]] = field(default_factory=list)
    made_by: dict[str, tuple[str, str]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    external: list[dict[str, str]] = field(default_factory=list)
    graphs: int = 0


def read_onnx(data: Bytes) -> OnnxContent:
    """Return what an ONNX model holds; WireError when the bytes are cut short or are no protobuf."""
    found = OnnxContent()
    for number, value, content in fields(data):
        if number == 1:
            found.ir_version = value
        elif number == 2:
            found.producer = _text(content)
        elif number == 7:
            found.graphs += 1
            _read_graph(content, found, 0, main=True)
        elif number == 8:
            parts = {n: (v, c) for n, v, c in fields(content)}
            found.opsets[_text(parts.get(1, (0, EMPTY))[1])] = parts.get(2, (0, EMPTY))[0]
        elif number == 14:
            key, text = _pair(content)
            found.metadata[key] = text
        elif number == 20:  # training info holds graphs too
            for _, _, graph in fields(content):
                _read_graph(graph, found, 0)
        elif number == 25:
            for _, _, node in (f for f in fields(content) if f[0] == 7):
                _read_node(node, found, 0)
    return found


def with_metadata(data: bytes, key: str, value: str) -> bytes:
    """Return an ONNX file whose metadata say `key` = `value`, in place of what they said of `key`."""
    view = memoryview(data)
    kept, start = [], 0
    for number, _, content, end in _spans(view):
        if not (number == 14 and _pair(content)[0] == key):
            kept.append(view[start:end])
        start = end
    pair = b"".join(_field(n, text.encode()) for n, text in ((1, key), (2, value)))
    return b"".join([*kept, _field(14, pair)])


def fields(data: Bytes) -> Iterator[Field]:
    """Yield the fields of one message, without copying."""
    for number, value, content, _ in _spans(data):
        yield number, value, content


def _spans(data: Bytes) -> Iterator[tuple[int, int, Bytes, int]]:
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        value, content = 0, EMPTY
        if number == 0:
            raise WireError("a field without a number")
        if kind == 0:
            value, position = _varint(data, position)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        elif kind == 2:
            length, position = _varint(data, position)
            content, position = data[position : position + length], position + length
        else:
            raise WireError(f"unknown wire type {kind}")
        if position > end:
            raise WireError("cut short")
        yield number, value, content, position


def _varint(data: Bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise WireError("cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError("a number longer than 64 bits")


def _read_graph(data: Bytes, found: OnnxContent, depth: int, *, main: bool = False) -> None:
    if depth > DEEPEST:
        raise WireError("graphs nested too deeply")
    for number, _, content in fields(data):
        if number == 1:
            _read_node(content, found, depth, main=main)
        elif number == 5:
            _read_tensor(content, found)
        elif number == 15:
            _read_sparse(content, found)


def _read_node(data: Bytes, found: OnnxContent, depth: int, *, main: bool = False) -> None:
    kind = domain = ""
    took: list[str] = []
    made: list[str] = []
    for number, _, content in fields(data):
        if number == 1:
            took.append(_text(content))
        elif number == 2:
            made.append(_text(content))
        elif number == 4:
            kind = _text(content)
        elif number == 7:
            domain = _text(content)
        elif number == 5:
            _read_attribute(content, found, depth)
    found.operators.append((domain, kind))
    if main:
        found.made_by.update(dict.fromkeys(made, (kind, took[0] if took else "")))


def _read_attribute(data: Bytes, found: OnnxContent, depth: int) -> None:
    for number, _, content in fields(data):
        if number in (5, 10):
            _read_tensor(content, found)
        elif number in (6, 11):
            _read_graph(content, found, depth + 1)
        elif number in (22, 23):
            _read_sparse(content, found)


def _read_sparse(data: Bytes, found: OnnxContent) -> None:
    for number, _, content in fields(data):
        if number in (1, 2):
            _read_tensor(content, found)


def _read_tensor(data: Bytes, found: OnnxContent) -> None:
    entries, outside = {}, False
    for number, value, content in fields(data):
        if number == 13:
            key, text = _pair(content)
            entries[key] = text
        elif number == 14:
            outside = value == 1
    if outside or "location" in entries:
        found.external.append(entries)


def _pair(data: Bytes) -> tuple[str, str]:
    parts = {number: _text(content) for number, _, content in fields(data)}
    return parts.get(1, ""), parts.get(2, "")


def _text(content: Bytes) -> str:
    try:
        return bytes(content).decode("utf-8")
    except UnicodeDecodeError:
        raise WireError("a name that is not UTF-8") from None


def _field(number: int, content: bytes) -> bytes:
    return _varint_bytes(number << 3 | 2) + _varint_bytes(len(content)) + content


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
