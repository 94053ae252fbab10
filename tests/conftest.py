"""Every test session has its own cache and no network."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Set before any test module is imported: some libraries read these once, at import.
_SESSION = Path(tempfile.mkdtemp(prefix="uniconv-bench-tests-"))
os.environ["UNICONV_BENCH_CACHE"] = str(_SESSION / "cache")
os.environ["HF_HOME"] = str(_SESSION / "huggingface")
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_SESSION, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """A connection to anywhere but this machine is an error that names the address."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise RuntimeError(f"a test tried to reach the network: {address}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """What a command sets for its own process is forgotten after the test."""
    before = os.environ.copy()
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNICONV_BENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def real() -> Path:
    """The folder of real dataset files; a test that asks for it is skipped without one."""
    from reading import official

    return official(".")


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """The two-layer random backbone, written once a session."""
    from uniconv_bench.progress import Silent
    from uniconv_bench.uniconv.backbone import checkpoint, find_backbone

    return Path(checkpoint(find_backbone("random-tiny"), Silent()))


@pytest.fixture
def tiny_tokenizer(tiny_folder: Path) -> Any:
    """Its tokenizer, one for each test."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture
def tiny_model(tiny_folder: Path) -> Any:
    """Its model in float32, one for each test."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder).eval()


@pytest.fixture
def form(tiny_tokenizer: Any) -> Any:
    """What it reads, in the lengths that tests train with."""
    from test_uniconv import INFERENCE

    from uniconv_bench.prompts import PromptFormat

    return PromptFormat(tiny_tokenizer, INFERENCE.session_tokens, INFERENCE.passage_tokens)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle of the toy task; not to be changed."""
    from bundling import CARD, TASKS, files

    from uniconv_bench.submission import pack

    folder = tmp_path_factory.mktemp("packed")
    (folder / "card.toml").write_text(CARD)
    return pack(folder / "card.toml", {"toy": files(folder / "in", hits=6)}, folder, TASKS)


@pytest.fixture
def bundle(packed: Path, tmp_path: Path) -> Path:
    """A sound bundle of this test alone."""
    return Path(shutil.copytree(packed, tmp_path / packed.name))
