"""`robustkit plugins`: what is installed, whether it keeps the protocol, and a new one to start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustkit.cli.options import JsonOption

if TYPE_CHECKING:
    from robustkit.extras import Extra
    from robustkit.registry import PluginInfo, Registry
    from robustkit.testing import PartReport

FAILED = 1

app = typer.Typer(help="List, check and write plugins.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def plugins(context: typer.Context, json_: JsonOption = False) -> None:
    """List, check and write plugins; alone, list them."""
    if context.invoked_subcommand is None:
        list_plugins(json_)


@app.command("list")
def list_plugins(json_: JsonOption = False) -> None:
    """List every plugin: version, what it offers, or why it is not in use; and the extras that are not installed."""
    from robustkit import registry
    from robustkit.cli.show import print_json
    from robustkit.extras import EXTRAS

    installed = registry.default()
    offered = [_offered(installed, plugin) for plugin in list(installed.plugins)]  # may put one out of use
    records = [_record(plugin, parts) for plugin, parts in zip(installed.plugins, offered, strict=True)]
    if json_:
        print_json({"plugins": records, "extras": [_extra(extra) for extra in EXTRAS]})
        return
    _print_list(records)
    for extra in EXTRAS:
        if not extra.installed:
            print(f"not installed: {extra.purpose}: {extra.install}")


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A plugin by the name in `robustkit plugins list`.")],
    images: Annotated[
        str | None, typer.Option("--images", help="Images its noise and models are made for (default: discs of water).")
    ] = None,
    levels: Annotated[str | None, typer.Option("--levels", help="Levels for its noise models, in their unit.")] = None,
    json_: JsonOption = False,
) -> None:
    """Run the conformance kit over all that a plugin offers; exit 1 when a check fails."""
    from robustkit import cases, registry
    from robustkit.cli import options
    from robustkit.cli.show import print_json
    from robustkit.testing import check_plugin

    shown = cases.find_images(images) if images else None
    reports = check_plugin(registry.default(), name, images=shown, levels=options.levels(levels, "--levels"))
    passed = all(report.passed for report in reports)
    if json_:
        print_json({"plugin": name, "passed": passed, "parts": [_part(report) for report in reports]})
    else:
        _print_check(name, reports)
    raise typer.Exit(0 if passed else FAILED)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="What users will type, as my-noise.")],
    kind: Annotated[str, typer.Option("--kind", help="noise, model, metric, hardener, recipe or scans.")],
    directory: Annotated[str, typer.Option("--directory", help="Where its folder is made.")] = ".",
    json_: JsonOption = False,
) -> None:
    """Write a plugin package that installs and passes its own tests at once."""
    from robustkit import registry
    from robustkit.cli.show import print_json
    from robustkit.scaffold import new_plugin

    installed = registry.default()
    taken = {plugin.name for plugin in installed.plugins}
    folder = new_plugin(name, kind, directory, taken=taken)
    if json_:
        print_json({"folder": str(folder), "files": sorted(str(p) for p in folder.rglob("*") if p.is_file())})
        return
    print(f"{folder}: next, pip install -e '{folder}[test]' && pytest {folder}")


def _offered(installed: Registry, plugin: PluginInfo) -> dict[str, list[str]]:
    if plugin.reason:
        return {}
    named = {kind: sorted(parts) for kind, parts in installed.offers(plugin.name).items()}
    return named | {kind: ["reader"] for kind in installed.openers(plugin.name)}


def _record(plugin: PluginInfo, offered: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "version": plugin.version,
        "package": plugin.package,
        "in_use": not plugin.reason,
        "offers": offered,
        "reason": plugin.reason,
        "warnings": list(plugin.warnings),
    }


def _extra(extra: Extra) -> dict[str, Any]:
    told = {"name": extra.name, "purpose": extra.purpose, "installed": extra.installed}
    return told if extra.installed else told | {"install": extra.install}


def _part(report: PartReport) -> dict[str, Any]:
    checks = [{"check": r.check, "passed": r.passed, "message": r.message} for r in report.results]
    return {"kind": report.kind, "name": report.name, "passed": report.passed, "checks": checks}


def _print_list(records: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("plugin", "version", "offers", "not in use because", title_justify="left")
    for record in records:
        offers = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in record["offers"].items())
        notes = "\n".join([record["reason"], *(f"note: it {warning}" for warning in record["warnings"])]).strip()
        table.add_row(*(escape(text) for text in (record["name"], record["version"], offers, notes)))
    Console(highlight=False).print(table)


def _print_check(name: str, reports: list[PartReport]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for report in reports:
        console.print(f"{report.kind} {report.name}: {'passed' if report.passed else 'FAILED'}", markup=False)
        for result in report.results:
            if not result.passed or result.message:
                mark = "  " if result.passed else "x "
                console.print(f"  {mark}{result.check}: {result.message}", markup=False, soft_wrap=True)
    failed = [report for report in reports if not report.passed]
    verdict = f"{len(failed)} of {len(reports)} parts fail" if failed else f"all {len(reports)} parts conform"
    console.print(f"{name}: {verdict}", markup=False)
