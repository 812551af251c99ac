"""The house rules of imports, read from the source, and what an import costs, seen from a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import robustkit

ROOT = Path(robustkit.__file__).parent
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "onnx", "safetensors", "onnxscript", "tf2onnx", "sklearn"}
HEAVY = FRAMEWORKS | {"onnxruntime", "pandas", "pyarrow", "pydicom", "nibabel", "dask", "distributed", "matplotlib"}
NEIGHBOURS = ("noise", "scanner", "adapters", "scans", "metrics")
ABOVE = ("audit", "run", "registry", "cli", "rundir", "cases", "engine", "replay", "summary", "report")


def sources():
    return sorted(ROOT.rglob("*.py"))


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_in(tree, module="", *, is_package=False):
    """Yield the full name of everything imported anywhere in a tree, relative imports resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, node.module or ""]).strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def all_imports(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set(imports_in(tree, module_of(path), is_package=path.name == "__init__.py"))


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def run_at_import(node):
    """Return the statements that an import of the module executes: not those in functions or under TYPE_CHECKING."""
    kept = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child):
            continue
        kept += [child] if isinstance(child, ast.Import | ast.ImportFrom) else run_at_import(child)
    return kept


def top_imports(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = ast.Module(body=run_at_import(tree), type_ignores=[])
    return set(imports_in(body, module_of(path), is_package=path.name == "__init__.py"))


def within(name, package):
    return name == package or name.startswith(package + ".")


def part_of(path):
    """Return the first name below robustkit that a file belongs to: noise, cli, types, ..."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def violations(paths, forbidden, imported=all_imports):
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(imported(path))
        if any(within(name, banned) for banned in forbidden)
    ]


def test_the_reader_of_imports_sees_what_is_there():
    source = (
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\n"
        "def f():\n    import g\nclass H:\n    import i\ntry:\n    import j\nexcept ImportError:\n    import k\n"
    )
    tree = ast.parse(source)
    assert set(imports_in(tree)) == {"a.b", "c", "c.d", "e", "g", "i", "j", "k"}
    body = ast.Module(body=run_at_import(tree), type_ignores=[])
    assert set(imports_in(body)) == {"a.b", "c", "c.d", "i", "j", "k"}


def test_relative_imports_are_resolved():
    tree = ast.parse("from . import x\nfrom ..audit import y")
    found = set(imports_in(tree, "robustkit.noise.nps"))
    assert {"robustkit.noise.x", "robustkit.audit", "robustkit.audit.y"} <= found


def test_types_imports_nothing_of_robustkit():
    # the one exception is seen by type checkers only
    assert violations([ROOT / "types.py"], ["robustkit"], top_imports) == []


@pytest.mark.parametrize("part", NEIGHBOURS)
def test_neighbours_do_not_know_one_another_nor_what_is_above(part):
    files = [path for path in sources() if part_of(path) == part]
    assert files
    others = [f"robustkit.{name}" for name in (*NEIGHBOURS, *ABOVE) if name != part]
    assert violations(files, others) == []


@pytest.mark.parametrize("part", ["metrics", "report"])
def test_metrics_and_report_see_only_the_table(part):
    files = [path for path in sources() if part_of(path) == part]
    forbidden = [
        "noise",
        "scanner",
        "adapters",
        "scans",
        "audit",
        "run",
        "cases",
        "engine",
        "registry",
        "cli",
        "seeding",
    ]
    assert violations(files, [f"robustkit.{name}" for name in forbidden]) == []


def test_pluggy_is_known_to_hookspecs_and_registry_alone():
    files = [path for path in sources() if path.name not in ("hookspecs.py", "registry.py")]
    assert violations(files, ["pluggy"]) == []


def test_frameworks_are_imported_inside_functions():
    assert violations(sources(), FRAMEWORKS, top_imports) == []


def test_core_never_imports_the_reference_plugin():
    assert violations(sources(), ["robustkit_ct_bodysite"]) == []


def test_command_line_does_not_touch_click():
    assert violations(sources(), ["click", "typer._click"]) == []


def test_shipped_code_does_not_import_test_tools():
    files = [path for path in sources() if path.name != "pytest_plugin.py"]
    assert violations(files, ["pytest", "hypothesis"]) == []


def loaded_after(statement):
    """Return the modules of a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(done.stdout.split())


COSTS = {
    "import robustkit": HEAVY | {"numpy", "scipy", "numba", "pluggy", "typer", "rich"},
    "import robustkit.pytest_plugin": HEAVY | {"numpy", "scipy", "numba", "typer", "rich", "jinja2"},
    "from robustkit import *": HEAVY | {"scipy", "numba", "typer", "rich"},
    "import robustkit.testing": HEAVY | {"scipy", "numba", "typer"},
    "import robustkit.cli.main": HEAVY | {"scipy", "numba", "jinja2"},
    "from robustkit import registry; registry.load()": HEAVY | {"scipy", "numba", "typer"},
    "import robustkit.noise, robustkit.scanner, robustkit.scans, robustkit.adapters": HEAVY | {"scipy.stats"},
}


@pytest.mark.parametrize("statement", COSTS)
def test_import_pulls_in_nothing_heavy(statement):
    assert loaded_after(statement) & COSTS[statement] == set()


def test_pytest_run_with_the_plugin_loads_neither_numpy_nor_robustkit_parts(tmp_path):
    (tmp_path / "test_probe.py").write_text(
        "import sys\n"
        "def test_probe():\n"
        "    heavy = {'numpy', 'pandas', 'torch', 'tensorflow', 'numba', 'scipy'}\n"
        "    assert 'robustkit.pytest_plugin' in sys.modules\n"
        "    assert heavy & set(sys.modules) == set()\n"
        "    ours = {name for name in sys.modules if name.startswith('robustkit.')}\n"
        "    assert ours == {'robustkit.pytest_plugin'}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    command += ["-p", "robustkit.pytest_plugin", "--rootdir", str(tmp_path), str(tmp_path)]
    environment = {"PYTHONPATH": str(ROOT.parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
