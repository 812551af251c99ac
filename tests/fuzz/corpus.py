"""Mutated files of every kind robustkit reads: made from valid ones by a script, the same every time.

Example `i` of a kind depends on (SEED, kind, i) alone. Two of three are mutated inside their own structure (an element,
an array, a node, a leaf of JSON or TOML), so that they pass the parsing of their header; the rest byte by byte.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20240607
COUNTS = {"dicom": 450, "npz": 400, "onnx": 350, "toml": 300, "profile": 250, "run": 350, "pt2": 150, "keras": 150}
SUFFIX = {"dicom": ".dcm", "npz": ".npz", "onnx": ".onnx", "toml": ".toml", "profile": ".npz", "run": ".zip"}
SIDE = 16
NUMBERS = (0, -1, 1, 2**31 - 1, 2**63 - 1, -(2**63), 1e-300, 1e308, float("nan"), float("inf"), -0.5, 65535, 512)
TEXTS = ("", "NaN", "inf", "-1", "1e999", "9" * 40, "\\" * 9, "a\x00b", "Z\u0301" * 30, "../../x", "<script>", "\n\n")


def rng_of(kind: str, index: int) -> np.random.Generator:
    return np.random.default_rng([SEED, *kind.encode(), index])


def example(kind: str, index: int, valid: bytes) -> bytes:
    """Return example `index` of a kind, made from a valid file."""
    chance = rng_of(kind, index)
    if index % 3 == 2:
        return a_member(valid, chance) if kind == "run" else by_bytes(valid, chance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return STRUCTURED[kind](valid, chance)


def pick(chance: np.random.Generator, values: Any) -> Any:
    return values[int(chance.integers(len(values)))]


def by_bytes(data: bytes, chance: np.random.Generator) -> bytes:
    """Flip, cut, insert, swap or overwrite bytes anywhere."""
    made = bytearray(data)
    for _ in range(int(chance.integers(1, 5))):
        at, size = int(chance.integers(len(made) or 1)), int(chance.integers(1, 9))
        what = chance.integers(6)
        if what == 0 and made:
            made[at] ^= 1 << int(chance.integers(8))
        elif what == 1:
            made[at : at + size] = bytes([int(chance.integers(256))]) * size
        elif what == 2:
            del made[at : at + size * 7]
        elif what == 3:
            made[at:at] = chance.bytes(size)
        elif what == 4:
            made[at : at + 4] = struct.pack("<I", int(pick(chance, (0, 2**31 - 1, 2**32 - 1, 2**16))))
        else:
            del made[at + len(made) // 2 :]
    return bytes(made)


def a_value(chance: np.random.Generator, old: Any) -> Any:
    """Return a hostile value in place of a leaf."""
    kind = int(chance.integers(5))
    if kind == 0:
        return pick(chance, NUMBERS)
    if kind == 1:
        return pick(chance, TEXTS)
    if kind == 2:
        return pick(chance, (None, True, [], {}, [[]], [None] * 3, {"a": {"b": 1}}))
    if isinstance(old, int | float) and not isinstance(old, bool):
        return pick(chance, (old + 1, -old, old * 1e6, int(old) if np.isfinite(old) else 0, str(old), [old]))
    return pick(chance, ([old, old], {"x": old}, f"{old}x", str(old)[:-1]))


def a_leaf(tree: Any, chance: np.random.Generator) -> Any:
    """Return a tree of dicts and lists with one leaf or branch replaced, dropped or doubled."""
    if isinstance(tree, dict) and tree and chance.random() < 0.85:
        key = pick(chance, sorted(tree, key=str))
        rest = {name: value for name, value in tree.items() if name != key}
        what = chance.random()
        return rest if what < 0.1 else rest | {key: a_leaf(tree[key], chance)}
    if isinstance(tree, list) and tree and chance.random() < 0.85:
        at = int(chance.integers(len(tree)))
        if chance.random() < 0.15:
            return tree[:at] + tree[at + 1 :] if chance.random() < 0.5 else [*tree, *tree]
        return [*tree[:at], a_leaf(tree[at], chance), *tree[at + 1 :]]
    return a_value(chance, tree)


def unzip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def a_member(data: bytes, chance: np.random.Generator) -> bytes:
    """Change the bytes of one file of a folder; the archive is but how this corpus carries it."""
    members = unzip(data)
    name = pick(chance, sorted(members))
    return rezip(members | {name: by_bytes(members[name], chance)})


def dicom(valid: bytes, chance: np.random.Generator) -> bytes:
    """Set, empty, retype or delete elements of the dataset, or cut and stretch its pixels."""
    import pydicom
    from pydicom.dataelem import RawDataElement

    dataset = pydicom.dcmread(io.BytesIO(valid))
    for _ in range(int(chance.integers(1, 4))):
        tag = pick(chance, sorted(dataset.keys()))
        element = dataset[tag]
        what = chance.integers(4)
        if what == 0 or element.VR == "SQ":
            del dataset[tag]
        elif element.keyword == "PixelData":
            size = len(element.value)
            element.value = bytes(element.value)[: int(chance.integers(size))] if what == 1 else bytes(size * 3)
        elif element.VR in ("US", "SS", "UL"):
            element.value = pick(chance, (0, 1, 7, 65535, 32767, 255, 3))
        else:
            text = str(pick(chance, (*TEXTS, *NUMBERS))).encode("utf-8", "replace")[:60]
            text += b" " * (len(text) % 2)
            dataset._dict[tag] = RawDataElement(tag, element.VR, len(text), text, 0, False, True)
    stream = io.BytesIO()
    try:
        dataset.save_as(stream, enforce_file_format=True)
    except Exception:  # pydicom refuses to write some of these: bytes then
        return by_bytes(valid[200:], chance) if len(valid) < 200 else valid[:200] + by_bytes(valid[200:], chance)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def claimed(shape: tuple[int, ...], kind: str, payload: bytes) -> bytes:
    """Return an array file whose header claims a shape that its bytes do not bear out."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue() + payload


