import io
import json
import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from adapters import torch_zoo, zoo  # noqa: E402
from adapters.zoo import slices  # noqa: E402

from robustkit.adapters import load_model  # noqa: E402
from robustkit.adapters.torch import from_module  # noqa: E402
from robustkit.errors import DataError, ModelError, RobustkitError, UsageError  # noqa: E402

SPACING = (0.7, 0.7)
FLAGS = {**zoo.HU, "size": "16,16", "arch": "adapters.torch_zoo:build"}


def refusal(path: Path, flags=None, error: type[RobustkitError] = ModelError) -> str:
    return zoo.refusal(path, FLAGS if flags is None else flags, error)


def oracle(pixels: np.ndarray, net: torch.nn.Module | None = None) -> np.ndarray:
    with torch.no_grad():
        scores = (net or torch_zoo.build())(torch.from_numpy((pixels[:, None] + 1000) / 2000))
    return zoo.softmax(scores.double().numpy())


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None], extra: dict[str, bytes] | None = None) -> Path:
    """Write the archive again with members changed, dropped (None), or added beside the others."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).partition("/")[0]
    changed = {name: change(name.partition("/")[2], content) for name, content in members.items()}
    changed |= {f"{root}/{name}": content for name, content in (extra or {}).items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in changed.items():
            if content is not None:
                archive.writestr(name, content)
    return path


class Bomb:
    """Unpickles into a command that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("form", torch_zoo.FORMS)
@pytest.mark.parametrize("factory", ["build", "soft", "rgb"])
def test_every_form_gives_the_same_answer(tmp_path: Path, form: str, factory: str) -> None:
    net = getattr(torch_zoo, factory)()
    model = load_model(torch_zoo.write(net, tmp_path / "m", form), {**FLAGS, "arch": f"adapters.torch_zoo:{factory}"})
    pixels = zoo.images()
    inputs = torch.from_numpy(((pixels + 1000) / 2000)[:, None].repeat(3 if factory == "rgb" else 1, axis=1))
    with torch.no_grad():
        scores = net(inputs).double().numpy()
    assert model.predict(pixels, SPACING) == pytest.approx(
        scores if factory == "soft" else zoo.softmax(scores), abs=1e-6
    )
    assert model.spec.kind == ("probabilities" if factory == "soft" else "logits")
    assert model.spec.channels == (3 if factory == "rgb" else 1)
    assert model.classes == ("0", "1", "2")
    assert model.source["unsafe"] is False


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batch_of_an_export(tmp_path: Path, batch: int) -> None:
    model = load_model(torch_zoo.write(torch_zoo.build(), tmp_path / "m", "pt2", batch=batch), zoo.HU)
    assert model.predict(zoo.images(6), SPACING) == pytest.approx(oracle(zoo.images(6)), abs=1e-6)
    with pytest.raises(ModelError, match="export it with a free batch"):
        model.fit(slices(), 0)


def test_same_network_same_labels_in_onnx_and_torch(tmp_path: Path) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "torchscript")
    model = load_model(path, FLAGS).fit(slices(), 0, epochs=30, lr=1e-2, batch=12)
    exported = load_model(model.save(tmp_path / "m.onnx"), {})
    rng = np.random.default_rng(7)
    pixels = rng.normal(0, 200, (400, 16, 16)) + rng.uniform(-700, 700, (400, 1, 1))
    pixels = pixels.astype(np.float32)
    ours, theirs = model.predict(pixels, SPACING), exported.predict(pixels, SPACING)
    top = np.sort(ours, axis=1)
    tied = top[:, -1] - top[:, -2] <= 1e-6
    assert len(set(ours.argmax(axis=1))) > 1
    assert np.array_equal(ours.argmax(axis=1)[~tied], theirs.argmax(axis=1)[~tied])


@pytest.mark.parametrize("form", ["pt2", "torchscript", "safetensors"])
def test_spec_travels_in_the_file(tmp_path: Path, form: str) -> None:
    toml = "[input]\nwindow = [-500, 500]\nsize = [16, 16]\n"
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", form, extra={"robustkit.spec": toml})
    assert load_model(path, {"arch": "adapters.torch_zoo:build"}).spec.window == (-500.0, 500.0)


