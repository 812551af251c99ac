"""The registry: built-ins through the hooks, strangers contained, every refusal by name."""

from __future__ import annotations

import os
import random
import sys
import types

import numpy as np
import pytest
import typer

from robustkit import ModelError, RobustkitError, UsageError, hookimpl, hookspecs, registry
from robustkit.errors import MissingExtraError


def plugin(**functions):
    """Return a module whose functions are marked as hooks, as a plugin's author would write them."""
    module = types.ModuleType("stranger")
    for name, function in functions.items():
        setattr(module, name, hookimpl(function) if callable(function) else function)
    return module


def offering(hook, **names):
    return plugin(**{hook: lambda: names})


def installed(folder, monkeypatch, name, source, requires=""):
    """Put a distribution with one entry point on the path, as pip would."""
    (folder / f"{name}_module.py").write_text(source)
    info = folder / f"dist_{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 1.2\n{requires}")
    (info / "entry_points.txt").write_text(f"[robustkit]\n{name} = {name}_module\n")
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop(f"{name}_module", None)  # another test may have used the name


def info_of(name, loaded):
    return next(found for found in loaded.plugins if found.name == name)


METRIC = "import robustkit\n@robustkit.hookimpl\ndef robustkit_metrics():\n    return {'mine': len}\n"


def test_built_ins_come_through_the_hooks():
    loaded = registry.load()
    assert {"white", "patch-nps", "nps", "residuals", "scanner"} <= set(loaded.noise_models())
    assert {"sar", "cmr"} <= set(loaded.metrics())
    assert loaded.plugins[0].name == "robustkit"
    assert loaded.plugins[0].reason == ""


def test_every_hook_is_documented():
    assert len(registry.HOOKS) == 9
    assert all((getattr(hookspecs, name).__doc__ or "").strip() for name in registry.HOOKS)


def test_every_hook_is_asked_by_the_registry():
    asked = {*registry.COLLECTED.values(), *registry.OPENERS.values(), "robustkit_commands"}
    assert asked == set(registry.HOOKS)


def test_installed_plugin_is_loaded_with_its_version(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "aa", METRIC)
    loaded = registry.load()
    found = info_of("aa", loaded)
    assert (found.version, found.package, found.hooks, found.reason) == ("1.2", "dist-aa", ("robustkit_metrics",), "")
    assert "mine" in loaded.metrics()


def test_blocked_plugin_is_listed_and_not_imported(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "aa", "raise RuntimeError('imported')")
    monkeypatch.setenv("ROBUSTKIT_DISABLE_PLUGINS", "other, aa")
    assert info_of("aa", registry.load()).reason == "blocked by ROBUSTKIT_DISABLE_PLUGINS"


BAD_IMPORTS = {
    "raises": ("1/0", "failed to import: ZeroDivisionError: division by zero"),
    "exits": ("import sys; sys.exit(7)", "failed to import: SystemExit: 7"),
    "lacks": ("import not_there_at_all", "No module named 'not_there_at_all'; pip install --upgrade dist-lacks"),
    "broken": ("def (", "failed to import: SyntaxError"),
    "silent": ("raise Exception", "failed to import: Exception"),
}


@pytest.mark.parametrize("name", BAD_IMPORTS)
def test_broken_import_is_named_and_the_rest_works(name, tmp_path, monkeypatch):
    source, words = BAD_IMPORTS[name]
    installed(tmp_path, monkeypatch, name, source)
    installed(tmp_path, monkeypatch, "zz", METRIC)
    loaded = registry.load()
    assert words in info_of(name, loaded).reason
    assert "mine" in loaded.metrics()


def test_plugin_that_prints_keeps_stdout_clean(tmp_path, monkeypatch, capsys):
    installed(tmp_path, monkeypatch, "aa", "print('hello from aa')\n" + METRIC)
    loaded = registry.load()
    told = capsys.readouterr()
    assert told.out == ""
    assert "hello from aa" in told.err
    assert info_of("aa", loaded).warnings == ("printed on stdout (shown on stderr)",)


