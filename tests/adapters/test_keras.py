import importlib.util
import io
import json
import logging
import os
import pickle
import random
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("keras") is None:  # importing it would choose its backend
    pytest.skip("keras is not installed", allow_module_level=True)

from adapters import keras_zoo, zoo
from adapters.zoo import refusal, slices

from robustkit.adapters import keras_vet, load_model
from robustkit.adapters.keras import from_model
from robustkit.adapters.keras_train import backend_name
from robustkit.errors import DataError, ModelError, RobustkitError, UsageError

keras = keras_zoo.keras
SPACING = (0.7, 0.7)
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras' own, on torch
    pytest.mark.xdist_group("keras"),  # TensorFlow is slow to import: one worker does
]
TORCH_TOO = "own_answer or (fit_learns and keras) or (saved_and_sent and keras) or (mean_loss and cross)"
tensorflow_only = pytest.mark.skipif(backend_name() != "tensorflow", reason="SavedModel needs the TensorFlow backend")


def oracle(model, pixels: np.ndarray) -> np.ndarray:
    raw = model.predict(((pixels + 1000) / 2000)[..., None].astype(np.float32), verbose=0)
    return zoo.softmax(raw.astype(np.float64))


def global_numpy_state() -> bytes:
    return np.random.get_state()[1].tobytes()  # noqa: NPY002 (the global generator is what is watched)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network in every form; tests copy what they change."""
    folder, net = tmp_path_factory.mktemp("written"), keras_zoo.build()
    return {form: keras_zoo.write(net, folder / form, form) for form in keras_zoo.FORMS}