@pytest.mark.parametrize("form", torch_zoo.FORMS)
def test_fit_learns_repeats_and_leaves_its_model_alone(tmp_path: Path, form: str) -> None:
    model = load_model(torch_zoo.write(torch_zoo.build(), tmp_path / "m", form), FLAGS)
    data = slices()
    pixels = np.stack([item.pixels for item in data])
    before = model.predict(pixels, SPACING)
    state = torch.random.get_rng_state()
    losses: list[float] = []
    options = {"epochs": 60, "lr": 1e-2, "batch": 12}
    trained = model.fit(data, 3, **options, progress=lambda *told: losses.append(told[2]))
    again = model.fit(data, 3, **options)
    other = model.fit(data, 4, **options)
    assert np.array_equal(model.predict(pixels, SPACING), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (trained.predict(pixels, SPACING).argmax(axis=1) == [i % 3 for i in range(12)]).all()
    assert losses[-1] < losses[0]
    assert np.array_equal(again.predict(pixels, SPACING), trained.predict(pixels, SPACING))
    assert again.source["sha256"] == trained.source["sha256"] != other.source["sha256"]
    assert trained.source["from"] == model.source["sha256"]


@pytest.mark.parametrize("form", torch_zoo.FORMS)
def test_trained_model_is_saved_and_sent(tmp_path: Path, form: str) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", form)
    trained = load_model(path, FLAGS).fit(slices(), 0, epochs=2, lr=1e-2)
    expected = trained.predict(zoo.images(), SPACING)
    saved = load_model(trained.save(tmp_path / f"saved{path.suffix}"), {"arch": "adapters.torch_zoo:build"})
    assert np.array_equal(saved.predict(zoo.images(), SPACING), expected)
    assert saved.spec == trained.spec
    sent = pickle.loads(pickle.dumps(trained))
    assert np.array_equal(sent.predict(zoo.images(), SPACING), expected)
    exported = load_model(trained.save(tmp_path / "saved.onnx"), {})
    assert np.abs(exported.predict(zoo.images(), SPACING) - expected).max() < 1e-5
    assert exported.spec == trained.spec
    assert sorted(p.name for p in tmp_path.iterdir() if ".data" in p.name) == []


@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error"])
@pytest.mark.parametrize("factory", [torch_zoo.build, torch_zoo.soft])
def test_first_step_goes_down_the_stated_loss(loss: str, factory) -> None:
    """With a tiny step the stated loss must fall, whatever the output kind; without dropout it is one function."""
    net = factory()
    net.drop.p = 0.0
    model = from_module(net, FLAGS | {"arch": None})
    data = slices()
    pixels, truth = np.stack([item.pixels for item in data]), np.array([i % 3 for i in range(12)])

    def value(of) -> float:
        of.module.train()  # batch statistics, as during the step
        p = of.predict(pixels, SPACING)
        of.module.eval()
        if loss == "squared-error":
            return float(((p - np.eye(3)[truth]) ** 2).mean())
        return float(-np.log(p[np.arange(12), truth]).mean())

    assert value(model.fit(data, 0, epochs=1, lr=1e-5, batch=12, loss=loss)) < value(model)


def test_training_data_without_a_class_is_refused() -> None:
    model = from_module(torch_zoo.build(), zoo.HU | {"size": "16,16", "classes": "A,B,C"})
    with pytest.raises(DataError, match="12 of 12 slices have another label"):
        model.fit(slices(), 0)
    with pytest.raises(DataError, match="labelled A, B, C"):
        model.fit([], 0)
    with pytest.raises(UsageError, match="cross-entropy, squared-error"):
        model.fit(slices(), 0, loss="hinge")
    with pytest.raises(UsageError, match="lr > 0"):
        model.fit(slices(), 0, lr=0.0)


def test_diverged_training_is_said() -> None:
    model = from_module(torch_zoo.build(), zoo.HU | {"size": "16,16"})
    with pytest.raises(ModelError, match="training diverged"):
        model.fit(slices(), 0, epochs=3, lr=1e30)


def test_several_outputs_are_asked_about(tmp_path: Path) -> None:
    two = torch_zoo.Two().eval()
    with pytest.raises(UsageError, match="--output NAME: logits, twice"):
        from_module(two, zoo.HU | {"size": "16,16"})
    model = from_module(two, zoo.HU | {"size": "16,16", "output": "twice"})
    exported = load_model(model.save(tmp_path / "m.onnx"), {})
    assert exported.predict(zoo.images(), SPACING) == pytest.approx(model.predict(zoo.images(), SPACING), abs=1e-5)


def test_weights_without_arch_ask_for_it(tmp_path: Path) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "state_dict")
    assert "--arch package.module:factory" in refusal(path, zoo.HU, UsageError)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("adapters.torch_zoo", "wants package.module:factory"),
        ("no_such_module_anywhere:f", "no module named no_such_module_anywhere"),
        ("adapters.torch_zoo:nothing", "adapters.torch_zoo has no nothing"),
        ("adapters.torch_zoo:wants_arguments", "failed when called without arguments"),
        ("adapters.torch_zoo:no_network", "returned int, a torch.nn.Module is wanted"),
    ],
)
def test_wrong_arch_is_explained(tmp_path: Path, arch: str, words: str) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "state_dict")
    assert words in refusal(path, {**FLAGS, "arch": arch}, UsageError)


