import tomllib
from pathlib import Path

import pytest
from adapters import zoo
from hypothesis import given
from hypothesis import strategies as st

from robustkit.adapters import load_model
from robustkit.adapters.spec import INTERPOLATIONS, FileFacts, InputSpec, gather, read_flags, read_toml, settle
from robustkit.errors import ModelError, UsageError

NCHW = FileFacts((1, 32, 48), "float32", 4)


def test_design_toml_reads_back() -> None:
    text = """
    [input]
    window = [-1000, 1000]
    range  = [0, 1]
    fov_mm = 500
    size   = [128, 128]
    interpolation = "area"
    layout = "nchw"
    channels = 1
    [output]
    classes = ["BN", "C", "AP", "LF"]
    kind = "probabilities"
    """
    spec = settle(read_toml(text, "it"), FileFacts(), "m.onnx")
    assert spec.window == (-1000.0, 1000.0)
    assert (spec.fov_mm, spec.size, spec.classes) == (500.0, (128, 128), ("BN", "C", "AP", "LF"))
    assert read_toml(spec.to_toml(), "it")["kind"] == "probabilities"


@given(
    window=st.none() | st.tuples(st.integers(-2000, 0), st.integers(1, 4000)).map(lambda p: (float(p[0]), float(p[1]))),
    fov=st.none() | st.floats(1.0, 900.0),
    size=st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    interpolation=st.sampled_from([name for name in INTERPOLATIONS if name != "decimate"]),
    classes=st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1), min_size=2, unique=True),
)
def test_toml_round_trip(window, fov, size, interpolation, classes) -> None:
    spec = InputSpec(window, (0.0, 1.0), fov, size, interpolation, classes=tuple(classes), output="y")
    told = read_toml(spec.to_toml(), "it")
    assert settle(told, FileFacts(), "m") == spec


def test_flags_are_read_as_typed() -> None:
    told = read_flags(
        {"window": "-160,240", "range": "-1,1", "size": "64,32", "classes": "A, B,C", "fov_mm": 350, "channels": "3"}
    )
    assert told == {
        "window": (-160.0, 240.0),
        "range": (-1.0, 1.0),
        "size": (64, 32),
        "classes": ("A", "B", "C"),
        "fov_mm": 350.0,
        "channels": 3,
    }
    assert read_flags({"window": "none", "kind": None}) == {"window": None}


def test_flags_beat_toml_beats_metadata(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"")
    (tmp_path / "m.robustkit.toml").write_text("[input]\nwindow = [-500, 500]\nfov_mm = 300\n")
    told = gather(model, {"fov_mm": 400}, "[input]\nwindow = [0, 1]\nchannels = 3\n")
    assert told == {"window": (-500.0, 500.0), "fov_mm": 400.0, "channels": 3}


def test_named_spec_file_replaces_the_one_beside(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"")
    (tmp_path / "m.robustkit.toml").write_text("[input]\nfov_mm = 300\n")
    (tmp_path / "other.toml").write_text("[input]\nwindow = 'none'\n")
    assert gather(model, {"spec_file": str(tmp_path / "other.toml")}) == {"window": None}


