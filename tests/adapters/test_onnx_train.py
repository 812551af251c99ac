"""Fine-tuning ONNX files; each operator is held against onnxruntime, which has its own implementation."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from adapters import zoo
from adapters.zoo import slices
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from adapters import torch_zoo  # noqa: E402

from robustkit.adapters import load_model, onnx_operators, onnx_train  # noqa: E402
from robustkit.adapters.torch import from_module  # noqa: E402
from robustkit.errors import ModelError, UsageError  # noqa: E402
from robustkit.types import Trainable  # noqa: E402

SPACING = (0.7, 0.7)
X = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
ROWS = X.reshape(2, -1)[:, :12]


def i64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


# operator, opset, input, further inputs, attributes
CASES = [
    *[(kind, 17, X, [], {}) for kind in ("Abs", "Exp", "Neg", "Erf", "Relu", "Sigmoid", "Tanh", "Identity", "Selu")],
    *[(kind, 17, abs(X) + 1, [], {}) for kind in ("Sqrt", "Log", "Reciprocal")],
    ("Softplus", 17, X, [], {}),
    ("HardSwish", 17, X, [], {}),
    ("Mish", 18, X, [], {}),
    ("Dropout", 17, X, [], {}),
    *[(kind, 17, X, [weight(1, 3, 1, 1)], {}) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min")],
    ("Pow", 17, abs(X), [np.array(2.5, np.float32)], {}),
    ("MatMul", 17, ROWS, [weight(12, 5)], {}),
    ("Gemm", 17, ROWS, [weight(5, 12), weight(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", 17, ROWS, [weight(12, 5)], {}),
    ("Conv", 17, X, [weight(4, 3, 3, 3), weight(4)], {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("Conv", 17, X, [weight(3, 1, 3, 3)], {"group": 3, "dilations": [2, 2]}),
    ("Conv", 17, X, [weight(4, 3, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", 17, X, [weight(4, 3, 4, 4)], {"auto_pad": "SAME_LOWER"}),
    ("Conv", 17, X, [weight(4, 3, 3, 3)], {"auto_pad": "VALID"}),
    ("ConvTranspose", 17, X, [weight(3, 2, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", 17, X, [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", 17, X, [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
    ("MaxPool", 17, X, [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", 17, X, [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", 17, X, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("AveragePool", 17, X, [], {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", 17, X, [], {}),
    ("GlobalMaxPool", 17, X, [], {}),
    ("BatchNormalization", 15, X, [weight(3), weight(3), weight(3), abs(weight(3)) + 1], {"epsilon": 0.1}),
    ("InstanceNormalization", 17, X, [weight(3), weight(3)], {}),
    ("LayerNormalization", 17, X, [weight(8, 8), weight(8, 8)], {"axis": -2}),
    ("Softmax", 17, X, [], {"axis": 1}),
    ("Softmax", 11, X, [], {}),
    ("LogSoftmax", 17, ROWS, [], {}),
    ("LeakyRelu", 17, X, [], {"alpha": 0.3}),
    ("PRelu", 17, X, [weight(3, 1, 1)], {}),
    ("Elu", 17, X, [], {"alpha": 0.5}),
    ("Gelu", 20, X, [], {}),
    ("HardSigmoid", 17, X, [], {"alpha": 0.3}),
    ("Clip", 17, X, [np.float32(-0.5), np.float32(0.5)], {}),
    ("Clip", 10, X, [], {"min": -0.5, "max": 0.5}),
    ("Reshape", 17, X, [i64(0, -1, 4)], {}),
    ("Flatten", 17, X, [], {}),
    ("Flatten", 17, X, [], {"axis": -1}),
    ("Transpose", 17, X, [], {"perm": [0, 2, 3, 1]}),
    ("Transpose", 17, ROWS, [], {}),
    ("Squeeze", 17, X[:, :1], [i64(1)], {}),
    ("Squeeze", 11, X[:, :1], [], {"axes": [1]}),
    ("Unsqueeze", 17, ROWS, [i64(0, -1)], {}),
    ("Concat", 17, X, [weight(2, 1, 8, 8)], {"axis": 1}),
    ("Shape", 17, X, [], {}),
    ("Shape", 17, X, [], {"start": 1, "end": -1}),
    ("Gather", 17, X, [i64(2, -1)], {"axis": 1}),
    ("Gather", 17, X, [np.array(1, np.int64)], {"axis": -1}),
    ("Slice", 17, X, [i64(1, 0), i64(9, -2), i64(2, 1), i64(2, 1)], {}),
    ("Slice", 9, X, [], {"starts": [1], "ends": [3], "axes": [3]}),
    ("Cast", 17, X, [], {"to": TensorProto.INT32}),
    ("Pad", 17, X, [i64(0, 0, 1, 2, 0, 0, 3, 0), np.float32(0.5)], {}),
    ("Pad", 10, X, [], {"pads": [0, 0, 1, 0, 0, 0, 0, 1], "value": 2.0}),
    ("Expand", 17, ROWS, [i64(3, 1, 12)], {}),
    ("ReduceMean", 17, X, [], {"axes": [2, 3]}),
    ("ReduceMean", 18, X, [i64(1)], {"keepdims": 0}),
    ("ReduceSum", 17, X, [i64(2, 3)], {}),
    ("ReduceMax", 17, X, [], {"axes": [1]}),
    ("ReduceMin", 17, X, [], {}),
    ("ReduceProd", 17, X, [], {"axes": [1, -1]}),
    ("ReduceProd", 17, X[:, :1, :2], [], {"keepdims": 0}),
]


@pytest.mark.parametrize(("kind", "opset", "x", "others", "attributes"), CASES)
def test_operator_computes_what_onnxruntime_computes(kind, opset, x, others, attributes) -> None:
    names = ["x", *(f"i{n}" for n in range(len(others)))]
    kept = [numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names[1:], others, strict=True)]
    node = helper.make_node(kind, names, ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *x.shape[1:]])],
        [helper.make_empty_tensor_value_info("y")],
        kept,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    node = onnx_train.nodes_of(model)[0]
    found = onnx_operators.OPERATORS[kind](node, *(torch.from_numpy(np.array(v)) for v in (x, *others)))
    assert found.shape == expected.shape
    assert found.numpy() == pytest.approx(expected, rel=2e-5, abs=2e-5)


def test_every_operator_is_tried() -> None:
    assert {case[0] for case in CASES} | {"Constant"} == set(onnx_operators.OPERATORS)


def exported(path: Path, exporter: str) -> Path:
    """Write the network with Torch's own exporters."""
    net = torch_zoo.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "torch-dynamo":
            shapes = ({0: torch.export.Dim("batch", min=1)},)
            program = torch.onnx.export(
                net, (torch.zeros(2, 1, 16, 16),), dynamo=True, dynamic_shapes=shapes, verbose=False
            )
            program.save(path, external_data=True)
        else:
            torch.onnx.export(
                net,
                (torch.zeros(2, 1, 16, 16),),
                path,
                dynamo=False,
                input_names=["x"],
                dynamic_axes={"x": {0: "n"}},
                keep_initializers_as_inputs=True,
            )
    return path