def test_arch_that_does_not_fit(tmp_path: Path) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "state_dict")
    assert "does not fit --arch adapters.torch_zoo:rgb" in refusal(path, {**FLAGS, "arch": "adapters.torch_zoo:rgb"})


def test_arch_beside_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_net_3.py").write_text("from adapters.torch_zoo import build\n")
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "state_dict")
    monkeypatch.chdir(tmp_path)
    assert load_model(path, {**FLAGS, "arch": "my_own_net_3:build"}).classes == ("0", "1", "2")


@pytest.mark.parametrize("wrap", ["state_dict", "model_state_dict", "model"])
def test_checkpoint_of_a_training_script(tmp_path: Path, wrap: str) -> None:
    weights = {f"module.{name}": value for name, value in torch_zoo.build().state_dict().items()}
    torch.save({wrap: weights, "epoch": 3}, tmp_path / "checkpoint.pt")
    model = load_model(tmp_path / "checkpoint.pt", FLAGS)
    assert model.predict(zoo.images(), SPACING) == pytest.approx(oracle(zoo.images()), abs=1e-6)


def test_pickled_module_needs_unsafe_load_which_is_loud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m.pt"
    torch.save(torch_zoo.build(), path)
    told = refusal(path)
    assert "is a pickle that wants adapters.torch_zoo.Net" in told
    assert "torch.export.save" in told
    with caplog.at_level(logging.WARNING, logger="robustkit"):
        model = load_model(path, {**FLAGS, "unsafe_load": True})
    assert "--unsafe-load: m.pt may run any code" in caplog.text
    assert model.source["unsafe"] is True
    assert model.predict(zoo.images(), SPACING) == pytest.approx(oracle(zoo.images()), abs=1e-6)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_bomb_is_not_run(tmp_path: Path, zipped: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "m.pt"
    if zipped:
        torch.save({"weight": Bomb(trace)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Bomb(trace)}, protocol=2))
    assert "is a pickle that wants posix.system" in refusal(path)
    assert not trace.exists()


def _program(change: Callable[[dict], None]) -> Callable[[str, bytes], bytes]:
    def edit(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return edit


def _nodes(program: dict) -> list[dict]:
    return program["graph_module"]["graph"]["nodes"]


def test_example_inputs_are_no_way_in(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "pt2")
    buffer = io.BytesIO()
    torch.save(((Bomb(trace),), {}), buffer)
    rewrite(path, lambda name, content: buffer.getvalue() if name == "data/sample_inputs/model.pt" else content)
    assert "objects in data/sample_inputs/model.pt that are no tensors" in refusal(path)
    assert not trace.exists()


def test_pickled_constants_are_no_way_in(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    config = {
        "config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    }
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "pt2")
    rewrite(
        path,
        lambda name, content: json.dumps(config).encode() if name.endswith("constants_config.json") else content,
        {"data/constants/opaque_obj_0": pickle.dumps(Bomb(trace))},
    )
    assert "as a pickled object" in refusal(path)
    assert not trace.exists()


def test_legacy_pickled_weights_are_no_way_in(tmp_path: Path) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "pt2")
    rewrite(path, lambda _, content: content, {"data/weights/model.pt": pickle.dumps(Bomb(tmp_path / "trace"))})
    assert "keeps data/weights/model.pt as a pickle" in refusal(path)
    assert not (tmp_path / "trace").exists()


def test_compiled_code_is_no_way_in(tmp_path: Path) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "pt2")
    rewrite(path, lambda _, content: content, {"data/aotinductor/model/code.so": b"\x7fELF"})
    assert "holds compiled code" in refusal(path)


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.evil.run.default",
        "_operator.methodcaller",
        "#extension:op",
        "torch.ops.aten.relu.default; import os",
    ],
)
def test_operators_that_are_no_tensor_operators(tmp_path: Path, target: str) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "pt2")
    rewrite(path, _program(lambda program: _nodes(program)[0].update(target=target)))
    assert f"uses {target!r}, which is no tensor operator" in refusal(path)


