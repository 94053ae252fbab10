"""Who may import whom (the design's layers), read from the source of every module.

Imports inside functions count; those under TYPE_CHECKING do not, since nothing runs them.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "uniconv_bench"
LAYERS = (
    {"errors", "locks", "replies", "stopping"},
    {"files", "fitting", "offline"},
    {"appended", "seals", "sealed"},
    {"artefacts"},
    {"conversation", "cards", "definitions", "formats", "lookup", "malformed", "system_cards"}
    | {"claim_cards", "extending", "statistics", "study_cards", "training_cards"},
    {"blocks", "passages"},
    {"corpus"},
    {
        "costs",
        "prompts",
        "reader",
        "system",
        "runs",
        "origin",
        "records",
        "registry",
        "progress",
        "outside",
    }
    | {"machine", "rendering"},
    {"outcomes", "turnscores"},
    {"seeds", "spread"},
    {"comparison", "footnotes", "plots"},
    {"attribution", "claims", "conventions", "evidence", "tables", "reproduce", "verdicts"},
    {"download", "unpack"},
    {
        "dataset",
        "rawfiles",
        "prepare",
        "mini",
        "whole",
        "task",
        "index",
        "encode",
        "decode",
        "chatserver",
        "endpoint",
        "metrics",
    }
    | {"approximate", "dense", "inventory"},
    {"fetch", "uniconv"},
    {"planning"},
    {"assembly"},
    {"dialogue", "evaluate", "evaluation", "export", "recording", "reasons", "report"} | {"stages"},
    {"ranking", "rescoring", "submission_cards", "irmetadata", "bundles", "examination"}
    | {"submission", "boardpage", "dotplot", "leaderboard", "readingroom", "site", "verification"},
    {"experiments", "estimate"},
    {"cardview", "deep", "display", "doctor", "evidenceview", "faults", "screen", "serving"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""From the bottom up: a unit imports from its own layer or below. A unit is a module or folder."""
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
SAME_UNIT = {"token_f1": "metrics"}
"""The `evaluate` module of token F1 is one thing with `metrics`, which goes through it."""
ONLY = {
    "tasks": {"errors", "files", "conversation", "formats", "blocks"},
    "baselines": {
        *("errors", "files", "cards", "conversation", "prompts", "system", "system_cards"),
        *("index", "encode", "dense", "decode", "task", "uniconv"),
    },
    "uniconv": {
        *("errors", "files", "offline", "appended", "seals", "artefacts", "cards", "system_cards"),
        "training_cards",
        *("conversation", "machine", "prompts", "reader", "system"),
        *("index", "encode", "dense", "decode", "task", "metrics"),
    },
}
"""What plug-ins may use beside themselves."""
NEVER = {
    "records": {"task", "system", "registry"},
    "tables": {"task", "system", "registry"},
    "reproduce": {"task", "system", "registry"},
    "statistics": {"task", "system", "registry", "records"},
    "conventions": {"task", "system", "registry"},
    "comparison": {"task", "system", "registry"},
    "claims": {"task", "system", "registry"},
    "attribution": {"task", "system", "registry"},
    "outcomes": {"task", "system", "registry"},
    "leaderboard": {"task", "registry"},
    "site": {"task", "registry"},
}
"""What may not be reached even through others: results must outlive code."""


