"""What this machine has and lacks for the main command, each lack with its mend."""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from uniconv_bench.errors import UserError
from uniconv_bench.files import CACHE, cache_dir, require_writable
from uniconv_bench.machine import cores
from uniconv_bench.system import Progress

GIB = 1024**3
NEEDED_DISK = 2 * GIB
"""Converted backbone, prepared samples, embeddings and compiled code take about 1 GiB."""
NEEDED_MEMORY = 3 * GIB


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        state: `missing` and `broken` fail the check, `note` is worth knowing.
        detail: what was found.
        mend: what to do about it.
        needed: whether `run --task qrecc --system uniconv` needs it.
    """

    name: str
    state: Literal["ok", "note", "missing", "broken"]
    detail: str
    mend: str = ""
    needed: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def examine(progress: Progress) -> list[Check]:
    """Every check, in the order a person would mend them."""
    found = [check for look in LOOKS for check in _whole(look)]
    if found[0].state == "missing":  # the cache, without which adapters cannot be looked for
        return found
    return [*found, *_adapters(progress)]


def _whole(look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Its findings; what the system refuses it is one of them, and the other looks go on."""
    try:
        yield from look()
    except OSError as error:
        name = look.__name__.strip("_")
        yield Check(name, "missing", f"cannot be looked at: {error}", "mend that first")


def _python() -> Iterator[Check]:
    enough = sys.version_info >= (3, 11)
    yield Check(
        "python",
        "ok" if enough else "missing",
        f"{platform.python_version()} at {sys.executable}",
        "" if enough else "install Python 3.11 or newer",
        needed=True,
    )


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    wrong, right = [], 0
    for line in metadata.requires("uniconv-bench") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append((requirement, "not installed"))
            continue
        if requirement.specifier.contains(version, prereleases=True):
            right += 1
        else:
            wrong.append((requirement, f"{version} is installed"))
    for requirement, found in wrong:
        yield Check(
            f"package {requirement.name}",
            "missing",
            f"{found}, {requirement.specifier} is needed",
            f"pip install '{requirement}'",
            needed=True,
        )
    yield Check("packages", "ok", f"{right} of {right + len(wrong)} requirements met")
    constraints = Path(__file__).parent.parent / "constraints.txt"
    if constraints.is_file():
        yield _pins(constraints)


def _pins(constraints: Path) -> Check:
    """Results are reproducible to the digit only under the pinned versions."""
    other, count = [], 0
    for line in constraints.read_text(encoding="utf-8").splitlines():
        name, _, pinned = line.partition("#")[0].strip().partition("==")
        if not pinned:
            continue
        count += 1
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if version.partition("+")[0] != pinned:
            other.append(f"{name} {version} (pinned {pinned})")
    if other:
        return Check("pinned versions", "note", "differ: " + ", ".join(other), "make setup")
    return Check("pinned versions", "ok", f"none of {count} differs from constraints.txt")


def _device() -> Iterator[Check]:
    try:
        import torch
    except ImportError as error:
        yield Check("device", "missing", str(error), "pip install torch", needed=True)
        return
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = f"{properties.total_memory / GIB:.0f} GiB"
        yield Check("device", "ok", f"cuda: {properties.name}, {memory}; torch {torch.__version__}")
    else:
        yield Check("device", "ok", f"cpu; torch {torch.__version__}")


def _machine() -> Iterator[Check]:
    yield Check("cores", "ok", f"{cores()}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    enough = memory >= NEEDED_MEMORY
    mend = "" if enough else f"the main command needs about {NEEDED_MEMORY / GIB:.0f} GiB"
    yield Check("memory", "ok" if enough else "note", f"{memory / GIB:.1f} GiB", mend)


def _cache() -> Iterator[Check]:
    folder = cache_dir()
    try:
        require_writable(folder, CACHE)
    except UserError as error:
        yield Check("cache", "missing", f"{folder} {error.what}", error.mend or "", needed=True)
        return
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield Check("cache", "ok", f"{folder}, {size / GIB:.2f} GiB in use")
    free = shutil.disk_usage(folder).free
    # What is in the cache already need not be written again.
    if free + size >= NEEDED_DISK:
        yield Check("free disk", "ok", f"{free / GIB:.1f} GiB")
    else:
        mend = f"about {NEEDED_DISK / GIB:.0f} GiB are needed; point {CACHE} to a larger disk"
        yield Check("free disk", "missing", f"{free / GIB:.1f} GiB", mend, needed=True)


def _backbones() -> Iterator[Check]:
    from uniconv_bench.registry import system_card
    from uniconv_bench.uniconv.backbone import backbones, wheel_file

    main = system_card("uniconv")[0].backbone["sample"]
    for name, backbone in backbones().items():
        label, needed = f"backbone {name}", name == main
        if backbone.distribution is not None:
            try:
                path = wheel_file(backbone)
            except UserError as error:
                state: Literal["note", "missing"] = "missing" if needed else "note"
                yield Check(label, state, error.what, error.mend or "", needed)
            else:
                yield Check(label, "ok", f"{path}, as pinned", needed=needed)
        elif backbone.hub is not None:
            yield _hub(label, backbone.hub, backbone.hub_revision)


def _hub(label: str, repository: str, revision: str | None) -> Check:
    from huggingface_hub import try_to_load_from_cache

    configs = ("config.json", "adapter_config.json")
    there = (try_to_load_from_cache(repository, name, revision=revision) for name in configs)
    if any(isinstance(path, str) for path in there):
        return Check(label, "ok", f"{repository} is in the hub's cache")
    mend = f"hf download {repository} --revision {revision}"
    return Check(label, "note", "not here; some systems of profile full need it", mend)


def _adapters(progress: Progress) -> Iterator[Check]:
    from uniconv_bench.assembly import Setup

    label = "adapter of uniconv"
    try:
        setup = Setup.of("uniconv", "sample", progress)
        for name in setup.used_adapters():
            found = setup.find_adapter(name)
            if found is not None:
                yield Check(label, "ok", f"{name}: {found}, verified", needed=True)
            else:
                mend = "run trains it first; or: uniconv-bench train --system uniconv"
                yield Check(label, "note", f"{name}: none fits the card", mend)
    except UserError as error:
        yield Check(label, "missing", error.what, error.mend or "", needed=True)


def _optional() -> Iterator[Check]:
    if find_spec("faiss") is not None:
        yield Check("faiss", "ok", "installed")
    else:
        mend = "pip install 'uniconv-bench[cpu]'"
        yield Check("faiss", "note", "not installed; every index but exact needs it", mend)


def _indexes() -> Iterator[Check]:
    """What the largest corpus takes that is known of, with the backbone of the paper."""
    from uniconv_bench.planning import UNTIMED, dimension_of, index_costs, measured, passages_of
    from uniconv_bench.registry import system_card, task_card

    (task, _), (system, _) = task_card("qrecc"), system_card("uniconv")
    passages, dimension = passages_of(task, "full"), dimension_of(system, "full")
    if passages is None or dimension is None:
        return
    what = f"{passages:,} x {dimension:,} (uniconv on qrecc, full)"
    rates = measured()
    if math.isinf(rates.disk):
        yield Check("disk speed", "note", UNTIMED, "make room")
    for cost in index_costs(passages, dimension, rates):
        state: Literal["ok", "note"] = "note" if cost.lacks() else "ok"
        yield Check(f"index {cost.index}", state, f"{what}: {cost.told()}")


LOOKS = (_cache, _python, _packages, _device, _machine, _backbones, _optional, _indexes)