def test_range_goes_with_the_window_it_belonged_to(tmp_path: Path) -> None:
    told = gather(tmp_path / "m.onnx", {"window": "none"}, "[input]\nwindow = [0, 1]\nrange = [0, 255]\n")
    assert settle(told, NCHW, "m.onnx").window is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"window": "abc"}, "--window wants LO,HI in HU"),
        ({"window": "100,-100"}, "LO < HI"),
        ({"window": "nan,1"}, "--window"),
        ({"range": "1,1"}, "--range wants two different"),
        ({"size": "128"}, "--size wants H,W"),
        ({"size": "0,5"}, "--size"),
        ({"size": "1e9,5"}, "--size"),
        ({"fov_mm": -3}, "--fov"),
        ({"channels": 2}, "--channels wants 1 or 3"),
        ({"classes": "A"}, "--classes"),
        ({"classes": "A,A"}, "different"),
        ({"classes": 7}, "--classes"),
        ({"interpolation": "cubic"}, "area or linear or nearest or decimate"),
        ({"layout": "chw"}, "nchw or nhwc"),
        ({"kind": "scores"}, "logits or probabilities"),
        ({"dtype": "int64"}, "--dtype"),
        ({"windw": "1,2"}, "unknown input-spec key windw; there is: window, range"),
    ],
)
def test_bad_flag_is_named_with_its_cure(flags, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_flags(flags)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[input]\nwindw = [0, 1]", "unknown key 'windw' in [input] of m; there is: window, range"),
        ("[inputs]\n", "sections are [input] and [output]"),
        ("window = [0, 1]", "sections are"),
        ("[input\n", "is not TOML"),
        ("[input]\nwindow = 9" + "9" * 400, "m wants LO,HI"),
        ("[input]\nchannels = true", "wants 1 or 3"),
        ("[input]\nwindow = " + "[" * 5000 + "]" * 5000, "m is not TOML"),
        ("[output]\narch = 'os:system'", "unknown key 'arch'"),
    ],
)
def test_bad_toml_is_named_with_its_cure(text: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_toml(text, "m", ModelError)
    assert words in str(caught.value)


def test_window_is_asked_for_and_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_model(zoo.linear(tmp_path / "m.onnx"), {})
    told = str(caught.value)
    assert "missing: window" in told
    assert "--window -1000,1000" in told
    snippet = told.split("`")[1]
    assert tomllib.loads(snippet) == {"input": {"window": [-1000, 1000]}}
    (tmp_path / "m.robustkit.toml").write_text(snippet)
    assert load_model(tmp_path / "m.onnx", {}).spec.window == (-1000.0, 1000.0)


def test_everything_missing_is_asked_for_at_once() -> None:
    with pytest.raises(
        UsageError, match=r"missing: window, layout, channels\. Type --window .* --layout .* --channels"
    ):
        settle({}, FileFacts((None, None, None)), "m.onnx")


@pytest.mark.parametrize(
    ("dims", "layout", "channels", "size"),
    [
        ((1, 32, 48), "nchw", 1, (32, 48)),
        ((3, 32, 48), "nchw", 3, (32, 48)),
        ((32, 48, 1), "nhwc", 1, (32, 48)),
        ((32, 48, 3), "nhwc", 3, (32, 48)),
        ((1, None, None), "nchw", 1, None),
        ((None, None, 3), "nhwc", 3, None),
    ],
)
def test_layout_is_read_from_the_shape(dims, layout: str, channels: int, size) -> None:
    spec = settle({"window": None}, FileFacts(dims), "m.onnx")
    assert (spec.layout, spec.channels, spec.size) == (layout, channels, size)


@pytest.mark.parametrize("dims", [(1, 32, 1), (3, 32, 3), (32, 32, 32), (None, None, None)])
def test_undecided_layout_is_asked_for(dims) -> None:
    with pytest.raises(UsageError, match="--layout nchw"):
        settle({"window": None}, FileFacts(dims), "m.onnx")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"size": (64, 64)}, "takes images of 32,48, --size says 64,64"),
        ({"channels": 3}, "takes channels 1, --channels says 3"),
        ({"dtype": "uint8"}, "takes dtype float32, --dtype says uint8"),
        ({"classes": ("A", "B")}, "tells 4 classes apart, --classes names 2"),
        ({"layout": "nhwc"}, "takes 48 channels in layout nhwc"),
    ],
)
def test_contradicting_the_file_is_an_error(told, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        settle({"window": None, **told}, NCHW, "m.onnx")


def test_absurd_size_in_a_file_is_refused() -> None:
    with pytest.raises(ModelError, match="up to 4096 a side"):
        settle({"window": None}, FileFacts((1, 10**9, 10**9)), "m.onnx")


def test_uint8_maps_to_its_full_range_unless_told() -> None:
    facts = FileFacts((1, 8, 8), "uint8")
    assert settle({"window": (0.0, 1.0)}, facts, "m").range == (0.0, 255.0)
    with pytest.raises(UsageError, match="uint8"):
        settle({"window": None}, facts, "m")
    with pytest.raises(UsageError, match="uint8"):
        settle({"window": (0.0, 1.0), "range": (-1.0, 1.0)}, facts, "m")


def test_range_without_a_window_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to map"):
        settle({"window": None, "range": (0.0, 1.0)}, NCHW, "m")


def test_default_class_names_count_the_columns() -> None:
    assert settle({"window": None}, NCHW, "m").classes == ("0", "1", "2", "3")
    assert settle({"window": None}, FileFacts((1, 8, 8), None, 1), "m").classes == ("0", "1")
