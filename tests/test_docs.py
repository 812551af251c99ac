"""Every code block and command of README and docs: held against the app in the quick run, run as it stands in the slow.

Examples and the pages on plugins and on other toolkits are run by tests of their own.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from pages import ROOT, Block, blocks, inline, name_of, pages, words

pytest.importorskip("robustkit_ct_bodysite")
OWN_TESTS = {"docs/plugins.md": "tests/test_testing_docs.py", "docs/interop.md": "tests/interop/test_docs.py"}
AFTER_COMMANDS = {"README.md", "docs/report.md", "docs/start/researcher.md"}
"""Pages whose Python reads what their commands wrote, or audits at length: run whole, in the slow run."""
ANSWERS = {0, 1, 3}
"""Exit codes that are answers: pass, fail, undecided. 2 and 4 are mistakes."""
DESK = (
    "robustkit scan phantom/AP --mas 25 -k 20 -o scans.npz",
    "robustkit audit ct-bodysite --repeats scans.npz --mas 12.5,25,50 -n 300 --out runs/desk",
    "robustkit replay ct-bodysite --repeats scans.npz --out runs/measured",
)
BEFORE = {
    "docs/report.md": DESK,
    "docs/repeat-scans.md": (
        DESK[0],
        "robustkit scan phantom/AP --mas 25 -k 20 --seed 3 -o november.npz",
        "robustkit scan phantom/AP --mas 25 -k 20 -o scans-25-mas.npz",
        "robustkit scan phantom/AP --mas 100 -k 20 --seed 4 -o scans-100-mas.npz",
    ),
}
"""What the reader of a page has done before."""
PAGES = [pytest.param(page, id=name_of(page)) for page in pages()]


def known_app():
    import typer.main

    from robustkit import registry
    from robustkit.cli.main import app

    registry.default().add_commands(app)
    return typer.main.get_command(app)


def find(app, arguments):
    """Return the command that arguments name, and the arguments left for it."""
    command, left = app, list(arguments)
    while getattr(command, "commands", None) and (left or command is app):
        if not left or left[0] not in command.commands:
            raise AssertionError(f"no command {' '.join(arguments)!r}; there is: {', '.join(command.commands)}")
        command, left = command.commands[left[0]], left[1:]
    return command, left


def options_of(command):
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def run_command(command):
    """Run one of our commands in this process; return its exit code."""
    from robustkit.cli.main import main

    sys.argv = words(command)
    return main()


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page):
    app = known_app()
    for block in blocks(page):
        for line in block.commands():
            asked = words(line)
            if asked[0] == "robustkit":
                command, left = find(app, asked[1:])
                try:
                    command.make_context(asked[1], left)
                except SystemExit:
                    pass  # --help
                except Exception as error:
                    raise AssertionError(f"{block.where}: {line}: {error}") from error
            elif asked[0] == "make":
                targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
                assert asked[1] in targets, f"{block.where}: no target {asked[1]}"
            elif asked[0] == "python" and asked[1].endswith(".py"):
                assert (ROOT / asked[1]).is_file(), f"{block.where}: no script {asked[1]}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences_exist(page):
    app = known_app()
    for line in inline(page):
        command, _ = find(app, line.split()[1:])
        for flag in re.findall(r"(?<!\S)(--[a-z][a-z-]*)", line):
            assert flag in options_of(command), f"{name_of(page)}: `{line}`: no option {flag}"


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_well_formed(page):
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text, block.where)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language in ("yaml", "yml"):
            pytest.importorskip("yaml").safe_load(block.text)
        elif block.language == "json":
            assert block.text.strip(), block.where


def run_python(block: Block, namespace):
    exec(compile(block.text, block.where, "exec", dont_inherit=True), namespace)
    for name, value in list(namespace.items()):
        if name.startswith("test_") and inspect.isfunction(value):
            assert set(inspect.signature(value).parameters) <= {"robustness"}, f"{block.where}: {name}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.id not in {*OWN_TESTS, *AFTER_COMMANDS}])
def test_python_runs_as_it_stands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python" and not block.not_run:
            run_python(block, namespace)


def test_pages_with_tests_of_their_own_have_them():
    assert all((ROOT / test).is_file() and (ROOT / page).is_file() for page, test in OWN_TESTS.items())
    assert all((ROOT / page).is_file() for page in {*AFTER_COMMANDS, *BEFORE})


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """Lay out what the pages' examples call by name: a model file, images, repeats of a phantom as DICOM."""
    import robustkit_ct_bodysite
    from robustkit_ct_bodysite.phantom import phantom_slice

    from robustkit.scanner import VirtualScanner
    from robustkit.scans import save_images, save_repeats

    folder = tmp_path_factory.mktemp("desk")
    source = Path(robustkit_ct_bodysite.__file__).parent
    for name in ("model.onnx", "model.robustkit.toml"):
        shutil.copy(source / name, folder / name)
    item = phantom_slice("AP")
    save_images(folder / "dicom", [item])
    save_images(folder / "images.npz", [item])
    save_repeats(folder / "phantom-scans", VirtualScanner().repeats(item, 25.0, 20, seed=1))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p.id not in OWN_TESTS])
def test_page_runs_as_it_stands(page, desk, tmp_path, monkeypatch):
    shutil.copytree(desk, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    for command in BEFORE.get(name_of(page), ()):
        assert run_command(command) in ANSWERS, command
    found = [block for block in blocks(page) if not block.not_run]
    namespace = {"__name__": "page"}
    for block in written_before_read(found):
        if block.language in ("yaml", "yml"):
            shutil.rmtree("runs", ignore_errors=True)  # a pipeline starts from a clean checkout
        if block.language == "python":
            run_python(block, namespace)
        for command in block.commands():
            if words(command)[0] == "robustkit":
                assert run_command(command) in ANSWERS, f"{block.where}: {command}"


def written_before_read(found):
    """Put the virtual scanner's commands first: a page may explain before it says how to try it without a scanner."""
    return sorted(found, key=lambda block: not any(line.startswith("robustkit scan ") for line in block.commands()))