def test_plugin_that_changes_global_state_is_put_back_and_named(tmp_path, monkeypatch):
    source = (
        "import os, random, numpy\nos.chdir('/')\nnumpy.random.seed(1)\nnumpy.seterr(all='raise')\nrandom.seed(1)\n"
    )
    installed(tmp_path, monkeypatch, "aa", source + METRIC)
    before = os.getcwd(), np.geterr(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    loaded = registry.load()
    assert (os.getcwd(), np.geterr(), np.random.get_state()[1].tolist(), random.getstate()) == before  # noqa: NPY002
    named = " ".join(info_of("aa", loaded).warnings)
    for what in ("working directory", "error handling", "numpy's global random", "Python's global random"):
        assert what in named


def test_hook_that_prints_keeps_stdout_clean(capsys):
    def robustkit_metrics():
        print("asked")
        return {"mine": len}

    loaded = registry.load(extra=[("loud", plugin(robustkit_metrics=robustkit_metrics))])
    assert "mine" in loaded.metrics()
    assert capsys.readouterr().out == ""
    assert info_of("loud", loaded).warnings == ("printed on stdout (shown on stderr)",)


def test_misspelt_hook_is_refused_with_what_was_meant():
    loaded = registry.load(extra=[("aa", offering("robustkit_noize_models"))])
    assert info_of("aa", loaded).reason == (
        "refused: unknown hook robustkit_noize_models, did you mean robustkit_noise_models?"
    )


def test_refused_plugin_does_not_poison_the_next():
    loaded = registry.load(extra=[("aa", offering("robustkit_nonsense")), ("bb", offering("robustkit_metrics", m=len))])
    assert info_of("bb", loaded).reason == ""
    assert "m" in loaded.metrics()


def test_forgotten_mark_is_named():
    module = types.ModuleType("stranger")
    module.robustkit_metrics = lambda: {"mine": len}
    reason = info_of("aa", registry.load(extra=[("aa", module)])).reason
    assert reason == "refused: robustkit_metrics lacks @robustkit.hookimpl"


def test_unknown_argument_of_a_hook_is_named():
    loaded = registry.load(extra=[("aa", plugin(robustkit_load_images=lambda path, colour: None))])
    assert "colour" in info_of("aa", loaded).reason


def test_fewer_arguments_keep_working():
    loaded = registry.load(extra=[("aa", plugin(robustkit_load_model=lambda path: f"opened {path}"))])
    assert loaded.load_model("x.bin", {"window": "0,1"}) == "opened x.bin"


@pytest.mark.parametrize("stated", [2, 0, "1"])
def test_another_api_is_refused(stated):
    module = offering("robustkit_metrics", mine=len)
    module.ROBUSTKIT_API = stated
    loaded = registry.load(extra=[("aa", module)])
    assert f"written for API {stated} of the hooks, this robustkit has API 1" in info_of("aa", loaded).reason
    assert "mine" not in loaded.metrics()


def test_this_api_is_accepted():
    module = offering("robustkit_metrics", mine=len)
    module.ROBUSTKIT_API = registry.API
    assert "mine" in registry.load(extra=[("aa", module)]).metrics()


def test_name_taken_by_another_plugin_leaves_the_first_in_use():
    first, second = offering("robustkit_metrics", one=len), offering("robustkit_metrics", two=len)
    loaded = registry.load(extra=[("aa", first), ("aa", second)])
    assert [found.reason == "" for found in loaded.plugins if found.name == "aa"] == [True, False]
    assert "one" in loaded.metrics()
    assert "two" not in loaded.metrics()


def test_plugin_named_robustkit_does_not_replace_the_built_ins(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "robustkit", METRIC)
    loaded = registry.load()
    assert "the name 'robustkit' is taken by robustkit; uninstall dist-robustkit" in loaded.plugins[-1].reason
    assert "sar" in loaded.metrics()


def test_same_metric_twice_names_both_plugins():
    loaded = registry.load(
        extra=[("aa", offering("robustkit_metrics", m=len)), ("bb", offering("robustkit_metrics", m=len))]
    )
    with pytest.raises(RobustkitError, match=r"two plugins name 'm' in robustkit_metrics: aa and bb; .*PLUGINS=bb"):
        loaded.metrics()


def test_built_in_name_is_never_the_one_to_block():
    loaded = registry.load(extra=[("aa", offering("robustkit_metrics", sar=len))])
    with pytest.raises(RobustkitError, match="robustkit and aa; block one with ROBUSTKIT_DISABLE_PLUGINS=aa"):
        loaded.metrics()


def raising(error):
    def hook():
        raise error

    return hook


ODD_ANSWERS = {
    "raises": (raising(ValueError("boom")), "robustkit_metrics failed: ValueError: boom"),
    "exits": (raising(SystemExit(2)), "robustkit_metrics failed: SystemExit: 2"),
    "extra": (raising(MissingExtraError("mine", "torch")), "pip install 'robustkit[torch]'"),
    "none": (lambda: None, "returned NoneType, a mapping of names to functions is wanted"),
    "list": (lambda: ["mine"], "returned list, a mapping"),
    "number": (lambda: {"mine": 3}, "'mine' stands for a int, a function is wanted"),
    "blank": (lambda: {" ": len}, "' ' is no name that can be typed"),
}


@pytest.mark.parametrize("case", ODD_ANSWERS)
def test_hook_that_fails_puts_its_plugin_out_of_use(case):
    hook, words = ODD_ANSWERS[case]
    loaded = registry.load(extra=[("aa", plugin(robustkit_metrics=hook)), ("bb", offering("robustkit_metrics", m=len))])
    assert {"sar", "cmr", "m"} <= set(loaded.metrics())
    assert words in info_of("aa", loaded).reason


def test_unknown_name_lists_what_is_there_and_what_is_broken():
    loaded = registry.load(extra=[("aa", plugin(robustkit_hardeners=raising(ValueError("boom"))))])
    with pytest.raises(UsageError, match=r"unknown hardener 'x'; there is: .*aa \(robustkit_hardeners failed"):
        loaded.hardener("x")


def test_strangers_open_files_before_the_built_ins():
    loaded = registry.load(extra=[("aa", plugin(robustkit_load_images=lambda path: [path]))])
    assert loaded.load_images("anything.npz") == ["anything.npz"]


def test_reader_that_fails_does_not_stop_the_next():
    def fails(path):
        raise ValueError("/home/jane-doe/scan.dcm is odd")

    loaded = registry.load(
        extra=[
            ("aa", plugin(robustkit_load_images=lambda path: ["read"])),
            ("bb", plugin(robustkit_load_images=fails)),
        ]
    )
    assert loaded.load_images("x") == ["read"]


def test_reader_that_fails_is_named_when_nothing_opens_it(tmp_path):
    def fails(path, spec):
        raise ValueError("bad header")

    (tmp_path / "x.bin").write_bytes(b"nothing that is known")
    loaded = registry.load(extra=[("aa", plugin(robustkit_load_model=fails))])
    with pytest.raises(ModelError, match=r"plugin aa failed in robustkit_load_model \(ValueError: bad header\)"):
        loaded.load_model(tmp_path / "x.bin", {})


def test_failing_reader_of_images_keeps_its_words_to_itself():
    def fails(path):
        raise ValueError("DOE^JANE has no pixels")

    loaded = registry.load(extra=[("aa", plugin(robustkit_load_repeats=fails))])
    with pytest.raises(ModelError) as caught:
        loaded.load_repeats("no such path at all")
    assert "aa" in str(caught.value)
    assert "DOE" not in str(caught.value)


def test_error_for_the_user_goes_through():
    def refuses(path):
        raise UsageError("give --series")

    loaded = registry.load(extra=[("aa", plugin(robustkit_load_images=refuses))])
    with pytest.raises(UsageError, match="give --series"):
        loaded.load_images("x")


def test_commands_are_added_and_a_failing_one_is_contained():
    app = typer.Typer()

    def robustkit_commands(app):
        app.command("mine")(lambda: None)

    loaded = registry.load(
        extra=[
            ("aa", plugin(robustkit_commands=robustkit_commands)),
            ("bb", plugin(robustkit_commands=lambda app: 1 / 0)),
        ]
    )
    loaded.add_commands(app)
    assert "mine" in [command.name for command in app.registered_commands]
    assert "ZeroDivisionError" in info_of("bb", loaded).reason


def test_offers_tells_what_one_plugin_names():
    loaded = registry.load(extra=[("aa", offering("robustkit_metrics", z=len, a=len))])
    assert loaded.offers("aa") == {"metric": {"a": len, "z": len}}
    with pytest.raises(UsageError, match="unknown plugin 'nobody'; there is: "):
        loaded.offers("nobody")


def test_openers_tells_what_one_plugin_reads():
    def read(path):
        return None

    loaded = registry.load(extra=[("aa", plugin(robustkit_load_images=read))])
    assert loaded.openers("aa") == {"images": read}


def test_plugins_are_loaded_in_order_of_name(tmp_path, monkeypatch):
    for name in ("zz", "mm", "aa"):
        installed(tmp_path, monkeypatch, name, "")
    ours = [found.name for found in registry.load().plugins if found.name in ("zz", "mm", "aa")]
    assert ours == ["aa", "mm", "zz"]


def test_default_is_loaded_once():
    assert registry.default() is registry.default()
