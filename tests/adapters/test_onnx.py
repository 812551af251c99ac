import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from adapters import zoo
from adapters.zoo import refusal
from onnx import TensorProto, helper

from robustkit.adapters import load_model, wire
from robustkit.errors import ModelError, RobustkitError, UsageError

SPACING = (0.7, 0.7)


@pytest.mark.parametrize("end", [None, "Softmax", "LogSoftmax"])
@pytest.mark.parametrize("batch", ["batch", 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_form_gives_the_same_answer(tmp_path: Path, layout, channels, dtype, batch, end) -> None:
    path = zoo.linear(tmp_path / "m.onnx", layout=layout, channels=channels, dtype=dtype, batch=batch, end=end)
    weight, rounded = zoo.weights(), dtype == "uint8"
    if rounded:
        weight = weight / np.float32(255)
        path = zoo.linear(path, weight=weight, layout=layout, channels=channels, dtype=dtype, batch=batch, end=end)
    model = load_model(path, zoo.HU)
    pixels = zoo.images()
    found = model.predict(pixels, SPACING)
    assert found.dtype == np.float32
    assert np.abs(found - zoo.expected(pixels, weight, rounded=rounded)).max() < (2e-3 if dtype == "float16" else 1e-5)
    assert (model.spec.layout, model.spec.channels, model.spec.dtype) == (layout, channels, dtype)
    assert model.spec.kind == ("probabilities" if end == "Softmax" else "logits")
    assert model.classes == ("0", "1", "2")


def test_bits_depend_on_no_batch(tmp_path: Path) -> None:
    model = load_model(zoo.linear(tmp_path / "m.onnx"), zoo.HU)
    pixels = zoo.images(20)
    whole = model.predict(pixels, SPACING)
    for size in (1, 7):
        parts = [model.predict(pixels[i : i + size], SPACING) for i in range(0, 20, size)]
        assert np.array_equal(np.concatenate(parts), whole)
    assert model.predict(pixels[:0], SPACING).shape == (0, 3)


def test_spec_in_metadata(tmp_path: Path) -> None:
    toml = '[input]\nwindow = [-1000, 1000]\n[output]\nclasses = ["A", "B", "C"]\n'
    model = load_model(zoo.linear(tmp_path / "m.onnx", metadata={"robustkit.spec": toml}), {})
    assert model.spec.window == (-1000.0, 1000.0)
    assert model.classes == ("A", "B", "C")
    assert load_model(tmp_path / "m.onnx", {"classes": "X,Y,Z"}).classes == ("X", "Y", "Z")


def test_source_tells_what_was_loaded(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx", opset=13)
    source = load_model(path, zoo.HU).source
    assert source["format"] == "onnx"
    assert (source["opset"], source["ir_version"], source["unsafe"]) == (13, 8, False)
    assert len(source["sha256"]) == 64


def test_native_size_when_the_file_leaves_it_open(tmp_path: Path) -> None:
    path = zoo.write(
        tmp_path / "pool.onnx",
        [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Conv", ["p", "W"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        {"W": np.array([1.0, -1.0], dtype=np.float32).reshape(2, 1, 1, 1)},
    )
    model = load_model(path, {"window": "none"})
    assert model.spec.size is None
    found = model.predict(np.full((1, 40, 60), 0.5, dtype=np.float32), SPACING)
    assert found[0, 0] == pytest.approx(1 / (1 + math.exp(-1.0)), abs=1e-6)


def test_linear_probe_flips_with_the_known_probability(tmp_path: Path) -> None:
    """Constant slice, white noise of sigma HU: P(flip) = Phi(-margin / (sigma |w|)) through the file itself."""
    w = np.random.default_rng(5).normal(size=zoo.SIDE**2).astype(np.float32) / zoo.SIDE
    path = zoo.linear(tmp_path / "probe.onnx", weight=np.stack([np.zeros_like(w), w], axis=1))
    model = load_model(path, {"window": "none", "classes": "low,high"})
    sigma, n = 20.0, 20_000
    level = 30.0 * np.linalg.norm(w) / w.sum()  # HU of the slice: its margin is 1.5 standard deviations
    noise = np.random.default_rng(6).standard_normal((n, zoo.SIDE, zoo.SIDE)).astype(np.float32) * sigma
    clean = model.predict(np.full((1, zoo.SIDE, zoo.SIDE), level, dtype=np.float32), SPACING).argmax()
    flips = int((model.predict(np.float32(level) + noise, SPACING).argmax(axis=1) != clean).sum())
    p = 0.5 * math.erfc(1.5 / math.sqrt(2))
    # 99.9 % interval of a binomial at n = 20,000; the seed is fixed, a right program fails one seed in a thousand
    assert abs(flips - n * p) < 3.29 * math.sqrt(n * p * (1 - p))


def test_single_column_is_the_second_class(tmp_path: Path) -> None:
    weight = zoo.weights()[:, :1]
    pixels = zoo.images()
    scores = ((pixels.astype(np.float64) + 1000) / 2000).reshape(len(pixels), -1) @ weight.astype(np.float64)
    oracle = 1 / (1 + np.exp(-scores[:, 0]))
    for end, kind in ((None, "logits"), ("Sigmoid", "probabilities")):
        model = load_model(zoo.linear(tmp_path / "m.onnx", weight=weight, end=end), zoo.HU)
        found = model.predict(pixels, SPACING)
        assert model.spec.kind == kind
        assert found[:, 1] == pytest.approx(oracle, abs=1e-6)
        assert found.sum(axis=1) == pytest.approx(1.0)


def test_several_outputs_are_asked_about(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx", end="Softmax", extra_output=True)
    assert "say which with --output NAME: scores, answer" in refusal(path, error=UsageError)
    assert "no output 'x'; there is: scores, answer" in refusal(path, {**zoo.HU, "output": "x"}, UsageError)
    assert load_model(path, {**zoo.HU, "output": "scores"}).spec.kind == "logits"
    assert load_model(path, {**zoo.HU, "output": "answer"}).spec.kind == "probabilities"


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    entries = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1, 8, 8]) for n in ("image", "age")]
    path = zoo.write(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["image", "age"], ["y"])],
        entries,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        {},
    )
    assert "takes 2 inputs (image, age)" in refusal(path)


