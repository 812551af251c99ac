"""One suite for all frameworks: one linear network in every layout, dtype, batch and kind of output; one oracle."""

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from adapters import zoo

from robustkit.adapters import load_model
from robustkit.audit import null_audit, tie_limit
from robustkit.testing import check_classifier, check_trainable
from robustkit.types import Slice, slice_id

SPACING = (0.7, 0.7)
FRAMEWORKS = ("onnx", "torch", pytest.param("keras", marks=pytest.mark.xdist_group("keras")))
TOLERANCE = {"float16": 2e-3}


def write_onnx(path: Path, weight, layout: str, channels: int, dtype: str, batch: int | None, soft: bool) -> Path:
    return zoo.linear(
        path.with_suffix(".onnx"),
        weight=weight,
        layout=layout,
        channels=channels,
        dtype=dtype,
        batch=batch or "n",
        end="Softmax" if soft else None,
    )


def write_torch(path: Path, weight, layout: str, channels: int, dtype: str, batch: int | None, soft: bool) -> Path:
    """Write TorchScript, which has no fixed batch; with one, an exported program."""
    import torch

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(zoo.tiled(weight, layout, channels)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.float().flatten(1) @ self.weight
            return torch.softmax(y, 1) if soft else y

    sides = (channels, zoo.SIDE, zoo.SIDE) if layout == "nchw" else (zoo.SIDE, zoo.SIDE, channels)
    example = torch.zeros((batch or 2, *sides), dtype=getattr(torch, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if batch:
            torch.export.save(torch.export.export(Linear(), (example,)), path.with_suffix(".pt2"))
            return path.with_suffix(".pt2")
        torch.jit.save(torch.jit.trace(Linear(), example), str(path.with_suffix(".ts")))
    return path.with_suffix(".ts")


def write_keras(path: Path, weight, layout: str, channels: int, dtype: str, batch: int | None, soft: bool) -> Path:
    from adapters import keras_zoo

    end = "softmax" if soft else None
    net = keras_zoo.linear(weight=weight, layout=layout, channels=channels, dtype=dtype, batch=batch, end=end)
    return keras_zoo.write(net, path, "keras")


WRITERS: dict[str, Callable[..., Path]] = {"onnx": write_onnx, "torch": write_torch, "keras": write_keras}


def need(framework: str) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")


def flags(framework: str, layout: str, channels: int, dtype: str) -> dict[str, str]:
    """Return what the file does not say: the window, and for TorchScript everything."""
    told = dict(zoo.HU)
    if framework == "torch":
        told |= {"size": f"{zoo.SIDE},{zoo.SIDE}", "layout": layout, "channels": str(channels), "dtype": dtype}
    return told


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8"])
@pytest.mark.parametrize(("layout", "channels"), [("nchw", 1), ("nchw", 3), ("nhwc", 1), ("nhwc", 3)])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_same_answer(tmp_path: Path, framework, layout, channels, dtype, batch, soft) -> None:
    need(framework)
    rounded = dtype == "uint8"
    weight = zoo.weights() / np.float32(255 if rounded else 1)
    path = WRITERS[framework](tmp_path / "m", weight, layout, channels, dtype, batch, soft)
    model = load_model(path, flags(framework, layout, channels, dtype))
    pixels = zoo.images()
    found = model.predict(pixels, SPACING)
    assert found.dtype == np.float32
    assert np.abs(found - zoo.expected(pixels, weight, rounded=rounded)).max() < TOLERANCE.get(dtype, 1e-5)
    assert (model.spec.layout, model.spec.channels, model.spec.dtype) == (layout, channels, dtype)
    assert model.spec.kind == ("probabilities" if soft else "logits")


def twins(folder: Path):
    """Return one trained network as Keras, as Torch with its weights, and as ONNX written by Torch."""
    import torch
    from adapters import keras_zoo
    from torch import nn

    from robustkit.adapters.keras import from_model
    from robustkit.adapters.torch import from_module

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4, eps=1e-3)
            self.dense = nn.Linear(4 * 7 * 7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.norm(self.conv(x)))
            return self.dense(y.permute(0, 2, 3, 1).flatten(1))

    keras = from_model(keras_zoo.build(), zoo.HU).fit(labelled(), 0, epochs=30, lr=1e-2, batch=12)
    conv, norm, dense = (keras.model.layers[i].get_weights() for i in (0, 1, 5))
    net = Twin()
    with torch.no_grad():
        net.conv.weight.copy_(torch.from_numpy(conv[0].transpose(3, 2, 0, 1).copy()))
        net.conv.bias.copy_(torch.from_numpy(conv[1]))
        for place, value in zip(
            (net.norm.weight, net.norm.bias, net.norm.running_mean, net.norm.running_var), norm, strict=True
        ):
            place.copy_(torch.from_numpy(value))
        net.dense.weight.copy_(torch.from_numpy(dense[0].T.copy()))
        net.dense.bias.copy_(torch.from_numpy(dense[1]))
    twin = from_module(net, {**zoo.HU, "size": "16,16"})
    return {
        "keras": load_model(keras.save(folder / "m.keras"), {}),
        "torch": twin,
        "onnx": load_model(twin.save(folder / "torch.onnx"), {}),
        "tf2onnx": load_model(keras.save(folder / "keras.onnx"), {}),
    }


def labelled() -> list[Slice]:
    rng = np.random.default_rng(4)
    found = []
    for i in range(12):
        pixels = (rng.normal(0, 30, (16, 16)) + 600 * (i % 3 - 1)).astype(np.float32)
        found.append(Slice(slice_id(pixels, (1.0, 1.0)), pixels, (1.0, 1.0), label=str(i % 3)))
    return found


@pytest.mark.xdist_group("keras")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_same_network_gives_the_same_flips_in_every_framework(tmp_path: Path) -> None:
    """One audit each, on slices that sit on the network's own decision boundaries; they may differ in ties alone."""
    for framework in ("torch", "keras"):
        need(framework)
    from robustkit.run import audit_model

    models = twins(tmp_path)
    levels = np.linspace(-900, 900, 721, dtype=np.float32)
    grey = np.repeat(levels, 256).reshape(-1, 16, 16)
    answers = models["torch"].predict(grey, (1.0, 1.0)).argmax(axis=1)
    edges = np.flatnonzero(np.diff(answers))
    assert len(edges) >= 2
    np.savez(tmp_path / "edges.npz", pixels=grey[edges], pixel_mm=np.array([1.0, 1.0]))
    tables = {}
    for name, model in models.items():
        outcome = audit_model(
            model,
            images=str(tmp_path / "edges.npz"),
            noise="white",
            settings={"sigma": 40.0, "reference_mas": 100.0},
            levels=[25.0, 100.0],
            n=100,
            batch=16 if name != "torch" else 7,
            out=tmp_path / f"run-{name}",
        )
        tables[name] = outcome.table.sort_values(["slice", "level", "realization"], ignore_index=True)
        assert outcome.summary["null_audit"]["changed"] == 0
        assert outcome.summary["null_audit"]["floor"] < 1e-5
    tuned = models["tf2onnx"].fit(labelled(), 0, epochs=1, lr=1e-3)
    assert tuned.source["sha256"] != models["tf2onnx"].source["sha256"]
    reference = tables.pop("onnx")
    flipped = reference["noisy"] != reference["clean"]
    assert 0.1 < flipped.mean() < 0.9
    for name, table in tables.items():
        differs = table["noisy"] != reference["noisy"]
        tied = table["tied"] | reference["tied"] | (table["margin"] < 1e-5)
        assert not (differs & ~tied).any(), name
        assert (table["clean"] == reference["clean"]).all(), name
        assert np.abs(table["margin"] - reference["margin"])[~differs].max() < 1e-4, name


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_null_audit_and_ties(tmp_path: Path, framework: str) -> None:
    """Two classes of equal score for every image: whatever the label, nothing but a tie may come of it."""
    need(framework)
    weight = zoo.weights(classes=2)
    weight[:, 1] = weight[:, 0]
    path = WRITERS[framework](tmp_path / "m", weight, "nchw", 1, "float32", None, False)
    model = load_model(path, flags(framework, "nchw", 1, "float32"))
    item = Slice("x", zoo.images(1)[0], (1.0, 1.0))
    null = null_audit(model, item, item.pixels, batch=16)
    assert null["n"] == 3
    assert null["floor"] < 1e-6
    top = np.sort(model.predict(zoo.images(50), SPACING), axis=1)
    assert (top[:, 1] - top[:, 0]).max() <= tie_limit(null)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_conformance_kit(tmp_path: Path, framework: str) -> None:
    """What strangers' models are checked for holds for every adapter, training included."""
    need(framework)
    need("torch")  # ONNX is trained with it
    path = WRITERS[framework](tmp_path / "m", zoo.weights(), "nchw", 1, "float32", None, False)
    told = flags(framework, "nchw", 1, "float32")
    check_classifier(lambda: load_model(path, told))
    check_trainable(lambda: load_model(path, told), data=labelled(), epochs=3, lr=1e-2)
