"""The pytest plugin, run by pytest itself: first on a stand-in for the audit, then on the real one."""

from __future__ import annotations

import ast
import io
import json
from importlib.metadata import entry_points
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from robustkit.testing import make_slice

pytest_plugins = ["pytester"]
# pandas and its parquet are loaded once here, not in every run of pytest inside this process: they allow for one only
pd.DataFrame({"a": [1]}).to_parquet(io.BytesIO())

STAND_IN = """
import sys, types
from pathlib import Path
import pandas as pd

def audit_model(model, *, images=None, repeats=None, profile=None, clean=None, noise="nps", settings=None,
                levels=None, n=1000, seed=0, max_sar=None, at=None, only_class=None, out=None, jobs=None):
    from robustkit.errors import ModelError
    from robustkit.testing import make_results
    if str(model).endswith("missing.onnx"):
        raise ModelError("no such model file: missing.onnx")
    asked = {name: value for name, value in locals().items() if isinstance(value, str | int | float | list)}
    print("asked", sorted(asked.items()))
    Path(out).mkdir(parents=True)
    verdict = {None: None, "1%": "fail", 0.01: "fail", "5%": "inconclusive"}.get(max_sar, "pass")
    row = {"class": "C", "level": 25.0, "k": 57, "n": 1000, "rate": 0.057, "low": 0.043, "high": 0.073, "tied": 2}
    empty = {"class": "LF", "level": 25.0, "k": 0, "n": 0, "rate": None, "low": None, "high": None, "tied": 0}
    summary = {"model": str(model), "noise": noise, "unit": "mAs", "classes": ["C", "LF"], "levels": [25.0], "n": n,
               "seed": seed, "sar": [row, empty], "gate": verdict and {"max_sar": max_sar, "verdict": verdict},
               "verdict_sentence": f"The verdict is {verdict}."}
    code = {"pass": 0, "fail": 1, "inconclusive": 3, None: 0}[verdict]
    table = make_results(20)
    outcome = types.SimpleNamespace(summary=summary, table=table, run_dir=Path(out), exit_code=code)
    return outcome

module = types.ModuleType("robustkit.run")
module.audit_model = audit_model
sys.modules["robustkit.run"] = module
"""


def plugin_flags():
    known = {point.name for point in entry_points(group="pytest11")}
    return () if "robustkit" in known else ("-p", "robustkit.pytest_plugin")


@pytest.fixture
def suite(pytester):
    pytester.makeconftest(STAND_IN)
    return pytester


def run(pytester, *flags):
    start = pytester.runpytest_subprocess if "-n" in flags else pytester.runpytest_inprocess
    return start(*plugin_flags(), "-p", "no:cacheprovider", *flags)


def asked(result):
    """Return what the audit was called with, as the first test printed it."""
    line = next(line for line in result.outlines if "asked [" in line)
    return dict(ast.literal_eval(line.split("asked ")[1]))


def test_marked_test_passes_and_shows_its_table(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.robustness(model="net.onnx", noise="nps", mas=25, max_sar=0.5)
        def test_low_dose(): ...
        """
    )
    result = run(suite)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*robustness: SAR, k/n with its interval*"])
    row = "*test_low_dose*net.onnx*nps*C*25 mAs*57/1000 = 5.7% (4.3% - 7.3%, 2 tied)*pass"
    result.stdout.fnmatch_lines([row, "*LF*25 mAs*0/0*"])


def test_failing_gate_tells_counts_interval_and_first_flip(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.robustness(model="net.onnx", mas=25, max_sar="1%", seed=3, images="phantom/C", settings={"k": 2})
        def test_low_dose():
            raise RuntimeError("the body must not run")
        """
    )
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "robustness: net.onnx, noise nps: fail",
            "The verdict is fail.",
            "C at 25 mAs: 57/1000 = 5.7% (4.3% - 7.3%, 2 tied)",
            "first flip: slice 000000000000000?, realization *, * mAs: * became * (margin *)",
            "reproduce: robustkit audit net.onnx --noise nps --images phantom/C --set k=2 --levels * -n * --seed 3",
            "run directory: *",
        ]
    )
    result.stdout.no_fnmatch_line("*the body must not run*")
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_reproduction_names_no_path_that_could_name_a_patient(suite):
    suite.makepyfile("def test_it(robustness): robustness('net.onnx', images='scans/DOE-JANE', max_sar='1%')")
    result = run(suite)
    result.stdout.fnmatch_lines(["reproduce: robustkit audit net.onnx --noise nps --images IMAGES *"])


def test_inconclusive_is_no_pass(suite):
    suite.makepyfile("def test_it(robustness): robustness('net.onnx', max_sar='5%')")
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["robustness: net.onnx, noise nps: inconclusive"])


def test_fixture_returns_the_outcome(suite):
    suite.makepyfile(
        """
        def test_it(robustness):
            outcome = robustness("net.onnx", mas=[25, 50])
            assert outcome.summary["sar"][0]["k"] == 57
            assert outcome.exit_code == 0
            assert outcome.run_dir.is_dir()
        """
    )
    run(suite).assert_outcomes(passed=1)


def test_own_assertion_shows_what_was_found(suite):
    suite.makepyfile("def test_it(robustness): assert robustness('net.onnx').summary['sar'][0]['k'] == 0")
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*robustkit*", "C at 25 mAs: 57/1000*", "first flip: *", "reproduce: *"])