@pytest.mark.parametrize(("shape", "told"), [([1, 16, 16], "(1, 16, 16)"), (["n", 1, 8, 16, 16], "(n, 1, 8, 16, 16)")])
def test_input_that_is_no_image_is_refused(tmp_path: Path, shape, told: str) -> None:
    path = zoo.write(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        {},
    )
    assert f"takes input of shape {told}, no batch of images; wanted are 4 dimensions" in refusal(path)


def test_output_that_is_no_row_of_scores_is_refused(tmp_path: Path) -> None:
    path = zoo.write(
        tmp_path / "segment.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        {},
    )
    assert "a classifier returns (images, classes)" in refusal(path)


def test_integer_input_is_refused(tmp_path: Path) -> None:
    path = zoo.write(
        tmp_path / "m.onnx",
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        {},
    )
    assert "takes tensor(int64)" in refusal(path)


def test_one_sigmoid_a_class_is_asked_about(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx", end="Sigmoid")
    assert "one sigmoid a class" in refusal(path)
    assert load_model(path, {**zoo.HU, "kind": "logits"}).spec.kind == "logits"


def test_output_kind_is_confirmed_by_numbers(tmp_path: Path) -> None:
    logits, soft = zoo.linear(tmp_path / "l.onnx"), zoo.linear(tmp_path / "p.onnx", end="Softmax")
    assert "does not return probabilities" in refusal(logits, {**zoo.HU, "kind": "probabilities"})
    assert "returns probabilities, --output-kind says logits" in refusal(soft, {**zoo.HU, "kind": "logits"})


def test_class_count_is_held_against_the_output(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx")
    assert "tells 3 classes apart, --classes names 2 (A,B)" in refusal(path, {**zoo.HU, "classes": "A,B"})


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    weight = zoo.weights()
    weight[3, 1] = np.nan
    assert "NaN or infinity" in refusal(zoo.linear(tmp_path / "m.onnx", weight=weight))


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.onnx") == "no such model file: absent.onnx"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello, I am no model\n", "is no .onnx model but text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x00\x01\x02\x03" * 40, "its content is of no format known here"),
    ],
)
def test_other_content_called_onnx(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert words in refusal(path)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, keep: float) -> None:
    path = zoo.linear(tmp_path / "m.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert "truncated or damaged" in refusal(path)


def test_kind_is_told_by_content(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "model.dat")
    assert load_model(path, zoo.HU).source["format"] == "onnx"
    (tmp_path / "notes.txt").write_text("no model")
    assert load_model(tmp_path / "notes.txt", {}) is None
    assert load_model(tmp_path, {}) is None


def test_too_new_opset_and_ir(tmp_path: Path) -> None:
    assert "opset 99, newer than onnxruntime" in refusal(zoo.linear(tmp_path / "a.onnx", opset=99))
    assert "IR version 99, newer than onnxruntime" in refusal(zoo.linear(tmp_path / "b.onnx", ir=99))


def test_custom_operator_is_named(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[0].domain = "evil.custom"
    model.opset_import.add(domain="evil.custom", version=1)
    onnx.save(model, path)
    assert "uses the operator evil.custom:Cast" in refusal(path)


def test_native_size_the_model_cannot_take(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx", shape=["n", 1, "h", "w"])
    assert "--size" in refusal(path)
    assert load_model(path, {**zoo.HU, "size": "16,16"}).spec.size == (16, 16)


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    path = zoo.external(tmp_path / "m.onnx", "m.data")
    (tmp_path / "m.data").write_bytes(zoo.weights().tobytes())
    first = load_model(path, zoo.HU)
    assert np.abs(first.predict(zoo.images(), SPACING) - zoo.expected(zoo.images())).max() < 1e-5
    (tmp_path / "m.data").write_bytes((2 * zoo.weights()).tobytes())
    assert load_model(path, zoo.HU).source["sha256"] != first.source["sha256"]


@pytest.mark.parametrize("location", ["../secret.data", "sub/../../secret.data", "..\\secret.data"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "secret.data").write_bytes(zoo.weights().tobytes())
    told = refusal(zoo.external(tmp_path / "in" / "m.onnx", location))
    assert "data outside its folder" in told
    assert "export the model as one file" in told


@pytest.mark.parametrize("location", ["/etc/passwd", "C:\\secret", "\\\\host\\share"])
def test_external_data_at_an_absolute_place(tmp_path: Path, location: str) -> None:
    assert "absolute place" in refusal(zoo.external(tmp_path / "m.onnx", location))


def test_external_data_behind_links(tmp_path: Path) -> None:
    inner = tmp_path / "in"
    inner.mkdir()
    secret = tmp_path / "secret.data"
    secret.write_bytes(zoo.weights().tobytes())
    path = zoo.external(inner / "m.onnx", "m.data")
    assert "beside it; copy both" in refusal(path)
    (inner / "m.data").symlink_to(secret)
    assert "is a symbolic link" in refusal(path)
    (inner / "m.data").unlink()
    os.link(secret, inner / "m.data")
    assert "a hard link to a file elsewhere; replace it by a copy" in refusal(path)


def test_external_data_in_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.data").write_bytes(zoo.weights().tobytes())
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "out")
    assert "symbolic link" in refusal(zoo.external(tmp_path / "in" / "m.onnx", "sub/m.data"))


def test_external_data_cut_short(tmp_path: Path) -> None:
    path = zoo.external(tmp_path / "m.onnx", "m.data")
    (tmp_path / "m.data").write_bytes(zoo.weights().tobytes()[:-4])
    assert "wants more data than 'm.data' holds" in refusal(path)


def test_external_data_in_a_subgraph_is_seen(tmp_path: Path) -> None:
    tensor = helper.make_tensor("c", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    hidden = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor)],
        "then",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])],
    )
    path = zoo.linear(tmp_path / "m.onnx")
    model = onnx.load(path, load_external_data=False)
    model.graph.node.append(helper.make_node("If", ["flag"], ["z"], then_branch=hidden, else_branch=hidden))
    path.write_bytes(model.SerializeToString())
    assert "data outside its folder" in refusal(path)


