"""Is a Torch archive data? Read before torch may open it, because opening some of them runs what they hold.

`torch.export.load` falls back to unrestricted pickles, evaluates shape expressions, resolves operators by attribute
from `torch`, and writes names into generated code; TorchScript can name operators that read and write files. What is
accepted here is what an exported network consists of; everything else is refused by name.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustkit.adapters import sniff
from robustkit.adapters.sniff import CURE
from robustkit.errors import ModelError

PLAIN = re.compile(r"[\w.:+\-/ ]*\Z", re.ASCII)
"""What a name in a program may consist of: nothing that ends a name once it is written into code."""
OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file|save|load)\w+\.\w+\Z"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)\Z"
    r"|torch\.sym_(int|float|max|min|not|ite|sum)\Z"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)\Z"
    r"|math\.(trunc|floor|ceil)\Z",
    re.ASCII,
)
SYMBOL = re.compile(r"Symbol\('([a-z]{1,4}\d+)'(?:, (?:positive|integer|nonnegative|real)=(?:True|False))*\)")
EXPRESSION = re.compile(
    r"(?:[szu][a-z]{0,3}\d+|\d{1,18}(?:\.\d+)?|Min|Max|Mod|FloorDiv|CeilDiv|PythonMod|CleanDiv|IntTrueDiv|ToFloat"
    r"|TruncToInt|Integer|Add|Mul|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|true|false|True|False"
    r"|\*(?!\*)|//?|[-+(),<>=&|~ ])*\Z",
    re.ASCII,
)
SCRIPT_DENIED = re.compile(r"\b(save|from_file|load_tensor|PythonOp|IgnoredPythonOp)\b")
SCRIPT_HIDDEN = re.compile(r"getattr\s*\([^\n]*\\")
FREE_TEXT = ("metadata", "torch_version", "torch_fn")


def check_export(path: Path) -> None:
    """Refuse a `.pt2` archive that holds anything but a program of tensor operators and raw tensors (ModelError)."""
    members = sniff.zip_members(path)
    for name in members:
        inner = name.partition("/")[2]
        if "aotinductor" in inner or inner.endswith((".so", ".pyd", ".dll", ".cpp", ".o")):
            raise ModelError(f"{path.name} holds compiled code ({inner}); export it with torch.export.save")
        if re.fullmatch(r"data/(weights|constants)/.*\.pt", inner):
            raise ModelError(f"{path.name} keeps {inner} as a pickle; export it again with a newer torch{CURE}")
        if re.fullmatch(r"data/(weights|constants)/.*\.json", inner):
            _check_payloads(path, name)
        elif re.fullmatch(r"data/sample_inputs/.*", inner):
            _check_pickle(path, name, inner)
        elif inner.startswith("models/"):
            _check_program(path, sniff.json_member(path, name))


def check_script(path: Path) -> None:
    """Refuse a TorchScript archive whose code names operators that touch files or call Python (ModelError)."""
    for name in sniff.zip_members(path):
        if "/code/" not in name or not name.endswith(".py"):
            continue
        code = sniff.read_member(path, name).decode("utf-8", errors="replace")
        found = SCRIPT_DENIED.search(code) or SCRIPT_HIDDEN.search(code)
        if found:
            raise ModelError(f"{path.name} has code that mentions {found[0]!r:.40}, which is no tensor operator{CURE}")


def _check_payloads(path: Path, member: str) -> None:
    payloads = sniff.json_member(path, member)
    entries = payloads.get("config", {}) if isinstance(payloads, dict) else None
    if not isinstance(entries, dict):
        raise ModelError(f"{path.name} is damaged; export it again")
    for name, entry in entries.items():
        place = str(entry.get("path_name", "")) if isinstance(entry, dict) else ""
        if not re.fullmatch(r"(weight|tensor)_\d+", place) or entry.get("use_pickle") is not False:
            raise ModelError(f"{path.name} keeps {name!r:.60} as a pickled object, not as a tensor{CURE}")
        _check_name(path, name)


def _check_pickle(path: Path, member: str, inner: str) -> None:
    """Accept example inputs only as torch's restricted unpickler does: its caller would fall back to an open one."""
    import torch

    content = sniff.read_member(path, member)
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # whatever it raises, the fallback would run it
        raise ModelError(f"{path.name} keeps objects in {inner} that are no tensors{CURE}") from None


def _check_program(path: Path, program: Any) -> None:
    if not isinstance(program, dict) or "graph_module" not in program:
        raise ModelError(f"{path.name} holds no exported program; export it again")
    for key, value in _leaves(program):
        if key == "target":
            if not OPERATORS.match(value):
                raise ModelError(f"{path.name} uses {value!r:.80}, which is no tensor operator{CURE}")
        elif key == "expr_str":
            if len(value) > 500 or not EXPRESSION.match(SYMBOL.sub(r"\1", value)):
                raise ModelError(f"{path.name} has {value!r:.80} for a size, which is no arithmetic{CURE}")
        else:
            _check_name(path, value)


def _check_name(path: Path, name: str) -> None:
    if not PLAIN.match(name):
        raise ModelError(f"{path.name} has {name!r:.80} for a name, which is no name{CURE}")


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) of every text in a program, its keys included; guards are never run, free text never read."""
    if isinstance(node, dict):
        for inner, value in node.items():
            yield "", inner
            if inner not in (*FREE_TEXT, "guards_code"):
                yield from _leaves(value, inner)
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, key)
    elif isinstance(node, str):
        if key in ("in_spec", "out_spec", "context"):
            yield from _nested(node)
        else:
            yield key, node


def _nested(text: str) -> Iterator[tuple[str, str]]:
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        yield "", text
        return
    yield from _leaves(inner, "")