def an_array(content: bytes, chance: np.random.Generator) -> bytes:  # noqa: PLR0911 - one return a mutation
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError:
        return content
    what = int(chance.integers(12))
    if what == 0:
        return claimed(pick(chance, ((10**9, 10**9), (2**40,), (3, 10**6, 10**6), (0, 5))), "<f4", content[-64:])
    if what == 1:
        return npy(np.zeros((4096, 4096), np.uint8) if chance.random() < 0.2 else np.zeros((0,) * max(array.ndim, 1)))
    if what == 2:
        return npy(np.array([{"a": 1}, None], dtype=object))
    if what == 3:
        return npy(np.asfortranarray(array))
    if what == 4:
        return npy(array[None] if chance.random() < 0.5 else array.ravel())
    if what == 5:
        kinds = (
            ("<f8", "<f2", "<i2", ">f4", "<c8", "<U5", "|b1", "<i8") if array.dtype.kind in "fiub" else ("S9", "<U1")
        )
        return npy(array.astype(pick(chance, kinds)))
    if what == 6 and array.ndim:
        return npy(array[tuple(slice(0, int(chance.integers(1, side + 1))) for side in array.shape)])
    if what == 7:
        return npy(np.full(array.shape, a_number(chance)))
    made = array.copy()
    if made.size and made.dtype.kind in "fiu":
        with np.errstate(all="ignore"):
            where = chance.integers(made.size, size=int(chance.integers(1, 5)))
            made.reshape(-1)[where] = np.array(a_number(chance)).astype(made.dtype)
    return npy(made)


def a_number(chance: np.random.Generator) -> float:
    return float(pick(chance, NUMBERS))


def npz(valid: bytes, chance: np.random.Generator) -> bytes:
    """Replace, drop or add arrays; claim shapes; hold bombs."""
    members = unzip(valid)
    name = pick(chance, sorted(members))
    what = chance.random()
    if what < 0.06:
        del members[name]
    elif what < 0.1:
        members[name] = npy(np.zeros(64 << 20, np.uint8)) if chance.random() < 0.3 else by_bytes(members[name], chance)
    elif name == "robustkit_profile.npy" and what < 0.9:
        facts = json.loads(bytes(np.load(io.BytesIO(members[name]))))
        text = json.dumps(a_leaf(facts, chance)).encode()
        members[name] = npy(np.frombuffer(text, np.uint8))
    else:
        members[name] = an_array(members[name], chance)
    return rezip(members)


