"""Names or paths -> cards -> code. The one door to `tasks/`, `baselines/` and plug-ins.

Listing reads TOML only; the schemas are imported when a card is opened, code when it is asked for.
A plug-in is a package named by an entry point of group `uniconv_bench.plugins`, with cards in its
folders `tasks/`, `baselines/` and `experiments/`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from uniconv_bench.errors import UserError, blamed, unknown_name
from uniconv_bench.extending import extended, heading, merged, with_adapters
from uniconv_bench.files import digest_of, read_toml

if TYPE_CHECKING:
    from uniconv_bench.cards import TaskCard
    from uniconv_bench.study_cards import StudyCard
    from uniconv_bench.system_cards import SystemCard

Kind = Literal["task", "system", "study"]
GROUP = "uniconv_bench.plugins"
OURS = "uniconv_bench."
FOLDERS: dict[Kind, str] = {"task": "tasks", "system": "baselines", "study": "experiments"}
AD_HOC = "beir"
"""The module in `tasks/` that reads a task named by a folder of its data, and writes its card."""


def task_names() -> list[str]:
    """Names of all tasks that are shipped or plugged in."""
    return sorted(_cards("task"))


def system_names() -> list[str]:
    """Names of all systems that are shipped or plugged in."""
    return sorted(_cards("system"))


def study_names() -> list[str]:
    """Names of all studies that are shipped or plugged in."""
    return sorted(_cards("study"))


def headings(kind: Kind) -> list[dict[str, str]]:
    """Name, title and description of every card of a kind, without validating the rest."""
    rows = []
    for name, path in sorted(_cards(kind).items()):
        content = read_toml(path)
        rows.append({key: heading(content, key, path) for key in ("name", "title", "description")})
        _check_name(kind, rows[-1]["name"], name, path)
    return rows


def task_card(name_or_path: str) -> tuple[TaskCard, Path]:
    """A task's card and where it stands: its file, or the folder of data of an ad-hoc task."""
    from uniconv_bench.cards import TaskCard, parse_card

    path = _find("task", name_or_path)
    if path.is_dir():
        return parse_card(TaskCard, _ad_hoc(path), path), path
    card = parse_card(TaskCard, read_toml(path), path)
    _check_name("task", card.name, name_or_path, path)
    return card, path


def system_card(name_or_path: str) -> tuple[SystemCard, Path]:
    """A system's card, laid on the cards it `extends`, and where it stands."""
    from uniconv_bench.cards import parse_card
    from uniconv_bench.system_cards import SystemCard

    path = _find("system", name_or_path)
    card = parse_card(SystemCard, extended(path, _above), path)
    _check_name("system", card.name, name_or_path, path)
    return card, path


def varied(name_or_path: str, *changes: dict[str, Any]) -> tuple[SystemCard, Path]:
    """A system's card with changes laid on it as by cards that `extend` it, and where it stands.

    Args:
        changes: one upon the other, `name` and `title` included where it is to be told apart.
    """
    from uniconv_bench.cards import parse_card
    from uniconv_bench.system_cards import SystemCard

    path = _find("system", name_or_path)
    content = extended(path, _above)
    for change in changes:
        content = merged(content, change)
    return parse_card(SystemCard, with_adapters(content, path, _above), path), path


def study_card(name_or_path: str) -> tuple[StudyCard, Path]:
    """A study's card and where it stands."""
    from uniconv_bench.cards import parse_card
    from uniconv_bench.study_cards import StudyCard

    path = _find("study", name_or_path)
    card = parse_card(StudyCard, read_toml(path), path)
    _check_name("study", card.name, name_or_path, path)
    return card, path


def name_of(kind: Kind, name_or_path: str) -> str:
    """The name itself, or that on the card at a path."""
    if not _is_path(name_or_path):
        return name_or_path
    path = _find(kind, name_or_path)
    if path.is_dir():
        return path.name
    return heading(read_toml(path), "name", path)


def task_module(card: TaskCard, card_path: Path) -> ModuleType:
    """The reader of a task's raw files: the module beside its card, or that of its `reader`."""
    return _module(task_source(card, card_path))


def _module(source: Path) -> ModuleType:
    for package, folder in _folders("task"):
        if folder == source.parent:
            with blamed(f"import of {source.name}", source, ours=package.startswith(OURS)):
                return importlib.import_module(f"{package}.{source.stem}")
    return _load(source)