def test_pickled_model_is_loaded_again_from_its_file(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx")
    model = load_model(path, {**zoo.HU, "classes": "A,B,C"})
    again = pickle.loads(pickle.dumps(model))
    assert again.spec == model.spec
    assert np.array_equal(again.predict(zoo.images(), SPACING), model.predict(zoo.images(), SPACING))
    sent = pickle.dumps(model)
    zoo.linear(path, weight=2 * zoo.weights())
    with pytest.raises(ModelError, match="changed since"):
        pickle.loads(sent)


def test_wire_reader_agrees_with_onnx(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx", end="Softmax", metadata={"a": "1", "ü": "ß" * 300})
    content = wire.read_onnx(memoryview(path.read_bytes()))
    model = onnx.load(path)
    assert content.operators == [(node.domain, node.op_type) for node in model.graph.node]
    assert content.metadata == {p.key: p.value for p in model.metadata_props}
    assert content.opsets == {o.domain: o.version for o in model.opset_import}
    assert content.made_by["answer"] == ("Softmax", "scores")


def test_metadata_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx", metadata={"robustkit.spec": "old", "kept": "yes"})
    stamped = onnx.load_model_from_string(wire.with_metadata(path.read_bytes(), "robustkit.spec", "new " * 200))
    assert {p.key: p.value for p in stamped.metadata_props} == {"kept": "yes", "robustkit.spec": "new " * 200}
    assert stamped.graph == onnx.load(path).graph


def test_mutated_files_give_a_model_or_one_line(tmp_path: Path) -> None:
    """Flip, cut and insert bytes of a small file: never anything but an answer or a RobustkitError."""
    path = zoo.linear(tmp_path / "m.onnx", side=4, end="Softmax")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    opened = 0
    for _ in range(200):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        told = ""
        try:
            opened += load_model(path, zoo.HU) is not None
        except RobustkitError as error:
            told = str(error)
        assert "\n" not in told
    assert opened > 0


def sidecar(folder: Path, **changes) -> dict:
    content = {
        "interface": {"name": "JATIC_ONNX", "version": "v1"},
        "io": {
            "batchSize": -1,
            "interface": "IMAGE_CLASSIFICATION",
            "input": {"channels": "GRAYSCALE", "height": 16, "width": 16},
            "output": {"nClasses": 3},
        },
        "index2label": {"0": "a", "1": "b", "2": "c"},
    }
    for place, value in changes.items():
        *above, key = place.split("__")
        inner = content
        for name in above:
            inner = inner[name]
        inner[key] = value
    (folder / "model-metadata.json").write_text(json.dumps(content))
    return content


def jatic_model(path: Path) -> Path:
    """Write the linear model by the names that the interface fixes, with height and width left open."""
    zoo.linear(path, end="Softmax", shape=["n", 1, "h", "w"], extra_output=True)
    model = onnx.load(path)
    model.graph.output[1].name = model.graph.node[-1].output[0] = "scores_"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["logits" if n == "scores" else "scores" if n == "scores_" else n for n in names]
    model.graph.output[0].name, model.graph.output[1].name = "logits", "scores"
    onnx.save(model, path)
    return path


def test_jatic_sidecar_says_all_but_the_window(tmp_path: Path) -> None:
    path = jatic_model(tmp_path / "m.onnx")
    sidecar(tmp_path)
    model = load_model(path, zoo.HU)
    assert (model.classes, model.spec.size, model.spec.kind, model.spec.output) == (
        ("a", "b", "c"),
        (16, 16),
        "probabilities",
        "scores",
    )
    assert np.abs(model.predict(zoo.images(), SPACING) - zoo.expected(zoo.images())).max() < 1e-5
    assert "missing: window" in refusal(path, {}, UsageError)
    assert load_model(path, {**zoo.HU, "classes": "x,y,z"}).classes == ("x", "y", "z")
    assert load_model(path, {"window": "none"}).spec.window is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"interface__version": "v2"}, "states JATIC_ONNX v2; robustkit reads v1"),
        ({"io__interface": "IMAGE_OBJECT_DETECTION"}, "robustkit audits IMAGE_CLASSIFICATION"),
        ({"io__input": {"channels": "CMYK"}}, "states channels CMYK"),
        ({"io__input": {"channels": "RGB"}}, "takes channels 1"),
        ({"index2label": {"0": "a", "2": "c"}}, "names 2 of 3 classes"),
        ({"index2label": {"zero": "a"}}, "wants names by index"),
        ({"index2label": ["a", "b"], "io__output": {}}, "tells 3 classes apart, --classes names 2"),
    ],
)
def test_jatic_sidecar_that_does_not_fit(tmp_path: Path, change: dict, words: str) -> None:
    sidecar(tmp_path, **change)
    assert words in refusal(jatic_model(tmp_path / "m.onnx"))


def test_other_files_of_that_name_are_left_alone(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx")
    (tmp_path / "model-metadata.json").write_text('{"author": "me"}')
    assert load_model(path, zoo.HU).classes == ("0", "1", "2")
    (tmp_path / "model-metadata.json").write_text("{")
    assert "is no JSON; repair or remove it" in refusal(path)