def sources(root: Path) -> dict[str, str]:
    """Dotted module name -> source, with tasks/ and baselines/ where they are mounted."""
    found = {}
    for top, prefix in ((PACKAGE, ()), ("tasks", (PACKAGE,)), ("baselines", (PACKAGE,))):
        for path in sorted((root / top).rglob("*.py")):
            parts = [*prefix, *path.relative_to(root).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return found


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def imported(name: str, source: str, modules: Mapping[str, str]) -> Iterator[str]:
    """What a source imports of this project, bare `tasks` and `baselines` included."""
    is_package = any(module.startswith(f"{name}.") for module in modules)
    package = name if is_package else name.rpartition(".")[0]
    waiting: list[ast.AST] = [parsed(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
            names = [full if full in modules else base for full in names]
        else:
            continue
        yield from (n for n in names if n.split(".")[0] in (PACKAGE, "tasks", "baselines"))


def unit_of(module: str) -> str:
    """`uniconv_bench.uniconv.losses` -> `uniconv`; the package itself -> ``."""
    parts = module.split(".")
    unit = parts[1] if len(parts) > 1 else ""
    return SAME_UNIT.get(unit, unit)


def violations(modules: Mapping[str, str]) -> list[str]:
    """What breaks a rule, as `importer -> imported: why`."""
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for name, source in modules.items():
        unit = unit_of(name)
        if unit and unit not in LEVEL and unit not in ("tasks", "baselines"):
            found.append(f"{name}: in no layer; give it one in tests/test_layers.py")
            continue
        for target in imported(name, source, modules):
            arrow, other = f"{name} -> {target}", unit_of(target)
            if target.split(".")[0] != PACKAGE:
                found.append(f"{arrow}: import it as {PACKAGE}.{target}")
                continue
            if other in ("", unit):
                continue
            graph.setdefault(unit, set()).add(other)
            if other in ("tasks", "baselines"):
                found.append(f"{arrow}: the library reaches plug-ins through the registry's names")
            elif unit in ONLY:
                if other not in ONLY[unit]:
                    found.append(f"{arrow}: {unit} may import {', '.join(sorted(ONLY[unit]))}")
            elif other not in LEVEL or LEVEL[other] > LEVEL[unit]:
                found.append(f"{arrow}: a layer above")
    for unit, banned in NEVER.items():
        for other in sorted(reach(unit, graph) & banned):
            found.append(f"{unit} -> {other}: results must outlive code")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"a circle: {' -> '.join(error.args[1])}")
    return found


def reach(unit: str, graph: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [unit]
    while waiting:
        new = graph.get(waiting.pop(), set()) - seen
        seen |= new
        waiting.extend(new)
    return seen


def test_every_import_goes_down() -> None:
    modules = sources(ROOT)
    assert {"uniconv_bench.cli", "uniconv_bench.tasks.qrecc"} <= set(modules)
    assert violations(modules) == []


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("uniconv_bench.runs", "from uniconv_bench.task import Task", "a layer above"),
        ("uniconv_bench.runs", "import uniconv_bench.task", "a layer above"),
        ("uniconv_bench.runs", "from uniconv_bench import task", "a layer above"),
        ("uniconv_bench.runs", "def f():\n    from uniconv_bench.cli import app", "a layer above"),
        ("uniconv_bench.uniconv.new", "from ..evaluate import run", "uniconv may import"),
        ("uniconv_bench.evaluate", "from uniconv_bench.tasks import qrecc", "through the registry"),
        ("uniconv_bench.evaluate", "import uniconv_bench.baselines.bm25", "through the registry"),
        ("uniconv_bench.evaluate", "from tasks import qrecc", "import it as uniconv_bench.tasks"),
        ("uniconv_bench.tasks.new", "from uniconv_bench.cards import TaskCard", "tasks may import"),
        (
            "uniconv_bench.baselines.new",
            "from uniconv_bench import evaluate",
            "baselines may import",
        ),
        ("uniconv_bench.tables", "from uniconv_bench.registry import resolve", "outlive code"),
        ("uniconv_bench.tables", "from uniconv_bench import metrics, evaluate", "outlive code"),
        ("uniconv_bench.system", "from uniconv_bench import prompts", ""),
        ("uniconv_bench.helpers", "", "in no layer"),
    ],
)
def test_a_planted_import_is_found(name: str, source: str, expected: str) -> None:
    clean = sources(ROOT)
    planted = {**clean, name: f"{clean.get(name, '')}\n{source}\n"}
    new = [line for line in violations(planted) if line not in violations(clean)]
    if expected:
        assert any(expected in line for line in new), new
    else:
        assert new == []


def test_a_planted_circle_is_found() -> None:
    planted = sources(ROOT)
    planted["uniconv_bench.system"] += "\nimport uniconv_bench.runs\n"
    assert any(line.startswith("a circle") for line in violations(planted))


def test_type_checking_imports_do_not_count() -> None:
    planted = sources(ROOT)
    planted["uniconv_bench.runs"] += (
        "\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from uniconv_bench.task import Task\n"
    )
    assert violations(planted) == violations(sources(ROOT))
