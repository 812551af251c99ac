"""A model that never answers, or wants all memory, is given up by name, wherever it runs; the rest goes on."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextvars import ContextVar

import numpy as np
import onnx
import pytest
from models import SPEC, write_image
from onnx import TensorProto, helper, numpy_helper
from soak import ROBUSTKIT, start

from robustkit import patience
from robustkit.adapters import load_model
from robustkit.errors import ModelError, UsageError
from robustkit.patience import bounded

SIDE = 16
THRESHOLD = 5000.0
WHITE = ("--noise", "white", "--set", "sigma=3000", "--set", "reference_mas=100", "--mas", "100", "-n", "8")
NUMBER = 78


def endless(path, *, stops=True, above=-math.inf):
    """Write a model whose loop never ends for images with a pixel above `above`; without nodes it hears no stop."""
    value = helper.make_tensor_value_info
    inner = [value("turn", TensorProto.INT64, []), value("going", TensorProto.BOOL, [])]
    inner.append(value("held", TensorProto.FLOAT, None))
    names = ("still", "kept") if stops else ("going", "held")
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in zip(("going", "held"), names, strict=True) if stops]
    outer = [value(names[0], TensorProto.BOOL, []), value(names[1], TensorProto.FLOAT, None)]
    body = helper.make_graph(nodes, "body", inner, outer)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "above"], ["enter"]),
            helper.make_node("Loop", ["", "enter", "image"], ["looped"], body=body),
            helper.make_node("ReduceMean", ["looped", "axes"], ["mean"], keepdims=0),
            helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
            helper.make_node("Mul", ["column", "signs"], ["logits"]),
        ],
        "endless",
        [value("image", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [value("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.float32(above), "above"),
            numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
            numpy_helper.from_array(np.array([1]), "last"),
            numpy_helper.from_array(np.array([-1, 1], np.float32), "signs"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"robustkit.spec": SPEC})
    onnx.save(model, str(path))
    return path


def audited(folder, model, *more, seconds="1"):
    write_image(folder / "i.npz", np.full((SIDE, SIDE), 0.5))
    line = ["audit", str(model), "--images", str(folder / "i.npz"), *WHITE, "--out", str(folder / "run"), *more]
    environment = os.environ | {patience.VARIABLE: seconds}
    return subprocess.run([ROBUSTKIT, *line], capture_output=True, text=True, check=False, env=environment, timeout=120)


def test_an_endless_model_is_given_up_and_works_again(tmp_path, monkeypatch):
    model = load_model(endless(tmp_path / "m.onnx", above=THRESHOLD))
    images = np.full((3, SIDE, SIDE), 2.0, np.float32)
    before = model.predict(images, (1.0, 1.0))
    threads = threading.active_count()
    monkeypatch.setenv(patience.VARIABLE, "0.5")
    with pytest.raises(ModelError, match=r"^m\.onnx gave no answer within 0\.5 s.*ROBUSTKIT_MODEL_SECONDS=5\)"):
        model.predict(images + 2 * np.float32(THRESHOLD), (1.0, 1.0))
    np.testing.assert_array_equal(model.predict(images, (1.0, 1.0)), before)
    assert threading.active_count() == threads
    assert not patience._left_behind


@pytest.mark.parametrize("stops", [True, False], ids=["that can be stopped", "that hears no stop"])
def test_the_command_ends_with_an_endless_model(tmp_path, stops):
    done = audited(tmp_path, endless(tmp_path / "m.onnx", stops=stops))
    assert done.returncode == 4
    assert done.stderr.startswith("error: m.onnx gave no answer within 1 s")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_model_that_loops_in_a_worker_is_named_here(tmp_path):
    done = audited(tmp_path, endless(tmp_path / "m.onnx", stops=False, above=THRESHOLD), "--jobs", "2")
    assert done.returncode == 4
    assert "error: m.onnx gave no answer within 1 s" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # TorchScript is what is tested
def test_an_endless_script_of_torch_is_given_up(tmp_path):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def forward(self, x):
            mean = x.mean(dim=[1, 2, 3])
            while bool(mean.sum() < 1e30):
                mean = mean * 1.0
            return torch.stack([-mean, mean], dim=1)

    torch.jit.script(Net()).save(str(tmp_path / "m.pt"))
    (tmp_path / "m.robustkit.toml").write_text(SPEC)
    done = audited(tmp_path, tmp_path / "m.pt", "--channels", "1")
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("error: m.pt gave no answer within 1 s")


def test_ctrl_c_is_heard_while_a_model_computes(tmp_path):
    model = endless(tmp_path / "m.onnx", above=THRESHOLD)
    write_image(tmp_path / "i.npz", np.full((SIDE, SIDE), 0.5))
    line = ["audit", str(model), "--images", str(tmp_path / "i.npz"), *WHITE, "--out", str(tmp_path / "run")]
    process = start(line, NUMBER)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "run.json").exists():  # from then on it scores, which never ends
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in err


def test_a_call_that_takes_all_memory_is_given_up(monkeypatch):
    monkeypatch.setattr(patience, "LARGE", 1 << 24)
    monkeypatch.setattr(patience, "_free", lambda: float(1 << 24))
    ended = threading.Event()

    def grow():
        held = [np.ones(1 << 22)]  # 32 MiB
        assert ended.wait(30)
        return held

    with pytest.raises(ModelError, match=r"^m\.onnx took 0\.\d GiB at once"):
        bounded(grow, "m.onnx", stop=ended.set)
    assert not patience._left_behind


def test_what_is_free_is_known_here():
    assert patience._taken() > 1 << 20
    assert 0 < patience._free() < math.inf


def test_answers_errors_and_context_pass_through():
    variable = ContextVar("variable", default=0)
    variable.set(3)
    assert bounded(variable.get, "m") == 3
    error = ZeroDivisionError("mine")

    def fail():
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        bounded(fail, "m")
    assert caught.value is error
    assert bounded(lambda: bounded(lambda: 5, "inner"), "outer") == 5


def test_calls_of_several_threads_do_not_meet():
    found = {}

    def ask(number):
        found[number] = [bounded(lambda i=i: (number, i), "m") for i in range(200)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [(number, i) for i in range(200)] for number in range(4)}


def test_a_forked_process_waits_for_threads_of_its_own():
    assert bounded(lambda: 1, "m") == 1
    code = (
        "import os; from robustkit.patience import bounded; bounded(int, 'm'); pid = os.fork()\n"
        "if pid == 0: os._exit(bounded(lambda: 7, 'm'))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "7"


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan"])
def test_a_senseless_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv(patience.VARIABLE, text)
    with pytest.raises(UsageError, match=f"{patience.VARIABLE} must be a number of seconds above 0, got '{text}'"):
        bounded(int, "m")