def onnx(valid: bytes, chance: np.random.Generator) -> bytes:
    """Change dimensions, operators, attributes, weights, versions, metadata or names of a model."""
    import onnx as package

    model = package.load_model_from_string(valid)
    graph = model.graph
    what = int(chance.integers(11))
    if what == 0:
        dim = pick(chance, list(graph.input[0].type.tensor_type.shape.dim))
        dim.dim_value = int(pick(chance, (0, 1, 3, 7, 100000, 2**40)))
    elif what == 1:
        pick(chance, graph.node).op_type = str(
            pick(chance, ("Conv", "Relu", "NoSuch", "Sigmoid", "Softmax", "ArgMax", ""))
        )
    elif what == 2:
        weights = pick(chance, graph.initializer)
        weights.raw_data = by_bytes(weights.raw_data, chance)
    elif what == 3:
        weights = pick(chance, graph.initializer)
        array = np.frombuffer(weights.raw_data, np.float32).copy()
        array[chance.integers(array.size, size=2)] = np.float32(a_number(chance) if chance.random() < 0.7 else 1.0)
        weights.raw_data = array.tobytes()
    elif what == 4:
        weights = pick(chance, graph.initializer)
        weights.dims[int(chance.integers(len(weights.dims)))] = int(pick(chance, (0, 1, 2**40, -1, 5)))
    elif what == 5:
        model.opset_import[0].version = int(pick(chance, (0, 1, 7, 13, 99, -1, 2**31)))
    elif what == 6:
        model.ir_version = int(pick(chance, (0, 3, 8, 10, 99)))
    elif what == 7:
        text = str(pick(chance, (*TEXTS, '[input]\nwindow = "none"\n', "[input]\nwindow = [nan, 1]\n", "[x]\ny = 1\n")))
        package.helper.set_model_props(model, {"robustkit.spec": text})
    elif what == 8:
        node = pick(chance, graph.node)
        field = node.input if chance.random() < 0.5 else node.output
        field[int(chance.integers(len(field)))] = str(pick(chance, ("", "image", "logits", "x" * 99, "\u00e9")))
    elif what == 9:
        weights = pick(chance, graph.initializer)
        weights.ClearField("raw_data")
        weights.data_location = package.TensorProto.EXTERNAL
        place = str(pick(chance, ("../../etc/passwd", "/etc/passwd", "weights", "", "a/../../b", "C:\\x")))
        for key, value in {"location": place, "offset": "0", "length": str(pick(chance, (4, 2**62, -1)))}.items():
            weights.external_data.add(key=key, value=value)
    else:
        graph.node.append(graph.node[0]) if chance.random() < 0.5 else graph.ClearField("output")
    return bytes(model.SerializeToString())


def toml(valid: bytes, chance: np.random.Generator) -> bytes:
    """Replace keys and values of an input spec."""
    import tomllib

    tree = a_leaf(tomllib.loads(valid.decode()), chance)
    lines = []
    for section, entries in tree.items() if isinstance(tree, dict) else ():
        if not isinstance(entries, dict):
            lines.insert(0, f"{section} = {_toml_value(entries)}")
            continue
        lines += [f"[{section}]", *(f"{json.dumps(str(key))} = {_toml_value(value)}" for key, value in entries.items())]
    return "\n".join(lines).encode("utf-8", "replace")


def _toml_value(value: Any) -> str:
    if value is None:
        return '""'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def run(valid: bytes, chance: np.random.Generator) -> bytes:
    """Change a file of a finished run; half the time correct its hash in run.json, so that no hash tells."""
    from hashlib import sha256

    members = unzip(valid)
    name = str(
        pick(
            chance,
            ("run.json", "run.json", "summary.json", "noise.json", "gallery.json", "results.parquet", "noise.npz"),
        )
    )
    if name.endswith(".json"):
        members[name] = json.dumps(a_leaf(json.loads(members[name]), chance)).encode()
    elif name.endswith(".npz") and chance.random() < 0.5:
        members[name] = npz(members[name], chance)
    else:
        members[name] = by_bytes(members[name], chance)
    if name != "run.json" and chance.random() < 0.5:
        recorded = json.loads(members["run.json"])
        recorded["files"][name] = sha256(members[name]).hexdigest()
        members["run.json"] = json.dumps(recorded).encode()
    return rezip(members)


def archive(valid: bytes, chance: np.random.Generator) -> bytes:
    """Change one member of a model's archive: a leaf where it is JSON, else its bytes; its checksum is right again."""
    members = unzip(valid)
    texts = [n for n, content in members.items() if content[:1] in (b"{", b"[")]
    name = pick(chance, sorted(texts if texts and chance.random() < 0.6 else members))
    what = chance.random()
    if what < 0.05:
        del members[name]
    elif name in texts and what < 0.9:
        members[name] = json.dumps(a_leaf(json.loads(members[name]), chance)).encode()
    elif what < 0.93:
        members[name] = bytes(32 << 20)
    else:
        members[name] = by_bytes(members[name], chance)
    return rezip(members)