def changed_config(source: Path, target: Path, change: Callable[[dict], None], extra: dict[str, bytes] | None = None):
    """Copy a `.keras` archive with its description changed and members added."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in (members | (extra or {})).items():
            archive.writestr(name, content)
    return target


@pytest.mark.parametrize("form", keras_zoo.FORMS)
def test_every_form_gives_the_networks_own_answer(written: dict[str, Path], form: str) -> None:
    model = load_model(written[form], zoo.HU)
    pixels = zoo.images()
    assert model.predict(pixels, SPACING) == pytest.approx(oracle(keras_zoo.build(), pixels), abs=1e-6)
    assert (model.spec.kind, model.spec.layout, model.spec.channels) == ("logits", "nhwc", 1)
    assert model.source["unsafe"] is False
    assert model.source["producer"].startswith(f"keras {keras.__version__}, {backend_name()} ")
    assert model.predict(pixels[:0], SPACING).shape == (0, 3)


@pytest.mark.parametrize("form", keras_zoo.FORMS)
def test_fit_learns_repeats_and_leaves_its_model_alone(written: dict[str, Path], form: str) -> None:
    model = load_model(written[form], zoo.HU)
    data = slices()
    pixels = np.stack([item.pixels for item in data])
    before, state, numpy_state = model.predict(pixels, SPACING), random.getstate(), global_numpy_state()
    losses: list[float] = []
    options = {"epochs": 40, "lr": 1e-2, "batch": 12}
    trained = model.fit(data, 3, **options, progress=lambda *told: losses.append(told[2]))
    again, other = model.fit(data, 3, **options), model.fit(data, 4, epochs=1, lr=1e-2, batch=5)
    assert np.array_equal(model.predict(pixels, SPACING), before)
    assert random.getstate() == state
    assert global_numpy_state() == numpy_state
    assert (trained.predict(pixels, SPACING).argmax(axis=1) == [i % 3 for i in range(12)]).all()
    assert losses[-1] < losses[0]
    assert np.array_equal(again.predict(pixels, SPACING), trained.predict(pixels, SPACING))
    assert again.source["sha256"] == trained.source["sha256"] != other.source["sha256"]
    assert trained.source["from"] == model.source["sha256"]


@pytest.mark.parametrize("form", keras_zoo.FORMS)
def test_trained_model_is_saved_and_sent(written: dict[str, Path], tmp_path: Path, form: str) -> None:
    trained = load_model(written[form], zoo.HU).fit(slices(), 0, epochs=2, lr=1e-2)
    expected = trained.predict(zoo.images(), SPACING)
    saved = load_model(trained.save(tmp_path / f"saved{written[form].suffix}"), {})
    assert np.array_equal(saved.predict(zoo.images(), SPACING), expected)
    assert saved.spec == trained.spec
    sent = pickle.loads(pickle.dumps(trained))
    assert np.array_equal(sent.predict(zoo.images(), SPACING), expected)
    exported = load_model(trained.save(tmp_path / "saved.onnx"), {})
    assert np.abs(exported.predict(zoo.images(), SPACING) - expected).max() < 1e-5
    assert exported.spec == trained.spec
    names = {f"saved{written[form].suffix}", "saved.onnx", "saved.robustkit.toml"}
    assert {p.name for p in tmp_path.iterdir()} <= names


@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error"])
@pytest.mark.parametrize("soft", [False, True])
def test_mean_loss_is_the_stated_one(loss: str, soft: bool) -> None:
    """Told before any step has an effect: the loss of the untrained network in training mode, without dropout."""
    net = keras_zoo.build(soft=soft, drop=0.0)
    model = from_model(net, zoo.HU)
    data = slices()
    inputs = (np.stack([item.pixels for item in data])[..., None] + 1000) / 2000
    raw = keras.ops.convert_to_numpy(keras_zoo.build(soft=soft, drop=0.0)(inputs, training=True)).astype(np.float64)
    p, truth = raw if soft else zoo.softmax(raw), np.array([i % 3 for i in range(12)])
    expected = ((p - np.eye(3)[truth]) ** 2).mean() if loss == "squared-error" else -np.log(p[range(12), truth]).mean()
    told: list[float] = []
    model.fit(data, 0, epochs=1, lr=1e-9, batch=12, loss=loss, progress=lambda *given: told.append(given[2]))
    assert told == pytest.approx([expected], rel=1e-5)


def test_training_needs_labels_a_free_batch_and_a_sane_rate(written: dict[str, Path]) -> None:
    model = load_model(written["keras"], {**zoo.HU, "classes": "A,B,C"})
    with pytest.raises(DataError, match="12 of 12 slices have another label"):
        model.fit(slices(), 0)
    with pytest.raises(ModelError, match="training diverged"):
        load_model(written["keras"], zoo.HU).fit(slices(), 0, epochs=4, lr=1e30)
    with pytest.raises(ModelError, match="make it with a free batch"):
        from_model(keras_zoo.linear(batch=4), zoo.HU).fit(slices(), 0)


def test_unpickled_model_is_read_again_from_its_file(written: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(written["keras"].read_bytes())
    model = load_model(path, zoo.HU)
    sent = pickle.dumps(model)
    assert np.array_equal(pickle.loads(sent).predict(zoo.images(), SPACING), model.predict(zoo.images(), SPACING))
    keras_zoo.write(keras_zoo.build(seed=5), path, "keras")
    with pytest.raises(ModelError, match="changed since"):
        pickle.loads(sent)


def test_several_outputs_are_asked_about(tmp_path: Path) -> None:
    net = keras_zoo.two()
    for form in keras_zoo.FORMS[::2]:
        path = keras_zoo.write(net, tmp_path / form, form)
        assert "2 outputs; say which with --output NAME: " in refusal(path, error=UsageError)
        model = load_model(path, {**zoo.HU, "output": "twice"})
        raw = keras.ops.convert_to_numpy(net(((zoo.images() + 1000) / 2000)[..., None])["twice"])
        assert model.predict(zoo.images(), SPACING) == pytest.approx(zoo.softmax(raw.astype(float)), abs=1e-6)
        exported = load_model(model.save(tmp_path / f"{form}.onnx"), {})
        assert exported.predict(zoo.images(), SPACING) == pytest.approx(model.predict(zoo.images(), SPACING), abs=1e-5)


def test_input_that_is_no_image_is_refused(tmp_path: Path) -> None:
    flat = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    assert "takes input of 2 dimensions" in refusal(keras_zoo.write(flat, tmp_path / "m", "keras"))
    a, b = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    pair = keras.Model([a, b], keras.layers.Flatten()(keras.layers.Add()([a, b])))
    assert "takes 2 inputs" in refusal(keras_zoo.write(pair, tmp_path / "m", "keras"))


def test_size_the_network_cannot_take(tmp_path: Path) -> None:
    net = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.Conv2D(3, 40), keras.layers.GlobalMaxPooling2D()]
    )
    path = keras_zoo.write(net, tmp_path / "m", "keras")
    assert "cannot take images of 16 x 16 x 1" in refusal(path, {**zoo.HU, "size": "16,16"})
    assert load_model(path, {**zoo.HU, "size": "48,48"}).classes == ("0", "1", "2")


def test_saving_says_what_it_can_write(written: dict[str, Path], tmp_path: Path) -> None:
    model = load_model(written["keras"], zoo.HU)
    with pytest.raises(UsageError, match=r"end it in .keras, .h5, .onnx or not at all"):
        model.save(tmp_path / "m.pt")


# what a hostile or broken file may hold, one test each


def test_lambda_layer_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = keras.Input((16, 16, 1))
    net = keras.Model(image, keras.layers.Flatten()(keras.layers.Lambda(lambda x: 2 * x, name="double")(image)))
    for form in ("keras", "hdf5"):
        path = keras_zoo.write(net, tmp_path / form, form)
        assert "has a Lambda layer (double), and loading one runs code" in refusal(path)
    with caplog.at_level(logging.WARNING, logger="robustkit"):
        model = load_model(tmp_path / "keras.keras", {**zoo.HU, "unsafe_load": True})
    assert "--unsafe-load: keras.keras may run any code" in caplog.text
    assert model.source["unsafe"] is True


def test_custom_object_is_refused(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable("ours")
    class Halve(keras.layers.Layer):
        def call(self, x):
            return 0.5 * x

    image = keras.Input((16, 16, 1))
    net = keras.Model(image, keras.layers.Flatten()(Halve()(image)))
    assert "custom object 'ours>Halve'" in refusal(keras_zoo.write(net, tmp_path / "m", "keras"))
    assert "custom object" in refusal(keras_zoo.write(net, tmp_path / "m", "hdf5"))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"module": "os", "class_name": "system", "config": {"command": "touch trace"}}, "custom object"),
        ({"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/x"}}, "custom object"),
        ({"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": "x"}}, "custom object"),
        ({"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/x"}}, "custom object"),
        ({"module": "keras.utils", "class_name": "get_file", "config": {"origin": "x"}}, "custom object"),
        (
            {"module": "keras.src.saving.saving_lib", "class_name": "Model", "config": {}, "registered_name": "a>b"},
            "a>b",
        ),
        ({"class_name": "__lambda__", "config": {"value": "x"}}, "Lambda layer"),
        ({"module": "os", "class_name": "function", "config": "system"}, "custom function 'os.system'"),
        ({"module": "builtins", "class_name": "function", "config": "eval"}, "custom function 'builtins.eval'"),
        ({"module": "keras.utils", "class_name": "function", "config": "get_file"}, "custom function"),
        ({"class_name": "__typespec__", "spec_name": "x", "config": []}, "custom object"),
        ({"module": 3, "class_name": ["Dense"], "config": {}}, "custom object"),
    ],
)
def test_description_that_names_code(written: dict[str, Path], tmp_path: Path, layer: dict, words: str) -> None:
    def hide(config: dict) -> None:
        config["config"]["layers"][1]["config"]["kernel_initializer"] = {"wrapped": [layer]}

    assert words in refusal(changed_config(written["keras"], tmp_path / "m.keras", hide))


def test_archive_members_that_lead_outside(written: dict[str, Path], tmp_path: Path) -> None:
    for name in ("../evil.txt", "/evil.txt", "assets/../../evil.txt", "..\\evil.txt"):
        told = refusal(changed_config(written["keras"], tmp_path / "m.keras", lambda _: None, {name: b"x"}))
        assert "which leads outside its folder" in told
    told = refusal(changed_config(written["keras"], tmp_path / "m.keras", lambda _: None, {"assets/words.txt": b"x"}))
    assert "which is neither layers nor weights" in told


def hostile_hdf5(target: Path | io.BytesIO, kind: str) -> None:
    import h5py

    with h5py.File(target, "r+") as archive:
        if kind == "external link":
            archive["evil"] = h5py.ExternalLink("/etc/passwd", "/")
        elif kind == "soft link":
            archive["evil"] = h5py.SoftLink("/somewhere")
        elif kind == "external data":
            archive.create_dataset("evil", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        elif kind == "virtual data":
            layout = h5py.VirtualLayout((4,), "u1")
            layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
            archive.create_virtual_dataset("evil", layout)
        else:
            archive.create_dataset("evil", (2**30,), "f8", chunks=(2**20,), compression="gzip")


@pytest.mark.parametrize("kind", ["external link", "soft link", "external data", "virtual data", "bomb"])
@pytest.mark.parametrize("form", ["keras", "hdf5"])
def test_weights_that_lead_elsewhere(written: dict[str, Path], tmp_path: Path, form: str, kind: str) -> None:
    path = tmp_path / written[form].name
    path.write_bytes(written[form].read_bytes())
    if form == "hdf5":
        hostile_hdf5(path, kind)
    else:
        with zipfile.ZipFile(path) as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        hostile_hdf5(weights, kind)
        changed_config(written[form], path, lambda _: None, {"model.weights.h5": weights.getvalue()})
    words = {"external link": "as a link", "soft link": "as a link", "bomb": "would unpack to 8192 MiB"}
    assert words.get(kind, "in another file") in refusal(path)


def test_weights_without_a_network(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras_zoo.build().save_weights(str(tmp_path / "m.weights.h5"))
    assert "holds weights without a network" in refusal(tmp_path / "m.weights.h5")


@pytest.mark.parametrize("form", ["keras", "hdf5"])
@pytest.mark.parametrize("keep", [0.3, 0.95])
def test_truncated_file(written: dict[str, Path], tmp_path: Path, form: str, keep: float) -> None:
    whole = written[form].read_bytes()
    path = tmp_path / written[form].name
    path.write_bytes(whole[: int(keep * len(whole))])
    refusal(path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.keras") == "no such model file: absent.keras"
    (tmp_path / "m.keras").write_bytes(b"\0\1\2\3" * 50)
    assert "is no .keras model: its content is of no format known here" in refusal(tmp_path / "m.keras")


@pytest.mark.parametrize("form", ["keras", "hdf5"])
def test_mutated_files_give_a_model_or_one_line(written: dict[str, Path], tmp_path: Path, form: str) -> None:
    whole, path = written[form].read_bytes(), tmp_path / written[form].name
    rng = np.random.default_rng(1)
    for _ in range(8):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        told = ""
        try:
            load_model(path, zoo.HU)
        except RobustkitError as error:
            told = str(error)
        assert "\n" not in told


def saved_model(source: Path, target: Path, change: Callable) -> Path:
    """Copy a SavedModel with its graph changed."""
    import shutil

    from tensorflow.core.protobuf import saved_model_pb2

    shutil.copytree(source, target)
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((target / "saved_model.pb").read_bytes())
    change(content)
    (target / "saved_model.pb").write_bytes(content.SerializeToString())
    return target


@tensorflow_only
@pytest.mark.parametrize("op", ["ReadFile", "WriteFile", "PyFunc", "SaveV2", "LoadLibrary"])
def test_saved_model_whose_graph_reaches_out(written: dict[str, Path], tmp_path: Path, op: str) -> None:
    def change(content) -> None:
        graph = content.meta_graphs[0]
        called = set(graph.object_graph_def.concrete_functions)
        body = next(f for f in graph.graph_def.library.function if f.signature.name in called)
        body.node_def.add(name="evil", op=op)

    assert f"uses {op}, which is no tensor operator" in refusal(
        saved_model(written["savedmodel"], tmp_path / "m", change)
    )


@tensorflow_only
def test_saved_model_with_a_python_function_does_not_run_it(tmp_path: Path) -> None:
    import tensorflow as tf

    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 16, 16, 1), tf.float32)])
        def serve(self, image):
            tf.io.write_file(str(tmp_path / "trace"), "x")
            return tf.reshape(image, (-1, 256))

    net = Reader()
    tf.saved_model.save(net, str(tmp_path / "m"), signatures={"serving_default": net.serve})
    assert "uses WriteFile" in refusal(tmp_path / "m")
    assert not (tmp_path / "trace").exists()
    model = load_model(tmp_path / "m", {**zoo.HU, "unsafe_load": True})
    assert model.source["unsafe"] is True
    assert (tmp_path / "trace").exists()


@tensorflow_only
def test_saved_model_with_a_table_or_of_tensorflow_1(written: dict[str, Path], tmp_path: Path) -> None:
    def table(content) -> None:
        content.meta_graphs[0].object_graph_def.nodes.add().resource.SetInParent()

    def old(content) -> None:
        content.meta_graphs[0].ClearField("object_graph_def")

    assert "holds a table, a file or a saver" in refusal(saved_model(written["savedmodel"], tmp_path / "a", table))
    assert "is no SavedModel of TensorFlow 2" in refusal(saved_model(written["savedmodel"], tmp_path / "b", old))


@tensorflow_only
def test_saved_model_folder_with_links_and_other_files(written: dict[str, Path], tmp_path: Path) -> None:
    path = saved_model(written["savedmodel"], tmp_path / "m", lambda _: None)
    (path / "code.py").write_text("print()")
    assert "holds 'code.py', which is neither graph nor weights" in refusal(path)
    (path / "code.py").unlink()
    index = path / "variables" / "variables.index"
    os.rename(index, tmp_path / "elsewhere")
    index.symlink_to(tmp_path / "elsewhere")
    assert "'variables/variables.index', a link to a file elsewhere" in refusal(path)
    index.unlink()
    os.link(tmp_path / "elsewhere", index)
    assert "'variables/variables.index', a link to a file elsewhere" in refusal(path)
    index.unlink()
    assert "cannot be opened" in refusal(path)
    (path / "saved_model.pb").write_bytes(b"\0" * 40)
    assert "truncated or damaged" in refusal(path)


def test_lists_of_layers_and_functions_are_keras_own() -> None:
    """A name that Keras does not know is a typing error here; those of Keras 2 alone are left out."""
    old = {"BatchNormalizationV1", "ThresholdedReLU"}
    unknown = {name for name in keras_vet.LAYERS if not hasattr(keras.layers, name)}
    assert unknown <= old
    known = set(dir(keras.activations)) | set(dir(keras.losses))
    assert not keras_vet.FUNCTIONS - known


if backend_name() == "tensorflow":

    def test_loading_tensorflow_writes_nothing_on_the_terminal() -> None:
        load = "from robustkit.adapters.keras_train import need_keras; need_keras()"
        done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("", "")

    def test_the_same_on_torch() -> None:
        """Run again, in a process whose Keras runs on torch, what depends on the backend."""
        pytest.importorskip("torch")
        run = ["-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", __file__, "-k", TORCH_TOO]
        done = subprocess.run(
            [sys.executable, *run],
            env={**os.environ, "KERAS_BACKEND": "torch"},
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        assert " passed" in done.stdout