@pytest.mark.parametrize("exporter", ["torch-dynamo", "torch-tracing"])
def test_real_exports_are_read_and_fine_tuned(tmp_path: Path, exporter: str) -> None:
    path = exported(tmp_path / "m.onnx", exporter)
    model = load_model(path, {**zoo.HU, "classes": "0,1,2"})
    data = slices()
    pixels = np.stack([item.pixels for item in data])
    net = from_module(torch_zoo.build(), model.spec)
    before = model.predict(pixels, SPACING)
    assert before == pytest.approx(net.predict(pixels, SPACING), abs=1e-6)
    options = {"epochs": 40, "lr": 1e-2, "batch": 12}
    losses: list[float] = []
    trained = model.fit(data, 3, **options, progress=lambda *told: losses.append(told[2]))
    again, other = model.fit(data, 3, **options), model.fit(data, 4, epochs=2, lr=1e-2, batch=5)
    assert isinstance(trained, Trainable)
    assert np.array_equal(model.predict(pixels, SPACING), before)
    assert (trained.predict(pixels, SPACING).argmax(axis=1) == [i % 3 for i in range(12)]).all()
    assert losses[-1] < losses[0]
    assert again.content == trained.content
    assert other.source["sha256"] != trained.source["sha256"]
    assert trained.source["from"] == model.source["sha256"]
    saved = load_model(trained.save(tmp_path / "trained.onnx"), {})
    assert np.array_equal(saved.predict(pixels, SPACING), trained.predict(pixels, SPACING))
    assert saved.spec == trained.spec
    sent = pickle.loads(pickle.dumps(trained))
    assert np.array_equal(sent.predict(pixels, SPACING), trained.predict(pixels, SPACING))
    assert np.array_equal(trained.fit(data, 0, epochs=0).predict(pixels, SPACING), trained.predict(pixels, SPACING))


def test_only_weights_change(tmp_path: Path) -> None:
    path = exported(tmp_path / "m.onnx", "torch-tracing")
    trained = load_model(path, zoo.HU).fit(slices(), 0, epochs=1, lr=1e-2)
    old, new = onnx.load(path), onnx.load_model_from_string(trained.content)
    assert new.graph.node == old.graph.node
    changed = {a.name for a, b in zip(old.graph.initializer, new.graph.initializer, strict=True) if a != b}
    assert changed == {
        tensor.name for tensor in old.graph.initializer if numpy_helper.to_array(tensor).dtype.kind == "f"
    }


def test_foreign_operators_are_listed(tmp_path: Path) -> None:
    path = zoo.linear(tmp_path / "m.onnx")
    model = onnx.load(path)
    last = model.graph.node[-1]
    last.output[0] = "s1"
    model.graph.node.extend(
        [helper.make_node("Celu", ["s1"], ["s2"]), helper.make_node("Hardmax", ["s2"], ["scores"], axis=1)]
    )
    onnx.save(model, path)
    model = load_model(path, zoo.HU)
    with pytest.raises(ModelError, match=r"cannot train its operators Celu, Hardmax; train it in the framework"):
        model.fit(slices(), 0)


def test_graph_that_differs_in_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(zoo.linear(tmp_path / "m.onnx"), zoo.HU)
    monkeypatch.setitem(onnx_operators.OPERATORS, "MatMul", lambda _, a, b: a @ b * 1.01)
    with pytest.raises(ModelError, match=r"in torch it differs by .* in probability"):
        model.fit(slices(), 0)


def test_fixed_batch_and_nothing_to_train_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="exported for 4 images at a time"):
        load_model(zoo.linear(tmp_path / "m.onnx", batch=4), zoo.HU).fit(slices(), 0)
    path = zoo.write(
        tmp_path / "pool.onnx",
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        {},
    )
    with pytest.raises(ModelError, match="no weights that could be trained"):
        load_model(path, zoo.HU).fit(slices(), 0)


def test_saving_elsewhere_is_refused(tmp_path: Path) -> None:
    model = load_model(zoo.linear(tmp_path / "m.onnx"), zoo.HU)
    with pytest.raises(UsageError, match=r"end it in \.onnx"):
        model.save(tmp_path / "m.keras")