STRUCTURED = {"dicom": dicom, "npz": npz, "onnx": onnx, "toml": toml, "profile": npz, "run": run}
STRUCTURED |= {"pt2": archive, "keras": archive}


def past_header(kind: str, data: bytes) -> bool:
    """Say whether the format's own reader gets past the header: what comes then is robustkit's business."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _parses(kind, data)
    except Exception:  # any error of any parser is a no
        return False


def _parses(kind: str, data: bytes) -> bool:
    if kind == "dicom":
        import pydicom

        return len(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)) > 0
    if kind == "onnx":
        import onnx as package

        return len(package.load_model_from_string(data).graph.node) > 0
    if kind == "toml":
        import tomllib

        return isinstance(tomllib.loads(data.decode()), dict)
    members = unzip(data)  # checks every checksum
    if kind == "run":
        return isinstance(json.loads(members["run.json"]), dict)
    if kind in ("npz", "profile"):
        for content in members.values():
            np.lib.format.read_magic(io.BytesIO(content))
        return True
    return any(name.endswith((".json", ".pkl")) for name in members)


def seeds(folder: Path, kinds: Any = tuple(COUNTS)) -> dict[str, bytes]:
    """Return a valid file of each kind whose libraries are installed, made in `folder`; a model and a run always."""
    from models import mean_probe, write_image

    from robustkit.run import audit_model

    mean_probe(folder / "a.onnx", (SIDE, SIDE), 0.0)
    write_image(folder / "i.npz", np.full((SIDE, SIDE), 1.0))
    white = {"noise": "white", "settings": {"sigma": 30, "reference_mas": 100}, "levels": [25.0], "n": 70}
    audit_model(str(folder / "a.onnx"), images=str(folder / "i.npz"), **white, out=folder / "run")
    run = {p.name: p.read_bytes() for p in sorted((folder / "run").iterdir()) if p.suffix != ".html"}
    found = {"onnx": (folder / "a.onnx").read_bytes(), "run": rezip(run)}
    makers = {
        "dicom": _a_dicom,
        "npz": _an_npz,
        "toml": _a_toml,
        "profile": _a_profile,
        "pt2": _a_pt2,
        "keras": _a_keras,
    }
    for kind, make in makers.items():
        if kind in kinds and (made := make(folder)) is not None:
            found[kind] = made
    return found


def _a_dicom(folder: Path) -> bytes:
    from scans import conftest as scans

    return Path(scans.write(scans.classic(scans.body(SIDE, SIDE, 0)), folder / "a.dcm")).read_bytes()


def _an_npz(folder: Path) -> bytes:
    from scans import conftest as scans

    pixels = np.stack([scans.body(SIDE, SIDE, seed) for seed in (0, 1)]).astype(np.float32)
    facts = {"mas": 20.0, "ids": ["a", "b"], "kernel": "B40f", "storage": [-1024.0, 3071.0, 1.0]}
    np.savez(folder / "a.npz", pixels=pixels, pixel_mm=[1.0, 1.0], **facts)
    return (folder / "a.npz").read_bytes()


def _a_toml(_: Path) -> bytes:
    from models import SPEC

    full = SPEC.replace('window = "none"', 'window = [-1000, 1000]\nrange = [0, 1]\nlayout = "nchw"\nchannels = 1')
    return full.encode()


def _a_profile(folder: Path) -> bytes:
    from robustkit import noise
    from robustkit.cases import find_repeats

    repeats = np.random.default_rng(0).normal(0, 9, (6, 24, 24))
    np.savez(folder / "r.npz", pixels=repeats.astype(np.float32), pixel_mm=[1.0, 1.0], mas=50.0)
    noise.save_profile(noise.estimate(find_repeats(str(folder / "r.npz"))[0]), folder / "p.npz")
    return (folder / "p.npz").read_bytes()


def _a_pt2(folder: Path) -> bytes:
    from adapters import torch_zoo

    return torch_zoo.write(torch_zoo.build(), folder / "a", "pt2").read_bytes()


def _a_keras(folder: Path) -> bytes | None:
    try:
        from adapters import keras_zoo
    except Exception:  # Keras, or its backend, is not installed
        return None
    keras_zoo.build().save(folder / "a.keras")
    return (folder / "a.keras").read_bytes()