@pytest.mark.parametrize(
    "expression",
    ["__import__('os').system('touch trace')", "s0.__class__", "9**9**9**9", "Symbol('s77')(lambda: 0)", "1" * 600],
)
def test_sizes_that_are_no_arithmetic(tmp_path: Path, expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "pt2")

    def change(program: dict) -> None:
        values = program["graph_module"]["graph"]["tensor_values"]
        values["x"]["sizes"][0]["as_expr"]["expr_str"] = expression

    rewrite(path, _program(change))
    assert "for a size, which is no arithmetic" in refusal(path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("where", ["keyword", "parameter", "key", "spec"])
def test_names_that_would_end_up_in_code(tmp_path: Path, where: str) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "pt2")
    code = "x=__import__('os').system('touch trace'), y"

    def change(program: dict) -> None:
        if where == "keyword":
            _nodes(program)[0]["inputs"][0].update(name=code, kind=2)
        elif where == "parameter":
            program["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = code
        elif where == "key":
            program["graph_module"]["graph"]["tensor_values"][code] = {}
        else:
            signature = program["graph_module"]["module_call_graph"][0]["signature"]
            signature["in_spec"] = json.dumps([1, {"type": code, "context": "null", "children_spec": []}])

    rewrite(path, _program(change))
    assert "for a name, which is no name" in refusal(path)


def test_guards_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "pt2")
    guard = "__import__('os').system('touch trace') == 0"
    rewrite(path, _program(lambda program: program.update(guards_code=[guard])))
    load_model(path, zoo.HU).predict(zoo.images(), SPACING)
    assert not (tmp_path / "trace").exists()


class Writes(torch.nn.Module):
    """A network that leaves a file behind when it predicts, in TorchScript's own language."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(256, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "trace")
        return self.dense(x.flatten(1))


def test_script_that_writes_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Writes()), str(path))
    assert "mentions 'save', which is no tensor operator" in refusal(path)
    assert not (tmp_path / "trace").exists()


def test_script_that_hides_a_name_is_refused(tmp_path: Path) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "torchscript")
    hidden = b'\n# getattr(torch, "sa\\x76e")(x, "trace")\n'
    rewrite(path, lambda name, content: content + hidden if name.endswith("torch_zoo.py") else content)
    assert "no tensor operator" in refusal(path)


@pytest.mark.parametrize("form", torch_zoo.FORMS)
@pytest.mark.parametrize("keep", [0.3, 0.95])
def test_truncated_file(tmp_path: Path, form: str, keep: float) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", form)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    refusal(path)


@pytest.mark.parametrize("form", torch_zoo.FORMS)
def test_mutated_files_give_a_model_or_one_line(tmp_path: Path, form: str) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", form)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(25):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data))
        told = ""
        try:
            load_model(path, FLAGS)
        except RobustkitError as error:
            told = str(error)
        assert "\n" not in told


def test_zip_bomb_is_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\0" * 2**28)
    assert "would unpack to 256 MiB" in refusal(path)


def test_input_that_is_no_image_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(8, 3), (torch.zeros(2, 8),))
    torch.export.save(program, tmp_path / "m.pt2")
    assert "takes input of 2 dimensions" in refusal(tmp_path / "m.pt2")


def test_size_the_network_cannot_take(tmp_path: Path) -> None:
    path = torch_zoo.write(torch_zoo.build(), tmp_path / "m", "torchscript")
    told = refusal(path, zoo.HU)
    assert "cannot take images of 1 x 128 x 128" in told
    assert "--size" in told


def test_labels_depend_on_no_batch(tmp_path: Path) -> None:
    model = load_model(torch_zoo.write(torch_zoo.build(), tmp_path / "m", "torchscript"), FLAGS)
    pixels = zoo.images(64)
    whole = model.predict(pixels, SPACING)
    parts = np.concatenate([model.predict(pixels[i : i + 7], SPACING) for i in range(0, 64, 7)])
    assert np.abs(whole - parts).max() < 1e-6