def task_source(card: TaskCard, card_path: Path) -> Path:
    """Where the reader of a task's raw files stands; a UserError if it is not there."""
    if card_path.is_dir():
        return _shipped_folder() / f"{AD_HOC}.py"
    beside = card_path.parent / f"{card.reader or card_path.stem}.py"
    source = beside
    if card.reader and not beside.is_file():
        source = _find("task", card.reader).with_suffix(".py")
    if not source.is_file():
        mend = "write it (CONTRIBUTING.md, Add a task), or name another task's as `reader`"
        raise UserError("no module beside the card", where=source, mend=mend)
    return source


def adapter_folders() -> list[Path]:
    """Folders that hold shipped adapters, one folder each."""
    return [path / "adapters" for _, path in _folders("system") if (path / "adapters").is_dir()]


def resolve(spec: str, beside: Path | None = None) -> Any:
    """The object that `module:Class` names.

    Args:
        spec: dotted module, colon, name in it.
        beside: a folder whose own `<module>.py` goes first: a card given by path brings its code.
    """
    name, _, attribute = spec.partition(":")
    if beside is not None and (beside / f"{name}.py").is_file():
        module = _load(beside / f"{name}.py")
    else:
        try:
            with blamed(f"import of {name}", None, ours=name.startswith(OURS)):
                module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            mend = "install it, or put it beside the card"
            raise UserError(f"no module {error.name!r}", where=spec, mend=mend) from error
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        absent = unknown_name(f"class in {name}", attribute, public)
        raise UserError(absent.what, where=module.__file__, mend=absent.mend)
    return getattr(module, attribute)


def _is_path(name: str) -> bool:
    return "\0" not in name and (name.endswith(".toml") or "/" in name or "\\" in name)


def _above(name: str, beside: Path) -> Path:
    """The system card that another one extends, by name or by a path from where that one is."""
    return (beside.parent / name).resolve() if _is_path(name) else _find("system", name)


def _find(kind: Kind, name_or_path: str) -> Path:
    if _is_path(name_or_path):
        return Path(name_or_path).expanduser().resolve()
    known = _cards(kind)
    if name_or_path not in known:
        if kind == "task" and name_or_path and Path(name_or_path).is_dir():
            return Path(name_or_path).resolve()
        if name_or_path in {there.name for there in Path().iterdir()}:
            what = f"unknown {kind} {name_or_path!r}, and no card, whose name ends in .toml"
            raise UserError(what, mend="name a card or a known one")
        raise unknown_name(kind, name_or_path, known)
    return known[name_or_path]


def _ad_hoc(folder: Path) -> dict[str, Any]:
    """The content of the card of a folder of data."""
    content: dict[str, Any] = _module(_shipped_folder() / f"{AD_HOC}.py").card(folder)
    if content["name"] in _cards("task"):
        what = f"the folder has the name of the task {content['name']!r}"
        raise UserError(what, where=folder, mend="rename it: records are kept by name")
    return content


def _shipped_folder() -> Path:
    """The folder `tasks/` of this project."""
    return _folders("task")[0][1]


def _cards(kind: Kind) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for _, folder in _folders(kind):
        for path in sorted(folder.glob("*.toml")):
            if path.stem in found:
                where = f"{found[path.stem]} and {path}"
                raise UserError(f"two {kind}s named {path.stem!r}", where=where, mend="rename one")
            found[path.stem] = path
    return found


@cache
def _folders(kind: Kind) -> tuple[tuple[str, Path], ...]:
    from importlib.metadata import entry_points

    folder = FOLDERS[kind]
    packages = [f"uniconv_bench.{folder}"]
    packages += [f"{entry.value}.{folder}" for entry in entry_points(group=GROUP)]
    found = []
    for package in packages:
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError as error:
            mend = f"install or remove the plug-in {package.partition('.')[0]!r}"
            raise UserError(f"no module {error.name!r}", where=f"{GROUP}", mend=mend) from error
        if spec is not None and spec.submodule_search_locations:
            found += [(package, Path(place)) for place in spec.submodule_search_locations]
    return tuple(found)


def _check_name(kind: Kind, name: str, asked: str, path: Path) -> None:
    """A card asked for by name has that name; one given by path may not take a registered one."""
    if not _is_path(asked):
        if name != asked:
            what = f"malformed card: field name: {name!r} is not the file's name {asked!r}"
            raise UserError(what, where=path, mend="rename one of them")
        return
    owner = _cards(kind).get(name)
    if owner is not None and not owner.samefile(path):
        what = f"field name: {name!r} is the name of another {kind}, whose results it would replace"
        raise UserError(what, where=path, mend="rename the card")


def _load(source: Path) -> ModuleType:
    """Imports a file that belongs to no package, once."""
    name = f"uniconv_bench_plugin_{source.stem}_{digest_of(str(source.absolute()))[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        raise UserError("not a Python file", where=source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with blamed(f"import of {source.name}", source):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