def test_test_beats_flag_beats_ini(suite):
    suite.makeini(
        """
        [pytest]
        robustkit_model = ini.onnx
        robustkit_noise = white
        robustkit_n = 10
        robustkit_seed = 1
        robustkit_mas = 25,50
        """
    )
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.robustness(noise="scanner", seed=7)
        def test_it(robustness):
            robustness(seed=8)
        """
    )
    result = run(suite, "-s", "--robustkit-noise", "nps", "--robustkit-n", "20")
    result.assert_outcomes(passed=1)
    found = asked(result)
    assert (found["model"], found["noise"], found["n"], found["seed"]) == ("ini.onnx", "scanner", 20, 8)
    assert found["levels"] == [25.0, 50.0]


def test_ini_limit_gates_the_fixture(suite):
    suite.makeini("[pytest]\nrobustkit_max_sar = 1%\n")
    suite.makepyfile("def test_it(robustness): robustness('net.onnx')")
    run(suite).assert_outcomes(failed=1)


@pytest.mark.parametrize(("flag", "value"), [("--robustkit-n", "many"), ("--robustkit-mas", "25,low")])
def test_flag_that_makes_no_sense_is_named(suite, flag, value):
    suite.makepyfile("def test_it(robustness): robustness('net.onnx')")
    result = run(suite, flag, value)
    result.assert_outcomes(errors=0, failed=1)
    result.stdout.fnmatch_lines([f"*{flag} wants *; got '{value}'*"])


def test_error_of_robustkit_is_one_line(suite):
    suite.makepyfile("def test_it(robustness): robustness('missing.onnx')")
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["robustness: no such model file: missing.onnx"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_misspelt_argument_lists_what_there_is(suite):
    suite.makepyfile("def test_it(robustness): robustness('net.onnx', max_sarr=0.1)")
    run(suite).stdout.fnmatch_lines(["robustness knows no max_sarr; there is: mas, model, images, *"])


def test_missing_model_is_named(suite):
    suite.makepyfile("def test_it(robustness): robustness()")
    run(suite).stdout.fnmatch_lines(["robustness: no model; name it in the test, or with --robustkit-model"])


def test_relative_paths_are_found_from_the_root(suite):
    suite.mkdir("models").joinpath("net.onnx").write_bytes(b"x")
    folder = suite.mkdir("deep")
    folder.joinpath("test_deep.py").write_text(
        "def test_it(robustness): robustness('models/net.onnx', images='phantom')"
    )
    suite.makeini("[pytest]\n")
    result = run(suite, "-s", "deep")
    found = asked(result)
    assert found["model"] == str(suite.path / "models" / "net.onnx")
    assert found["images"] == "phantom"


def test_kept_runs_do_not_overwrite_one_another(suite):
    suite.makepyfile("def test_it(robustness):\n    robustness('net.onnx')\n    robustness('net.onnx')\n")
    for _ in range(2):
        run(suite, "--robustkit-out", "kept").assert_outcomes(passed=1)
    assert len(list((suite.path / "kept").iterdir())) == 4


def test_results_are_properties_of_the_test(suite):
    suite.makepyfile("def test_it(robustness): robustness('net.onnx', max_sar=0.5)")
    run(suite, "--junit-xml", "junit.xml").assert_outcomes(passed=1)
    tree = ElementTree.parse(suite.path / "junit.xml")
    found = {item.get("name"): item.get("value") for item in tree.iter("property")}
    assert found["robustkit_sar"].startswith("C at 25 mAs: 57/1000 = 5.7%")
    assert json.loads(found["robustkit"])["verdict"] == "pass"


def test_two_workers_show_one_table(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("name", ["a", "b"])
        def test_it(robustness, name):
            robustness(f"{name}.onnx", max_sar=0.5)

        @pytest.mark.robustness("c.onnx", max_sar="1%")
        def test_gate(): ...
        """
    )
    result = run(suite, "-n", "2")
    result.assert_outcomes(passed=2, failed=1)
    text = "\n".join(result.outlines)
    table = text.split("robustness: SAR, k/n with its interval")[1]
    assert [f"{name}.onnx" in table for name in "abc"] == [True] * 3
    assert "first flip: slice" in text


def test_suite_without_audits_says_nothing(suite):
    suite.makepyfile("def test_it(): pass")
    result = run(suite)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*robustness*")


def test_marker_is_registered_and_options_are_explained(suite):
    assert "@pytest.mark.robustness(model, noise='nps'" in run(suite, "--markers").stdout.str()
    shown = run(suite, "--help").stdout.str()
    assert "--robustkit-max-sar" in shown
    assert "robustkit_max_sar" in shown


def test_marker_passes_strict_markers(suite):
    suite.makepyfile("import pytest\n@pytest.mark.robustness('net.onnx')\ndef test_it(): pass\n")
    run(suite, "--strict-markers").assert_outcomes(passed=1)


def test_real_audit_of_a_probe(pytester):
    made = make_slice(0.0, shape=(32, 32))
    np.savez(pytester.path / "images.npz", pixels=made.pixels, pixel_mm=np.array(made.pixel_mm))
    threshold = float(made.pixels.mean(dtype=np.float64)) - 0.5
    pytester.makepyfile(
        f"""
        import pytest
        from robustkit.testing import FakeClassifier

        ASKED = dict(images="images.npz", noise="white", settings={{"sigma": 10.0, "reference_mas": 100.0}}, n=200)

        def audited(robustness, **asked):
            return robustness(FakeClassifier(threshold={threshold!r}), **ASKED, **asked)

        def test_high_dose_passes(robustness):
            outcome = audited(robustness, mas=1600, max_sar=0.05)
            assert outcome.summary["sar"][1]["n"] == 200

        def test_low_dose_fails(robustness):
            audited(robustness, mas=25, max_sar=0.05)
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["robustness: FakeClassifier, noise white: fail", "first flip: slice ????????????????, realization *"]
    )
